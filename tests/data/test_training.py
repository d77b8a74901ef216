"""Lengths of epochs that are known ahead, and all epochs of a training in one loop."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.accumulate.ranks import on_ranks
from tests.data.sets import Stream
from torch import nn
from torch.utils.data import Dataset

import adabatch as ab
from adabatch.schedules import geometric, steps

MODES = st.sampled_from([{}, {"drop_last": True}, {"run_on": True}])


class Run:
    """A loader, an optimizer and a scheduler; `train` is what a user does with a batch."""

    def __init__(self, size, start, schedule=None, *, epochs=None, **arguments):
        self.parameter = nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.SGD([self.parameter], lr=0.1)
        self.loader = ab.DataLoader(torch.arange(size), start, seed=0, **arguments)
        self.batches = None
        if schedule is not None:
            self.batches = ab.BatchSizeScheduler(self.optimizer, self.loader, schedule, coupling="none", epochs=epochs)

    def train(self):
        self.parameter.grad = torch.ones(1)
        self.optimizer.step()
        if self.batches is not None:
            self.batches.step()


def growing(start):
    return st.sampled_from(
        [
            None,
            ab.schedules.constant(),
            geometric(2, ab.epochs(1)),
            geometric(3, ab.updates(4)),
            steps({0: start, 7: 1}),
        ]
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data(), size=st.integers(8, 40), start=st.integers(1, 8), epochs=st.integers(1, 4), mode=MODES)
def test_lengths_are_those_of_the_loop(data, size, start, epochs, mode):
    """Every epoch's, seen from every epoch, in updates and in micro-batches, and the whole training's."""
    schedule = data.draw(growing(start))
    schedule = schedule if schedule is None else ab.schedules.clamp(schedule, maximum=size)
    micro = data.draw(st.none() | st.integers(1, size))
    run = Run(size, start, schedule, epochs=epochs if schedule else None, micro_batch_size=micro, **mode)
    training, loader = run.loader.training(epochs), run.loader
    told = []
    updates, parts = [0] * epochs, [0] * epochs
    for _, part in training.parts():
        epoch = loader.epoch
        parts[epoch] += 1
        if part.is_last:
            updates[epoch] += 1
            told.append([(loader.updates_in_epoch(e), loader.micro_batches_in_epoch(e)) for e in range(epochs)])
            run.train()
    expected = list(zip(updates, parts, strict=True))
    assert all(row == expected for row in told)
    assert len(training) == sum(updates)
    assert (training.epochs, loader.epoch) == (epochs, epochs)
    if schedule or not mode.get("run_on"):  # else batches run on into it
        assert loader.updates_in_epoch(epochs) == (0 if schedule else updates[0])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=st.integers(8, 30), start=st.integers(1, 8), mode=MODES)
def test_a_training_goes_on_where_it_was_saved(data, size, start, mode):
    """In the middle of an epoch, after its last batch, and after the training."""
    schedule = ab.schedules.clamp(data.draw(growing(start).filter(bool)), maximum=size)
    whole = Run(size, start, schedule, epochs=3, shuffle=True, **mode)
    expected, states = [], [(whole.loader.state_dict(), whole.batches.state_dict())]
    for batch in whole.loader.training():
        expected.append(batch.tolist())
        whole.train()
        states.append((whole.loader.state_dict(), whole.batches.state_dict()))
    stop = data.draw(st.integers(0, len(expected)))
    of_loader, of_batches = json.loads(json.dumps(states[stop]))
    again = Run(size, start, schedule, epochs=3, shuffle=True, **mode)
    again.loader.load_state_dict(of_loader)
    again.batches.load_state_dict(of_batches)
    training, rest = again.loader.training(), []
    assert len(training) == len(expected)
    for batch in training:
        rest.append(batch.tolist())
        again.train()
    assert rest == expected[stop:]


class Flaky(Dataset):
    """Ten samples, one of which fails the first time that it is read."""

    def __init__(self):
        self.broken = True

    def __len__(self):
        return 10

    def __getitem__(self, item):
        if item == 5 and self.broken:
            self.broken = False
            raise OSError("disk")
        return item


@pytest.mark.parametrize("parts", [False, True])
def test_a_training_goes_on_after_a_sample_that_fails(parts):
    """As the loader's own iterations do: the batch is skipped, and both epochs come to their end."""
    loader = ab.DataLoader(Flaky(), 2, seed=0)
    training = loader.training(2)
    iterator, found, failed = training.parts() if parts else iter(training), [], 0
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            break
        except OSError:
            failed += 1
            continue
        found.append((batch[0] if parts else batch).tolist())
    pairs = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert (failed, found) == (1, [*pairs[:2], *pairs[3:], *pairs])
    assert next(iterator, None) is None


