"""Loaders of another make: their batches are micro-batches, weighted exactly, growing without a new loader."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.accumulate.ranks import on_ranks
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

import adabatch as ab
from adabatch.accumulate._foreign import count_samples, delivered
from adabatch.types import DrivenLoader


def data(count):
    generator = torch.Generator().manual_seed(0)
    make: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    return TensorDataset(torch.randn(count, 3, **make), torch.randn(count, 1, **make))


def model_of():
    torch.manual_seed(1)
    return torch.nn.Linear(3, 1).double()


def loss_of(model, batch):
    return torch.nn.functional.mse_loss(model(batch[0]), batch[1])


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def seen_by(loader, model, *, each=lambda: None):
    """Per update: the samples seen, and the gradient."""
    found, batch = [], []
    for micro in ab.accumulate(loader, model):
        with micro as part:
            (loss_of(model, part) * micro.weight).backward()
        batch += [part] if micro.size else []
        if micro.is_last:
            found.append(
                ([torch.cat(column) for column in zip(*batch, strict=True)] if batch else None, gradient(model))
            )
            batch = []
            model.zero_grad()
            each()
    return found


def check_gradients(found):
    whole = model_of()
    for batch, grad in found:
        whole.zero_grad()
        loss_of(whole, batch).backward()
        torch.testing.assert_close(grad, gradient(whole), rtol=1e-10, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_weights_are_exact_with_ragged_tails(draw):
    count = draw.draw(st.integers(1, 40), label="samples")
    micro = draw.draw(st.integers(1, count), label="micro-batch size")
    number = draw.draw(st.integers(1, count // micro), label="micro-batches in an update")
    theirs = DataLoader(data(count), batch_size=micro, drop_last=draw.draw(st.booleans(), label="drop_last"))
    loader = ab.micro_batches(theirs, batch_size=micro * number)
    assert isinstance(loader, DrivenLoader)
    found = seen_by(loader, model_of())
    sizes = [len(batch[0]) for batch, _ in found]
    assert sizes[:-1] == [micro * number] * (len(sizes) - 1)
    assert sum(sizes) == loader.dataset_size == loader.clock == delivered(theirs, 1)
    assert torch.equal(torch.cat([batch[0] for batch, _ in found]), data(count).tensors[0][: sum(sizes)])
    check_gradients(found)


def test_growth_without_another_loader():
    theirs = DataLoader(data(50), batch_size=4, shuffle=True)
    model = model_of()
    loader = ab.micro_batches(theirs, batch_size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.geometric(2, ab.epochs(1)), epochs=3)
    sizes, counts, lrs = [], [], []
    for _ in range(3):
        for micro in ab.accumulate(loader, model):
            with micro as batch:
                (loss_of(model, batch) * micro.weight).backward()
            if micro.is_last:
                sizes.append((loader.current.requested, loader.current.size))
                counts.append(micro.count)
                optimizer.step()
                optimizer.zero_grad()
                batches.step()
                lrs.append(batches.last_lr[0])
    assert sizes == [(8, 8)] * 6 + [(8, 2)] + [(16, 16)] * 3 + [(16, 2)] + [(32, 32), (32, 18)]
    assert counts == [2] * 6 + [1] + [4] * 3 + [1] + [8, 5]
    assert len(sizes) == batches.plan.updates
    assert lrs == pytest.approx([0.01] * 7 + [0.02] * 4 + [0.04] * 2)
    assert loader.clock == 150
    batches.close()
    assert loader.batch_size == 32


class Sentences(Dataset):
    """Samples of different length, padded by a `collate_fn`: such batches cannot be merged."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.arange(1, 2 + index)


def pad(samples):
    return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)


def test_padded_batches_with_token_weights():
    theirs = DataLoader(Sentences(), batch_size=3, collate_fn=pad)
    loader, model = ab.micro_batches(theirs, batch_size=6), torch.nn.Embedding(12, 1, padding_idx=0).double()
    found = []
    for micro in ab.accumulate(loader, model):
        with micro as tokens:
            (model(tokens).sum() * micro.weigh((tokens > 0).sum())).backward()
        if micro.is_last:
            found.append(model.weight.grad[:, 0].clone())
            model.zero_grad()
    for first, grad in zip((0, 6), found, strict=True):
        tokens = torch.cat([Sentences()[index] for index in range(first, min(first + 6, 10))])
        wanted = torch.bincount(tokens, minlength=12).double() / len(tokens)
        torch.testing.assert_close(grad, wanted, rtol=1e-10, atol=1e-12)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(23.0).double()[:, None].expand(23, 3))


