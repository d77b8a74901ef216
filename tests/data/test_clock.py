"""A loader without data: what it asks a loop to draw, its weights, guards, states and ranks."""

from __future__ import annotations

import json
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.accumulate.ranks import on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import adabatch as ab
from adabatch.schedules import clamp, constant, geometric, steps
from adabatch.types import DrivenLoader

INPUTS = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.randn(64, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def net():
    torch.manual_seed(2)
    return nn.Linear(3, 1).double()


def loss_of(model, positions):
    chosen = torch.tensor(positions) % 64
    return nn.functional.mse_loss(model(INPUTS[chosen]), TARGETS[chosen])


class Run:
    """A loop without a loader; `updates` updates of it give the samples of each and train the model."""

    def __init__(self, schedule, *, coupling="sqrt", epochs=None, tokens=None, model=None, **arguments):
        self.model = net() if model is None else model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.clock = ab.Clock(**arguments)
        self.batches = ab.BatchSizeScheduler(
            self.optimizer, self.clock, schedule, coupling=coupling, epochs=epochs, tokens_per_sample=tokens
        )

    def update(self):
        seen = []
        for micro in self.clock.begin():
            (loss_of(self.model, micro.positions) * micro.weight).backward()
            seen.append(micro)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.batches.step()
        return seen

    def updates(self, number):
        return [self.update() for _ in range(number)]

    def state(self):
        parts = self.clock, self.batches, self.optimizer, self.model
        saved = [part.state_dict() for part in parts]
        return [*json.loads(json.dumps(saved[:2])), *saved[2:]]

    def load(self, states):
        for part, state in zip((self.clock, self.batches, self.optimizer, self.model), states, strict=True):
            part.load_state_dict(state)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@st.composite
def clocks(draw):
    size = draw(st.none() | st.integers(12, 40))
    ends = draw(st.sampled_from([{}, {"drop_last": True}, {"run_on": False}])) if size else {}
    batch_size = draw(st.integers(1, 12))
    growth = draw(
        st.sampled_from(
            [constant(), geometric(2, ab.updates(2)), geometric(1.5, ab.samples(11)), steps("0:6 20:3 31:9")]
        )
    )
    return clamp(growth, maximum=size or 60), {
        "batch_size": growth.initial or batch_size,
        "micro_batch_size": draw(st.none() | st.integers(1, 12)),
        "dataset_size": size,
        **ends,
    }


@settings(max_examples=200, deadline=None)
@given(drawn=clocks(), world=st.integers(1, 4))
def test_draws_are_a_naive_cut_of_the_plan(drawn, world):
    """All ranks' micro-batches are the batch; each has its share of the mean; every rank has as many."""
    schedule, arguments = drawn
    size, mode = arguments["dataset_size"], {k: v for k, v in arguments.items() if k in ("drop_last", "run_on")}
    epochs = None if size is None else 3
    ranks = [Run(schedule, epochs=epochs, **arguments) for _ in range(world)]
    for rank, run in enumerate(ranks):
        run.clock._line.sharing = lambda rank=rank: (None, rank, world)
    run_on = size is not None and mode.get("run_on", not mode.get("drop_last"))
    plan = schedule.plan(
        dataset_size=size,
        epochs=epochs,
        batch_size=arguments["batch_size"],
        run_on=run_on,
        drop_last=mode.get("drop_last", False),
    )
    for update in range(20 if epochs is None else plan.updates):
        batch = plan.batch(update)
        assert {run.clock.batch_size for run in ranks} == {batch.requested}
        peeks = [run.clock.peek() for run in ranks]
        shares = [list(run.clock.begin()) for run in ranks]
        assert peeks == [share[0].positions for share in shares]
        assert peeks == [run.clock.peek() for run in ranks]  # of the batch under way
        assert {run.clock.current.clock for run in ranks} == {batch.clock}
        count = math.ceil(math.ceil(batch.size / world) / (arguments["micro_batch_size"] or 10**6))
        assert [[(m.index, m.count, m.is_last) for m in share] for share in shares] == [
            [(i, count, i == count - 1) for i in range(count)]
        ] * world
        counted = [micro.positions for share in shares for micro in share if micro.weight]
        assert sorted(p for positions in counted for p in positions) == [*range(batch.clock, batch.clock + batch.size)]
        for rank, share in enumerate(shares):
            assert all(p % world == rank for micro in share if micro.weight for p in micro.positions)
            sizes = [micro.size if micro.weight else 0 for micro in share]
            assert max(sizes) - min(sizes) <= 1
            assert max(sizes) <= (arguments["micro_batch_size"] or batch.size)
            assert all(micro.size == len(micro.positions) >= 1 for micro in share)
            weights = [micro.weight for micro in share]
            assert weights == [n * world / batch.size for n in sizes]
        assert math.isclose(sum(m.weight for share in shares for m in share) / world, 1)
        for run in ranks:
            run.optimizer.step()
            run.batches.step()


def test_weighted_micro_batches_are_the_gradient_of_the_whole_batch():
    """Also where micro-batches do not divide it: the same weights as training on whole batches, within rounding."""
    schedule = steps("0:7 30:13")
    whole, cut = (Run(schedule, batch_size=7, micro_batch_size=micro) for micro in (None, 3))
    assert [len(draws) for draws in whole.updates(9)] == [1] * 9
    assert [[micro.size for micro in draws] for draws in cut.updates(9)][::5] == [[2, 2, 3], [2, 3, 2, 3, 3]]
    for one, other in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_the_lr_follows_as_with_a_loader():
    """Traced at the optimizer: the LR in force is the root of the growth."""
    run, seen = Run(geometric(2, ab.tokens(800), maximum=16), tokens=100, batch_size=4), []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    sizes = [sum(micro.size for micro in draws) for draws in run.updates(6)]
    assert sizes == [4, 4, 8, 16, 16, 16]
    assert seen == pytest.approx([0.01 * math.sqrt(size / 4) for size in sizes])
    assert run.batches.last_lr == [0.02]


def test_a_loader_of_the_same_sizes_trains_the_same():
    """A clock and its positions in place of an `ab.DataLoader` without shuffling: the same weights bit for bit."""
    schedule = geometric(2, ab.epochs(1), maximum=16)
    run = Run(schedule, epochs=3, batch_size=4, dataset_size=64, run_on=False)
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = ab.DataLoader(torch.utils.data.TensorDataset(INPUTS, TARGETS), 4)
    batches = ab.BatchSizeScheduler(optimizer, loader, schedule, coupling="sqrt", epochs=3)
    for inputs, targets in loader.training():
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        batches.step()
    run.updates(run.batches.plan.updates)
    assert same(model, run.model)


@settings(max_examples=60, deadline=None)
@given(drawn=clocks(), stop=st.integers(0, 12), micro=st.none() | st.integers(1, 9))
def test_a_resumed_run_is_the_unbroken_one(drawn, stop, micro):
    """Bit for bit; with other micro-batches the same samples."""
    schedule, arguments = drawn
    epochs = None if arguments["dataset_size"] is None else 4
    whole = Run(schedule, epochs=epochs, **arguments)
    number = 12 if epochs is None else min(12, whole.batches.plan.updates)
    stop = min(stop, number)
    expected = whole.updates(number)
    first = Run(schedule, epochs=epochs, **arguments)
    first.updates(stop)
    again = Run(schedule, epochs=epochs, **arguments)
    again.load(first.state())
    assert again.updates(number - stop) == expected[stop:]
    assert same(whole.model, again.model)
    other = Run(schedule, epochs=epochs, **(arguments | {"micro_batch_size": micro}))
    other.load(first.state())
    drawn_by = [[p for m in draws for p in m.positions] for draws in other.updates(number - stop)]
    assert drawn_by == [[p for m in draws for p in m.positions] for draws in expected[stop:]]


def test_a_batch_that_is_under_way_is_begun_again_from_its_state():
    run = Run(steps("0:8 100:16"), batch_size=8, micro_batch_size=3)
    run.update()
    draws = run.clock.begin()
    first = next(draws)
    run.clock.load_state_dict(run.clock.state_dict())
    assert (run.clock.current, run.clock.part) == (None, None)
    with pytest.raises(RuntimeError, match="micro-batches of a batch must not be taken once it is done; call `begin"):
        next(draws)
    assert next(run.clock.begin()) == first
    assert run.clock.state_dict()["clock"] == 8


# Guards


def test_the_next_batch_begins_after_the_one_before():
    run = Run(steps("0:8 100:16"), batch_size=8, micro_batch_size=4)
    draws = list(run.clock.begin())
    message = (
        r"`begin\(\)` of Clock was called before the batch at sample 0 was done; call `step\(\)` of the BatchSizeSch"
    )
    with pytest.raises(RuntimeError, match=message):
        run.clock.begin()
    loss_of(run.model, draws[0].positions).backward()
    run.optimizer.step()
    with pytest.raises(
        RuntimeError, match=r"`step\(\)` of BatchSizeScheduler was not called after `optimizer.step\(\)`"
    ):
        run.clock.begin()
    with pytest.raises(RuntimeError, match=r"`step\(\)` of BatchSizeScheduler was not called after"):
        run.clock.load_state_dict(run.clock.state_dict())
    run.batches.step()
    assert next(run.clock.begin()).positions == range(8, 12)


def test_a_step_needs_a_batch():
    run = Run(steps("0:8 100:16"), batch_size=8)
    with pytest.raises(RuntimeError, match="was called before the first batch"):
        run.batches.step()
    run.update()
    with pytest.raises(RuntimeError, match="was called twice for one batch"):
        run.batches.step()


@pytest.mark.parametrize("taken", [0, 1])
def test_no_step_before_the_last_micro_batch(taken):
    run = Run(steps("0:8 100:16"), batch_size=8, micro_batch_size=4)
    draws = run.clock.begin()
    for _ in range(taken):
        loss_of(run.model, next(draws).positions).backward()
    for parameter in run.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(RuntimeError, match=rf"came after micro-batch {taken} of 2; step after the last one"):
        run.optimizer.step()
    with pytest.raises(RuntimeError, match=rf"was called after micro-batch {taken} of 2"):
        run.batches.step()


def test_a_skipped_step_counts_as_passed():
    run = Run(steps("0:8 100:16"), batch_size=8)
    list(run.clock.begin())
    run.batches.step()
    assert run.clock.clock == 8


def test_no_update_comes_after_the_plan():
    run = Run(geometric(2, ab.epochs(1)), epochs=2, batch_size=4, dataset_size=10)
    sizes = [sum(micro.size for micro in draws) for draws in run.updates(run.batches.plan.updates)]
    assert sizes == [4, 4, 4, 8]
    message = r"`begin\(\)` of Clock came after the plan's end, sample 20; loop over `range\(batches.plan.updates\)`"
    with pytest.raises(RuntimeError, match=message):
        run.clock.begin()


def test_a_clock_without_a_scheduler():
    clock = ab.Clock(batch_size=5, micro_batch_size=2)
    assert [micro.size for micro in clock.begin()] == [1, 2, 2]
    assert (clock.clock, clock.current) == (5, None)
    clock.batch_size = 3
    draws = clock.begin()
    next(draws)
    clock.batch_size = 4
    state = clock.state_dict()
    with pytest.raises(RuntimeError, match="before the batch at sample 5 was done; take all its micro-batches"):
        clock.begin()
    assert [micro.size for micro in draws] == [2]
    assert sum(micro.size for micro in clock.begin()) == 4
    again = ab.Clock(batch_size=5, micro_batch_size=2)
    again.load_state_dict(state)
    assert [sum(micro.size for micro in again.begin()) for _ in range(2)] == [3, 4]
    assert isinstance(clock, DrivenLoader)
    assert (clock.left, clock.epoch, clock.drop_last, clock.run_on, clock.dataset_size) == (None, 0, False, False, None)


def test_a_scheduler_lets_go():
    run = Run(steps("0:8 8:16"), batch_size=8)
    run.update()
    with pytest.raises(ValueError, match="`batch_size` must not be set while a schedule drives this loader"):
        run.clock.batch_size = 4
    run.batches.close()
    assert (run.clock.batch_size, run.clock.driver) == (16, None)
    run.clock.batch_size = 4
    assert sum(micro.size for micro in run.clock.begin()) == 4


def test_by_samples_counts_with_a_clock():
    clock = ab.Clock(batch_size=4)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.2, total_iters=4)
    batches = ab.BatchSizeScheduler(optimizer, clock, steps("0:4 4:8"), coupling="none")
    lr, seen = ab.by_samples(warmup, clock), []
    for _ in range(4):
        list(clock.begin())
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        batches.step()
        lr.step()
    assert seen == pytest.approx([0.2, 0.4, 0.8, 1.0])


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1, got 0"),
        ({"batch_size": 1.5}, TypeError, "`batch_size` must be a whole number, got 1.5"),
        (
            {"batch_size": 9, "dataset_size": 8},
            ValueError,
            "`batch_size` must be at most the data set's 8 samples, got",
        ),
        ({"micro_batch_size": 0}, ValueError, "`micro_batch_size` must be at least 1, got 0; None trains on whole"),
        ({"dataset_size": 0}, ValueError, "`dataset_size` must be at least 1, got 0"),
        ({"drop_last": True}, ValueError, "`drop_last` must come with `dataset_size`, got it alone; leave it out"),
        ({"run_on": True}, ValueError, "`run_on` must come with `dataset_size`, got it alone; leave it out"),
        ({"run_on": "no", "dataset_size": 8}, TypeError, "`run_on` must be True or False, got 'no'"),
        ({"run_on": True, "drop_last": True, "dataset_size": 8}, ValueError, "`drop_last` and `run_on` must not both"),
    ],
)
def test_bad_arguments(arguments, kind, message):
    with pytest.raises(kind, match=message):
        ab.Clock(**({"batch_size": 4} | arguments))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"`state_dict` must be what `state_dict\(\)` of a Clock gave \(format 1\), got \['batch_size'"),
        ({"seed": 3}, "of a Clock gave"),
        ({"dataset_size": 9}, "`state_dict` must be of a clock with the same `dataset_size`: it is 9 there and 8 here"),
        ({"run_on": False}, "the same `run_on`: it is False there and True here; resume with the same arguments"),
        ({"clock": -1}, "`clock` must be at least 0, got -1"),
        ({"batch_size": 9}, "`batch_size` must be at most the data set's 8 samples, got 9"),
        ({"next_batch_size": 0}, "`batch_size` must be at least 1, got 0"),
    ],
)
def test_bad_states_change_nothing(change, message):
    clock = ab.Clock(batch_size=2, dataset_size=8)
    list(clock.begin())
    before = clock.state_dict()
    with pytest.raises(ValueError, match=message):
        clock.load_state_dict(before | change)
    assert clock.state_dict() == before == json.loads(json.dumps(before))
    with pytest.raises(TypeError, match="`state_dict` must be a dict from `state_dict"):
        clock.load_state_dict(None)


