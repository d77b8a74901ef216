"""64 ranks in one process, by torch's group that fakes collectives: together they train what one rank trains."""

from __future__ import annotations

import random
from itertools import chain

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

import adabatch as ab

RANKS = 64


def course(settings):
    """For each update of two epochs its requested size, and this rank's samples and weights by micro-batch."""
    size, first, factor, every, micro, drop_last, seed = settings
    loader = ab.DataLoader(torch.arange(size), first, shuffle=True, drop_last=drop_last, seed=seed)
    loader.micro_batch_size = micro
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    growth = ab.schedules.geometric(factor, ab.samples(every), maximum=size)
    batches = ab.BatchSizeScheduler(optimizer, loader, growth, epochs=2)
    found, parts = [], []
    for _ in range(2):
        for part in ab.accumulate(loader, model):
            with part as samples:
                parts.append((samples.tolist()[: part.size], part.weight))
            if part.is_last:
                found.append((loader.current.clock, loader.current.requested, loader.current.size, parts))
                parts = []
                optimizer.step()
                batches.step()
    return found, batches.plan.to_json()


def settings_of(number):
    draw = random.Random(number)
    size = draw.choice([draw.randint(2, 40), draw.randint(41, 400)])
    first = draw.randint(1, size)
    return (
        size,
        first,
        draw.choice([1.5, 2, 3]),
        draw.randint(1, 2 * size),
        draw.choice([None, draw.randint(1, min(8, size))]),
        draw.random() < 0.3,
        number,
    )


def check(numbers):
    alone = {number: course(settings_of(number)) for number in numbers}
    courses = {number: [] for number in numbers}
    for rank in range(RANKS):
        dist.init_process_group("fake", rank=rank, world_size=RANKS, store=FakeStore())
        try:
            for number in numbers:
                found, plan = course(settings_of(number))
                assert plan == alone[number][1]
                courses[number].append(found)
        finally:
            dist.destroy_process_group()
    for number in numbers:
        whole = alone[number][0]
        assert {len(found) for found in courses[number]} == {len(whole)}
        for (clock, requested, size, parts), *shares in zip(whole, *courses[number], strict=True):
            assert {share[:3] for share in shares} == {(clock, requested, size)}
            assert len({len(share[3]) for share in shares}) == 1, "as many micro-batches on every rank"
            mine = [sample for samples, _ in parts for sample in samples]
            theirs = [[sample for samples, _ in share[3] for sample in samples] for share in shares]
            assert sorted(chain.from_iterable(theirs)) == sorted(mine)
            assert max(map(len, theirs)) - min(map(len, theirs)) <= 1
            for share in shares:
                assert all(weight == pytest.approx(len(samples) / size) for samples, weight in share[3])


def test_shares_weights_and_plans_of_many_ranks():
    check(range(8))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(8, 1008, 100))
def test_shares_weights_and_plans_of_many_ranks_in_a_thousand_trainings(start):
    check(range(start, start + 100))