def test_a_stream_without_a_length():
    loader = ab.micro_batches(DataLoader(Stream(), batch_size=4), batch_size=8)
    assert loader.dataset_size is None
    model = model_of()
    sizes = []
    for _ in range(2):
        for micro in ab.accumulate(loader, model):
            with micro:
                pass
            if micro.is_last:
                sizes.append(loader.part.batch.size)
    assert sizes == [8, 8, 7] * 2
    assert (loader.clock, loader.epoch) == (46, 2)


def test_like_webdataset_and_dali():
    """A generator function's iterable of tuples, and lists of dictionaries."""

    class Once:
        def __iter__(self):
            for index in range(5):
                yield [{"data": torch.full((4, 2), float(index)), "label": torch.zeros(4)}]

    loader = ab.micro_batches(Once(), batch_size=8, micro_batch_size=4, dataset_size=20)
    counts = [
        (micro.index, micro.count, micro.size) for micro in ab.accumulate(loader, model_of()) if micro.__enter__()
    ]
    assert counts == [(0, 2, 4), (1, 2, 4)] * 2 + [(0, 1, 4)]


def test_batches_of_other_sizes():
    theirs = [torch.zeros(size, 3, dtype=torch.float64) + size for size in (4, 3, 4, 2, 1)]
    loader, model = ab.micro_batches([(x, x[:, :1]) for x in theirs], batch_size=8, micro_batch_size=4), model_of()
    with pytest.warns(RuntimeWarning, match="batches of other sizes, 3 and 4 samples; .* batch size / 4 of them"):
        found = seen_by(loader, model)
    assert [len(batch[0]) for batch, _ in found] == [7, 6, 1]
    assert loader.clock == 14
    check_gradients(found)


def test_the_batch_size_may_be_assigned():
    loader = ab.micro_batches(DataLoader(data(40), batch_size=4), batch_size=4)

    def grow():
        loader.batch_size *= 2

    with pytest.raises(ValueError, match="the data set's 40 samples, got 64; `batch_size=40` takes"):
        seen_by(loader, model_of(), each=grow)
    loader = ab.micro_batches(DataLoader(data(40), batch_size=4), batch_size=4)
    loader.batch_size = 20
    assert [len(batch[0]) for batch, _ in seen_by(loader, model_of())] == [20, 20]


# State.


@settings(max_examples=12, deadline=None)
@given(stop=st.integers(0, 11), own=st.booleans())
@example(stop=8, own=True)
def test_resume(stop, own):
    def run(updates, state=None):
        torch.manual_seed(3 if state is None else 99)
        generator = torch.Generator().manual_seed(5) if own else None  # in a new process it stands at its start
        theirs = DataLoader(data(22), batch_size=2, shuffle=True, generator=generator)
        loader = ab.micro_batches(theirs, batch_size=4)
        model = model_of()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.geometric(2, ab.epochs(1)), epochs=3)
        if state is not None:
            if state["loader"]["micro_batches"]:
                with pytest.warns(RuntimeWarning, match="resuming by counting: the first .* batches of the e"):
                    loader.load_state_dict(state["loader"])
            else:
                loader.load_state_dict(state["loader"])
            batches.load_state_dict(state["batches"])
        seen = []
        while loader.clock < 66 and len(seen) < updates:
            for micro in ab.accumulate(loader, model):
                with micro as batch:
                    (loss_of(model, batch) * micro.weight).backward()
                seen += [[]] if micro.index == 0 else []
                seen[-1] += batch[0][:, 0].tolist()
                if micro.is_last:
                    optimizer.step()
                    optimizer.zero_grad()
                    batches.step()
                    if len(seen) == updates:
                        break
        return seen, json.loads(json.dumps({"loader": loader.state_dict(), "batches": batches.state_dict()}))

    whole, _ = run(1000)
    assert len(whole) == 6 + 3 + 2
    first, state = run(stop) if stop else ([], None)
    rest, _ = run(1000, state)
    assert first + rest == whole
    if state:
        assert len(json.dumps(state)) < 1000