# With `accumulate`


def test_accumulate_takes_a_clock():
    """The same weights as `begin()` gives, epoch by epoch, and after a batch that ran out of memory."""
    schedule = geometric(2, ab.epochs(1), maximum=16)
    arguments = {"batch_size": 5, "micro_batch_size": 3, "dataset_size": 20, "run_on": False}
    by_hand, run = Run(schedule, epochs=3, **arguments), Run(schedule, epochs=3, **arguments)
    by_hand.updates(by_hand.batches.plan.updates)
    failed, epochs = [], []

    def train():
        for epoch in range(3):
            epochs.append(0)
            for micro in ab.accumulate(run.clock, run.model):
                with micro as positions:
                    loss = loss_of(run.model, positions) * micro.weight
                    if epoch == 1 and micro.is_last and not failed:
                        failed.append(micro)
                        raise torch.OutOfMemoryError("CUDA out of memory")
                    loss.backward()
                if micro.is_last:
                    run.optimizer.step()
                    run.optimizer.zero_grad()
                    run.batches.step()
                    epochs[-1] += 1

    with pytest.warns(
        RuntimeWarning, match="memory ran out on this rank with micro-batches of 3 samples; the batch at"
    ):
        train()
    assert epochs == [4, 2, 2]
    assert run.clock.micro_batch_size == 2
    for one, other in zip(by_hand.model.parameters(), run.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_parts_have_no_end_without_one():
    clock = ab.Clock(batch_size=4)
    parts = clock.parts()
    assert [next(parts)[0] for _ in range(3)] == [range(0, 4), range(4, 8), range(8, 12)]
    with pytest.raises(RuntimeError, match="`again` needs a batch whose micro-batches are being handed out"):
        clock.parts().again()


# Ranks


def they_train_as_one(rank, world):
    """Uneven shares under DistributedDataParallel, synchronised on the last draw: the weights of one process."""
    alone = Run(steps("0:5 10:9"), batch_size=5, micro_batch_size=2)
    alone.clock._line.sharing = lambda: (None, 0, 1)
    alone.updates(5)
    model = DistributedDataParallel(net())
    run = Run(steps("0:5 10:9"), model=model, batch_size=5, micro_batch_size=2)
    for _ in range(5):
        for micro in run.clock.begin():
            model.require_backward_grad_sync = micro.is_last
            (loss_of(model, micro.positions) * micro.weight).backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.batches.step()
    for one, other in zip(alone.model.parameters(), model.module.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def they_must_agree(rank, world):
    clock = ab.Clock(batch_size=4 + rank)
    with pytest.raises(ValueError, match="`batch_size` must be the same on all ranks, got 4 on rank 0 and 5 on rank 1"):
        clock.begin()


@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, they_train_as_one, they_must_agree)


@pytest.mark.world_size(3)
@pytest.mark.slow
def test_three_ranks():
    on_ranks(3, they_train_as_one)


def resumed_there(rank, world, *, state, expected):
    run = Run(steps("0:5 10:9"), batch_size=5, micro_batch_size=2)
    run.clock.load_state_dict(state[0])
    run.batches.load_state_dict(state[1])
    draws = run.clock.begin()
    seen = sorted(p for micro in draws if micro.weight for p in micro.positions)
    assert seen == [p for p in expected if p % world == rank]


@pytest.mark.world_size(2)
def test_another_number_of_ranks_goes_on():
    run = Run(steps("0:5 10:9"), batch_size=5)
    run.updates(2)
    state = run.state()
    ((draw,),) = run.updates(1)
    on_ranks(2, partial(resumed_there, state=state, expected=list(draw.positions)))
