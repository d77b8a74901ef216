"""Edges of epochs, budgets and saved sizes, through the loader's face."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.accumulate.ranks import on_ranks
from tests.data.sets import Plan, order
from torch import nn

import adabatch as ab
from adabatch import schedules, units
from adabatch.data import DataLoader
from adabatch.schedules import steps
from adabatch.types import Batch


def sizes(passed):
    return [len(batch) for batch in passed]


def resumed(loader, state, **settings):
    """A new loader that goes on from `state` as it would lie in a JSON file."""
    other = DataLoader(loader.dataset, 3, seed=0, **settings)
    other.load_state_dict(json.loads(json.dumps(state)))
    return other


def driven(loader, schedule, **plan):
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    batches = ab.BatchSizeScheduler(optimizer, loader, schedule, coupling="none", **plan)

    def epoch():
        found = []
        for batch in loader:
            parameter.grad = torch.ones(1)
            optimizer.step()
            batches.step()
            found.append(len(batch))
        return found

    return batches, epoch


@pytest.mark.parametrize("saved", [False, True])
def test_an_epoch_after_the_budget_is_not_empty(saved):
    """The end of the plan cuts the last batch short; who trains on has whole batches of the last size again."""
    loader = DataLoader(torch.arange(22), 4, seed=0, run_on=True)
    batches, epoch = driven(loader, steps("0:4 8:6"), epochs=1)
    assert epoch() == [4, 4, 6, 6, 2]
    assert (loader.clock, loader.epoch) == (22, 1)
    if saved:
        state, of_batches = loader.state_dict(), batches.state_dict()
        loader = resumed(DataLoader(torch.arange(22), 4, seed=0), state, run_on=True)
        batches, epoch = driven(loader, steps("0:4 8:6"), epochs=1)
        batches.load_state_dict(of_batches)
    assert epoch() == [6, 6, 6, 6]
    assert (loader.clock, loader.epoch) == (46, 2)


def test_the_budget_cuts_no_batch_but_the_last():
    loader = DataLoader(torch.arange(10), 4, seed=0, run_on=True)
    _, epoch = driven(loader, steps("0:4"), epochs=2)
    assert [epoch(), epoch()] == [[4, 4, 4], [4, 4]]
    loader = DataLoader(torch.arange(10), 4, seed=0, run_on=True)
    _, epoch = driven(loader, steps("0:4"), epochs=3)
    assert [epoch(), epoch(), epoch()] == [[4, 4, 4], [4, 4], [4, 4, 2]]


@pytest.mark.parametrize(("first", "then"), [(4, 6), (6, 4), (4, 4)])
def test_a_size_assigned_inside_a_batch_holds_after_its_repetition(first, then):
    loader = DataLoader(torch.arange(30), first, seed=0, micro_batch_size=2)
    parts = loader.parts()
    next(parts)
    loader.batch_size = then
    other = resumed(loader, loader.state_dict())
    assert other.batch_size == first
    twice = resumed(other, other.state_dict())
    for each in (other, twice):
        assert sizes(each)[:3] == [first, then, then]


def test_a_size_assigned_inside_a_batch_holds_for_the_next_one():
    loader = DataLoader(torch.arange(30), 4, seed=0, micro_batch_size=2)
    found = []
    for _, part in loader.parts():
        if part.index == 0:
            loader.batch_size = {0: 6, 4: 3}.get(part.batch.clock, loader.batch_size)
            found.append(part.batch.size)
    assert found == [4, 6, 3, 3, 3, 3, 3, 3, 2]


def test_no_size_of_before_the_schedule_is_saved_with_a_batch_that_is_out():
    """The schedule's size is the loader's, also in a state that is loaded where no schedule drives it."""
    loader = DataLoader(torch.arange(40), 4, seed=0)
    batches, epoch = driven(loader, steps("0:4 4:10"), epochs=2)
    assert epoch() == [4, 10, 10, 10, 6]
    next(iter(loader))
    assert (loader.clock, batches.batch_size) == (40, 10)
    assert sizes(resumed(loader, loader.state_dict())) == [10, 10, 10, 10]


def not_even_at_the_end_of_a_resumed_epoch(rank, world):
    """12 samples are cut evenly into batches of 4, the 7 that are left of them are not."""
    alone = DataLoader(torch.arange(12), 5, seed=0, shard=False)
    next(iter(alone))
    state = alone.state_dict()
    for how, share in (({}, None), ({"drop_last": True}, [2]), ({"run_on": True}, [2, 2])):
        alone = DataLoader(torch.arange(12), 5, seed=0, shard=False, **how)
        next(iter(alone))
        loader = resumed(alone, alone.state_dict(), **how)
        loader.batch_size = 4
        got = []
        if share is None:
            with pytest.raises(ValueError, match="the last batch of an epoch, of 3 samples, does not divide over 2 ra"):
                got.extend(len(batch) for batch in loader)
            assert got == []  # said before the first batch, not at the last
        else:
            assert sizes(loader) == share
    loader = resumed(alone, state)
    loader.batch_size = 1
    with pytest.raises(ValueError, match="a batch of 1 samples does not divide over 2 ranks"):
        next(iter(loader))
    loader = resumed(alone, {**state, "clock": 6})
    loader.batch_size = 4
    assert sizes(loader) == [2, 1]


@pytest.mark.world_size(2)
def test_shares_of_the_rest_of_an_epoch_are_looked_at_before_its_first_batch():
    on_ranks(2, not_even_at_the_end_of_a_resumed_epoch)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_requested_size_is_delivered_and_every_sample_once(data):
    size = data.draw(st.integers(1, 40))
    mode = data.draw(st.sampled_from(["short", "drop_last", "run_on"]))
    loader = DataLoader(torch.arange(size), size, shuffle=True, seed=1, **({mode: True} if mode != "short" else {}))
    expected = [item for epoch in range(8) for item in order(size, 1, epoch)]
    clock = 0
    for epoch in range(3):
        assert loader.epoch == epoch
        loader.batch_size = requested = data.draw(st.integers(1, size))
        seen = []
        for batch in loader:
            delivered = requested if mode != "short" else min(requested, (epoch + 1) * size - clock)
            assert batch.tolist() == expected[clock : clock + delivered]
            seen += batch.tolist()
            clock += delivered
            loader.batch_size = requested = data.draw(st.integers(1, size))
        if mode == "drop_last":
            assert size - len(seen) < requested
            clock = (epoch + 1) * size
        assert loader.clock == clock
    assert clock >= 3 * size


def test_a_driver_with_drop_last_passes_what_is_dropped():
    loader = DataLoader(torch.arange(10), 4, drop_last=True)
    loader.attach(Plan((0, 4), (10, 5), size=10, drop_last=True))
    iterator = iter(loader)
    next(iterator)
    assert loader.current == Batch(clock=0, end=4, epoch=0, requested=4, size=4, rank_size=4)
    next(iterator)
    assert loader.current == Batch(clock=4, end=10, epoch=0, requested=4, size=4, rank_size=4)
    loader.commit()
    assert (loader.clock, loader.epoch, loader.batch_size) == (10, 1, 5)
    assert next(iterator, None) is None
    assert [len(batch) for batch in loader] == [5, 5]


def test_the_driver_is_asked_before_the_next_batch_the_end_and_the_next_iteration():
    loader = DataLoader(torch.arange(8), 4)
    plan = Plan((0, 4), size=8)
    loader.attach(plan)
    iterator = iter(loader)
    next(iterator)
    assert plan.checks == 1
    plan.refuse = "step is missing"
    for _ in range(2):
        with pytest.raises(RuntimeError, match="step is missing"):
            next(iterator)
    assert loader.clock == 0
    plan.refuse = None
    loader.commit()
    next(iterator)
    assert loader.clock == 4
    plan.refuse = "step is missing"
    with pytest.raises(RuntimeError, match="step is missing"):
        next(iterator)
    iterator.close()
    with pytest.raises(RuntimeError, match="step is missing"):
        next(iter(loader))
    plan.refuse = None
    for _ in loader:
        loader.commit()
    assert loader.epoch == 2


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_plan_and_the_loader_agree_on_every_batch(data):
    size, epochs = data.draw(st.integers(4, 40)), data.draw(st.integers(1, 5))
    mode = data.draw(st.sampled_from([{}, {"drop_last": True}, {"run_on": True}]))
    start = data.draw(st.integers(1, size // 2))
    schedule = schedules.geometric(
        2, units.epochs(data.draw(st.sampled_from([0.5, 1, 1.3]))), start=start, maximum=size
    )
    plan = schedule.plan(dataset_size=size, epochs=epochs, **mode)

    class Driver(Plan):
        def __init__(self):
            super().__init__(size=size)
            self.plan = plan

        def batch_size_at(self, clock):
            return plan.batch_size_at(min(clock, plan.end_samples))

        def sizes_between(self, start, stop):
            return plan.sizes_between(start, stop)

    loader = DataLoader(torch.arange(size), start, **mode)
    loader.attach(Driver())
    found = []
    for _ in range(epochs):
        expected = len(loader)
        before = len(found)
        for batch in loader:
            now = loader.current
            assert len(batch) == now.size
            found.append((now.clock, now.end, now.epoch, now.requested, now.size))
            loader.commit()
        assert len(found) - before == expected
    planned = [plan.batch(update) for update in range(plan.updates)]
    assert found == [(one.clock, one.end, one.epoch, one.requested, one.size) for one in planned]