def test_shuffled_epochs_differ_and_leave_the_random_state_alone():
    loader = ab.micro_batches(DataLoader(data(12), batch_size=4, shuffle=True), batch_size=4)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    orders = [torch.cat([batch[0] for batch, _ in seen_by(loader, model_of_again())]) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(*orders)
    assert torch.equal(*(order.sort(0).values for order in orders))


def model_of_again():
    with torch.random.fork_rng():
        return model_of()


def test_leaving_early_skips_the_rest():
    loader = ab.micro_batches(DataLoader(data(12), batch_size=2), batch_size=4)
    for micro in ab.accumulate(loader, model_of()):
        with micro:
            pass
        if micro.is_last:
            break
    assert (loader.clock, loader.epoch) == (4, 0)
    del micro
    found = seen_by(loader, model_of())
    assert len(found) == 3
    assert (loader.clock, loader.epoch) == (24, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "`state` must be what `state_dict"),
        ({"ranks": 2}, "`ranks` is 2 there and 1 here; batches of another make are counted"),
        ({"dataset_size": 13}, "`dataset_size` is 13 there and 12 here"),
        ({"micro_batch_size": 3}, "`micro_batch_size` is 3 there and 2 here"),
        ({"clock": -1}, "`clock` must be at least 0"),
    ],
)
def test_foreign_states_are_refused(change, message):
    loader = ab.micro_batches(DataLoader(data(12), batch_size=2), batch_size=4)
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict(loader.state_dict() | change)


# Use.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 5}, ValueError, "must be a multiple of 2, micro-batches of 2 on 1 ranks, got 5; .*round_to"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1, got 0"),
        ({"batch_size": 14}, ValueError, "at most the data set's 12 samples, got 14"),
        ({"batch_size": 4, "micro_batch_size": 0}, ValueError, "`micro_batch_size` must be at least 1"),
        ({"loader": 3, "batch_size": 4}, TypeError, "`loader` must be an iterable of batches, got int"),
        ({"loader": ab.DataLoader(data(4)), "batch_size": 4}, TypeError, "got one of adabatch; use it as it is"),
    ],
)
def test_bad_arguments(arguments, error, message):
    arguments = {"loader": DataLoader(data(12), batch_size=2)} | arguments
    loader = arguments.pop("loader")
    with pytest.raises(error, match=message):
        ab.micro_batches(loader, **arguments)


def test_schedules_that_do_not_fit_are_refused_at_once():
    loader = ab.micro_batches(DataLoader(data(24), batch_size=4), batch_size=4)
    optimizer = torch.optim.SGD(model_of().parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"`batch_size` must be a multiple of 4, .* got 6; .*`schedules.round_to`"):
        ab.BatchSizeScheduler(optimizer, loader, ab.schedules.geometric(1.5, ab.epochs(1)), epochs=2)


def test_what_cannot_be_done():
    loader = ab.micro_batches(DataLoader(data(12), batch_size=2), batch_size=4)
    with pytest.raises(TypeError, match=r"must be iterated by `adabatch.accumulate\(loader, model\)`"):
        iter(loader)
    with pytest.raises(ValueError, match="`micro_batch_size` must be set in the loader that is wrapped, got 1"):
        loader.micro_batch_size = 1
    with pytest.raises(ValueError, match="`model` must be given where the loader is of another make"):
        next(ab.accumulate(loader))
    stream = ab.accumulate(loader, model_of())
    next(stream)
    with pytest.raises(RuntimeError, match="a second iteration of a loader must not begin"):
        next(ab.accumulate(loader, model_of()))
    used = (batch for batch in [torch.zeros(2)])
    loader = ab.micro_batches(used, batch_size=2)
    assert len(list(ab.accumulate(loader, model_of()))) == 1
    with pytest.raises(RuntimeError, match="got none; a generator can be iterated once only"):
        next(ab.accumulate(loader, model_of()))
    loader = ab.micro_batches([torch.zeros(2)] * 9, batch_size=2, dataset_size=4)
    with pytest.raises(RuntimeError, match="`dataset_size` must be what an epoch delivers over all ranks, got 4"):
        list(ab.accumulate(loader, model_of()))


