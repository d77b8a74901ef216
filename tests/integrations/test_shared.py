"""Lengths of trainings against counting; LR schedulers; random states; errors about frameworks."""

from __future__ import annotations

import io
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch.integrations._shared import GrowingLR, RandomStates, Update, check_hooks, length_of, nothing_of

FRAMEWORKS = ("transformers", "lightning", "accelerate", "skorch", "ignite")


def test_importing_the_package_loads_no_framework():
    code = (
        "import sys, adabatch as ab, adabatch.integrations\nfor name in ab.__all__: getattr(ab, name)\n"
        f"print([each for each in {FRAMEWORKS} if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_missing_framework_is_named_with_its_extra(name, monkeypatch):
    for part in [each for each in sys.modules if each.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, part)  # other tests may have imported them
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"adabatch.integrations.{name}", raising=False)
    with pytest.raises(
        ModuleNotFoundError, match=rf"adabatch.integrations.{name} needs .*; run: pip install 'adabatch\["
    ):
        __import__(f"adabatch.integrations.{name}")


def counted(size, batch_of, *, drop_last, until):
    """The updates that start before `until`, one by one."""
    clock = updates = 0
    while clock < until:
        end = (clock // size + 1) * size
        if drop_last and clock + batch_of(clock) > end:
            clock = end
            continue
        updates, clock = updates + 1, min(clock + batch_of(clock), end)
    return updates


@settings(deadline=None, max_examples=50)
@given(
    size=st.integers(8, 60), base=st.integers(1, 8), every=st.integers(5, 90), tenths=st.integers(1, 45),
    drop_last=st.booleans(),
)  # fmt: skip
def test_lengths_in_epochs(size, base, every, tenths, drop_last):
    loader = ab.DataLoader(torch.arange(size), batch_size=base, drop_last=drop_last)
    schedule = ab.schedules.geometric(2, ab.samples(every), maximum=max(base, size // 2))
    found = length_of(schedule, loader, base=base, epochs=tenths / 10)
    end = min(round(tenths / 10 * size), found.epochs * size)

    def grown(clock):
        return min(base * 2 ** (clock // every), max(base, size // 2))

    assert found.epochs == -(-tenths // 10)
    assert found.updates == counted(size, grown, drop_last=drop_last, until=end)
    assert found.base_updates == counted(size, lambda clock: base, drop_last=drop_last, until=end)


@settings(deadline=None, max_examples=50)
@given(size=st.integers(8, 60), base=st.integers(1, 8), every=st.integers(5, 90), updates=st.integers(1, 60))
def test_lengths_in_updates(size, base, every, updates):
    for schedule in (
        ab.schedules.geometric(2, ab.samples(every), maximum=max(base, size // 2)),
        ab.schedules.clamp(ab.schedules.geometric(2, ab.samples(every)), maximum=max(base, size // 2)),
    ):
        loader = ab.DataLoader(torch.arange(size), batch_size=base)
        found = length_of(schedule, loader, base=base, updates=updates)
        assert found.updates == updates
        assert found.plan.clock_of(updates) == found.end
        assert found.epochs == -(-found.end // size)


def test_streams_need_a_length():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(9))

    loader = ab.DataLoader(Stream(), batch_size=2)
    found = length_of(ab.schedules.geometric(2, ab.samples(8), maximum=4), loader, base=2, updates=6)
    assert (found.end, found.base_updates) == (16, 8)
    with pytest.raises(ValueError, match="`max_steps` must be set where the data has no length"):
        length_of(ab.schedules.constant(), loader, base=2, epochs=3)


def growing(total=8):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.8)
    loader = ab.DataLoader(TensorDataset(torch.ones(8, 1)), batch_size=2)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.geometric(2, ab.epochs(1)), epochs=2)
    linear = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=total)
    return model, optimizer, loader, batches, GrowingLR(linear, loader, batches, base=2)


def passed(model, optimizer, loader, batches, lr):
    for (inputs,) in loader:
        optimizer.zero_grad()
        model(inputs).sum().backward()
        optimizer.step()
        batches.step()
        yield lr.get_last_lr()[0]
        lr.step()


def test_an_lr_scheduler_follows_the_data_and_shows_the_lr_in_force():
    made = growing()
    lr = made[-1]
    assert [*passed(*made), *passed(*made)] == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.8, 0.4])
    assert lr.last_epoch == 8  # an attribute of the LR scheduler
    with pytest.raises(AttributeError, match="nothing"):
        lr.nothing  # noqa: B018


def test_the_state_of_an_lr_scheduler():
    made, other = growing(), growing()
    seen = passed(*made)
    next(seen), next(seen)
    made[-1].step()
    for mine, theirs in zip(other[2:], made[2:], strict=True):
        mine.load_state_dict(theirs.state_dict())
    other[1].load_state_dict(made[1].state_dict())
    assert [*passed(*other)] == pytest.approx([0.6, 0.5])
    with pytest.raises(ValueError, match="`state` must be of an LR scheduler in a training with a growing batch"):
        other[-1].load_state_dict(made[-1].lr_scheduler.state_dict())


def test_a_pickled_lr_scheduler_is_the_users_own():
    lr = growing()[-1]
    assert isinstance(pickle.loads(pickle.dumps(lr)), torch.optim.lr_scheduler.LinearLR)


def test_random_states_survive_a_checkpoint():
    def drawn():
        return random.random(), np.random.rand(), torch.rand(1).item(), np.random.randn()

    np.random.randn()  # half of a pair, which is kept
    states, file = RandomStates(torch.device("cpu")), io.BytesIO()
    torch.save(states.saved(), file)
    first = drawn()
    file.seek(0)
    RandomStates(torch.device("cpu"), torch.load(file, weights_only=True)).restore()
    assert drawn() == first
    states.restore()
    assert drawn() == first


def test_an_update_is_iterated_once():
    loader = ab.DataLoader(torch.arange(4), batch_size=4, micro_batch_size=2)
    micros = ab.accumulate(loader)
    update = Update(micros)
    found = []
    for micro in update:
        with micro as values:
            found += values.tolist()
    assert found == [0, 1, 2, 3]
    assert Update(micros).is_over
    with pytest.raises(RuntimeError, match="`batch` must be iterated once"):
        next(iter(update))


def test_hooks():
    class Frame:
        def hook(self, one, two, three=3):
            pass

        def wrapped(self, *args):
            pass

    check_hooks(Frame(), {"hook": ("one", "two"), "wrapped": ("one",)}, package="torch", works="2")
    for hooks in ({"hook": ("two",)}, {"missing": ()}):
        with pytest.raises(
            TypeError, match=r"`torch` must have `Frame\.(hook|missing)\(.*got torch .*; install torch 2"
        ):
            check_hooks(Frame(), hooks, package="torch", works="2")
    with pytest.raises(TypeError, match="got nowhere of an unknown version"):
        check_hooks(Frame(), {"missing": ()}, package="nowhere", works="2")


def test_micro_batches_of_an_update_are_placed_as_they_are_taken():
    loader = ab.DataLoader(torch.arange(4.0), batch_size=4, micro_batch_size=2)
    update = Update(ab.accumulate(loader, torch.nn.Linear(1, 1)), lambda data: data + 10)
    found = []
    for micro in update:
        with micro as data:
            found += data.tolist()
        assert micro.size == 2
        assert micro.weight == 0.5
    assert found == [10.0, 11.0, 12.0, 13.0]


def test_a_loss_of_nothing_reaches_every_parameter():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    model[1].bias.requires_grad_(False)
    loss = nothing_of(model)
    loss.backward()
    assert loss.item() == 0
    assert [None if p.grad is None else p.grad.abs().sum().item() for p in model.parameters()] == [0, 0, 0, None]