def test_the_plan_says_how_long_a_training_is():
    run = Run(10, 4, geometric(2, ab.epochs(1), maximum=8), epochs=2)
    assert len(run.loader.training()) == run.batches.plan.updates == 5
    assert len(run.loader.training(1)) == 3
    with pytest.raises(
        ValueError, match="`epochs` must be at most the plan's 2, got 3; give the BatchSizeScheduler as"
    ):
        len(run.loader.training(3))
    with pytest.raises(TypeError, match=r"`epochs` must be given for `training`, since no plan with an end drives the"):
        next(iter(ab.DataLoader(torch.arange(4)).training()))
    with pytest.raises(ValueError, match="`epochs` must be at least 1, got 0"):
        run.loader.training(0)


def test_a_scheduler_may_come_after_the_training():
    loader = ab.DataLoader(torch.arange(10), 4)
    training = loader.training(2)
    assert len(training) == 6
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    ab.BatchSizeScheduler(optimizer, loader, steps("0:4 10:10"), epochs=2)
    assert len(training) == 4


def test_looking_at_a_training_moves_nothing():
    run = Run(10, 4, geometric(2, ab.epochs(1), maximum=8), epochs=2)
    iterator = iter(run.loader.training())
    assert next(iterator).tolist() == [0, 1, 2, 3]
    del iterator
    assert (run.loader.clock, next(iter(run.loader.training())).tolist()) == (0, [0, 1, 2, 3])
    assert run.loader.training()


def test_a_training_that_trains_nothing_is_told():
    run = Run(10, 4, ab.schedules.constant(), epochs=2)
    with pytest.raises(
        RuntimeError, match="`training` went through epoch 0 and nothing was trained, so the epoch would"
    ):
        list(run.loader.training())


def test_a_training_without_a_schedule():
    loader = ab.DataLoader(torch.arange(5), 2)
    assert [len(batch) for batch in loader.training(2)] == [2, 2, 1, 2, 2, 1]
    assert list(loader.training(2)) == []
    assert [len(batch) for batch in loader.training(3)] == [2, 2, 1]
    loader = ab.DataLoader(torch.arange(5), 2)
    for batch in loader.training(2):
        if len(batch) == 1:
            break
    assert [len(batch) for batch in loader.training(2)] == [2, 2, 1]


def test_lengths_that_are_not_known():
    loader = ab.DataLoader(torch.arange(10), 4)
    iterator = iter(loader)
    next(iterator)
    loader.batch_size = 3
    with pytest.raises(TypeError, match="`batch_size` was assigned during the epoch has no length"):
        loader.updates_in_epoch(0)
    assert (loader.updates_in_epoch(1), loader.micro_batches_in_epoch(1)) == (4, 4)
    stream = ab.DataLoader(Stream(10), 4)
    for length in (stream.updates_in_epoch, stream.micro_batches_in_epoch):
        with pytest.raises(TypeError, match="the epochs of a stream have no length that is known ahead; count the"):
            length(0)
    with pytest.raises(ValueError, match="`epoch` must be at least 0, got -1"):
        loader.updates_in_epoch(-1)


def test_batches_that_come_formed_count_as_updates():
    sampler = [[0, 1], [2], [3, 4]]
    loader = ab.DataLoader(torch.arange(5), batch_sampler=sampler)
    assert (loader.updates_in_epoch(4), loader.micro_batches_in_epoch(4), len(loader.training(2))) == (3, 3, 6)


def they_have_as_many_micro_batches(rank, world):
    loader = ab.DataLoader(torch.arange(11), 5, seed=0, micro_batch_size=2)
    assert (loader.updates_in_epoch(0), loader.micro_batches_in_epoch(0)) == (
        3,
        5,
    )  # shares of 3 or 2, at last of 1 or 0
    assert sum(1 for _ in loader.training(2).parts()) == 10


@pytest.mark.world_size(2)
def test_ranks_have_as_many_micro_batches():
    on_ranks(2, they_have_as_many_micro_batches)