def test_memory_is_not_mended_here():
    loader, model = ab.micro_batches(DataLoader(data(12), batch_size=2), batch_size=4), model_of()
    with pytest.raises(torch.OutOfMemoryError) as caught, next(ab.accumulate(loader, model)):
        raise torch.OutOfMemoryError("no room")
    assert "a loader of another make cannot go back; make its batches smaller" in caught.value.__notes__[0]


def test_counting_samples():
    assert count_samples(np.zeros((5, 2))) == 5
    assert count_samples(({"a": None, "b": torch.zeros(3)}, torch.zeros(9))) == 3
    assert count_samples([torch.tensor(1.0), ["x", "y"]]) == 2
    with pytest.raises(TypeError, match="a batch of object cannot be counted; pass `samples=`"):
        count_samples(object())
    assert ab.micro_batches([["ab", "c"]], batch_size=3, samples=lambda batch: 3)._sized(["ab", "c"]) == 3


# Ranks.


class Rows(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def check_ranks(rank, world, theirs, total, number, micro):
    """The gradient of each update is that of what all ranks saw."""
    loader, model = ab.micro_batches(theirs, batch_size=micro * number * world), DistributedDataParallel(model_of())
    found = seen_by(loader, model)
    del model
    seen = 0
    for batch, grad in found:
        shares = [None] * world
        dist.all_gather_object(shares, batch)
        whole = model_of()
        batch = [torch.cat(column) for column in zip(*(share for share in shares if share is not None), strict=True)]
        loss_of(whole, batch).backward()
        torch.testing.assert_close(grad, gradient(whole), rtol=1e-10, atol=1e-12)
        seen += len(batch[0])
    assert seen == total
    assert loader.clock == total
    return len(found)


def check_distributed_sampler(rank, world):
    sampler = DistributedSampler(data(23), num_replicas=world, rank=rank, seed=1)
    theirs = DataLoader(data(23), batch_size=2, sampler=sampler)
    assert check_ranks(rank, world, theirs, 24, 2, 2) == math.ceil(12 / 4)
    assert sampler.epoch == 0


def check_uneven_streams(rank, world):
    """One rank has three micro-batches more than the other, and a ragged one."""
    rows = [tuple(column[index] for column in data(40).tensors) for index in range(40)]
    mine = rows[:5] if rank else rows[5:18]
    assert check_ranks(rank, world, DataLoader(Rows(mine), batch_size=2), 18, 2, 2) == 4


def check_resume_of_uneven_shares(rank, world):
    """Shares of 7 and 3 samples: at the stop the second has no more to give."""
    rows = [tuple(column[index] for column in data(40).tensors) for index in range(40)]
    mine = rows[:3] if rank else rows[3:10]

    def run(updates, state=None):
        loader, model = (
            ab.micro_batches(DataLoader(Rows(mine), batch_size=1), batch_size=2),
            DistributedDataParallel(model_of()),
        )
        if state is not None:
            with pytest.warns(RuntimeWarning, match="resuming by counting"):
                loader.load_state_dict(state)
        found = []
        for micro in ab.accumulate(loader, model):
            with micro as part:
                (loss_of(model, part) * micro.weight).backward()
            if micro.is_last:
                found.append(gradient(model))
                model.zero_grad()
                if len(found) == updates:
                    break
        return found, loader.state_dict()

    whole, _ = run(99)
    before, state = run(5)
    after, _ = run(99, state)
    assert len(whole) == 7
    assert torch.equal(torch.stack(before + after), torch.stack(whole))


def check_wrapped_parts(_rank, _world):
    parts = torch.nn.Sequential(DistributedDataParallel(model_of()), torch.nn.Linear(1, 1).double())
    with pytest.raises(ValueError, match="`model` must be wrapped as a whole where gradients are averaged over ranks"):
        next(iter(ab.accumulate(ab.DataLoader(data(8), 4), parts)))


def check_token_weights(rank, world):
    """Two updates: rows of 0, 1 and 10, 11; then a row of 2 on rank 0 alone. The gradient is the mean of the rows."""
    model = DistributedDataParallel(model_of())
    rows = [torch.full((2, 3), float(index + 10 * rank), dtype=torch.float64) for index in range(3 - rank)]
    found = []
    for micro in ab.accumulate(ab.micro_batches(rows, batch_size=8, micro_batch_size=2), model):
        with micro as part:
            (model(part).sum() * micro.weigh(len(part))).backward()
        if micro.is_last:
            found.append(gradient(model)[0].item())
            model.zero_grad()
    del model
    assert found == pytest.approx([5.5, 2.0], rel=1e-12)


@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, check_distributed_sampler, check_uneven_streams, check_token_weights)
    on_ranks(2, check_resume_of_uneven_shares, check_wrapped_parts)


@pytest.mark.filterwarnings("ignore:resuming by counting")
def test_a_size_assigned_inside_a_batch_holds_after_it_after_a_resume_too():
    def wrapped():
        return ab.micro_batches(torch.utils.data.DataLoader(torch.arange(24), batch_size=2), batch_size=4)

    unbroken, counts, saved = wrapped(), [], None
    for _, part in unbroken.parts():
        if part.is_last:
            counts.append(part.count)
        elif part.batch.clock == 4 and part.index == 0:
            unbroken.batch_size = 8
            saved = unbroken.state_dict()
    assert counts == [2, 2, 4, 4]
    resumed = wrapped()
    resumed.load_state_dict(saved)
    assert resumed.state_dict() == saved
    assert [part.count for _, part in resumed.parts() if part.is_last] == [2, 4, 4]


def test_a_state_is_not_loaded_in_mid_iteration():
    loader = ab.micro_batches(torch.utils.data.DataLoader(torch.arange(8), batch_size=2), batch_size=4)
    saved, parts = loader.state_dict(), loader.parts()
    next(parts)
    with pytest.raises(RuntimeError, match="a state must not be loaded during an iteration"):
        loader.load_state_dict(saved)


def test_a_sampler_inside_a_batch_sampler_is_told_the_epoch():
    sampler = DistributedSampler(data(24), num_replicas=2, rank=0, seed=1)
    theirs = DataLoader(data(24), batch_sampler=torch.utils.data.BatchSampler(sampler, 4, drop_last=False))
    loader = ab.micro_batches(theirs, batch_size=4)
    epochs = [[batch[0][0] for batch, _ in seen_by(loader, model_of())] for _ in range(2)]
    assert sampler.epoch == 1
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))


def test_a_driver_that_lets_go_in_mid_batch_does_not_count_it_twice():
    loader = ab.micro_batches(DataLoader(data(10), batch_size=2), batch_size=4)
    model = model_of()
    batches = ab.BatchSizeScheduler(torch.optim.SGD(model.parameters(), lr=0.1), loader, ab.schedules.constant())
    taken = []
    for number, micro in enumerate(ab.accumulate(loader, model)):
        with micro as part:
            (loss_of(model, part) * micro.weight).backward()
        if number == 0:
            batches.close()
        if micro.is_last:
            taken.append((loader.clock, loader.state_dict()["micro_batches"]))
    assert taken[:2] == [(4, 2), (8, 4)]


def test_a_parameter_that_thaws_between_batches_is_corrected_too():
    model, seen = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)).double(), []
    model[0].requires_grad_(False)
    for micro in ab.accumulate(ab.DataLoader(data(8), 4, seed=0), model):
        with micro as part:
            (model(part[0]).sum() * micro.weigh(3.0)).backward()
        whole = torch.autograd.grad(model(part[0]).sum() / 3, [p for p in model.parameters() if p.requires_grad])
        seen += [
            p.grad / grad for p, grad in zip((p for p in model.parameters() if p.requires_grad), whole, strict=True)
        ]
        model.zero_grad()
        model.requires_grad_(True)
    assert len(seen) == 2 + 4
    assert all(torch.allclose(ratio, torch.ones_like(ratio)) for ratio in seen)
