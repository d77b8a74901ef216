"""The records and protocols that parts exchange, as wide as what is used of them."""

import pytest
import torch

import adabatch as ab
from adabatch.types import Batch, DrivenLoader, Driver, DrivingPlan, Part, RepeatableParts


def names(protocol):
    return [name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")]


@pytest.mark.parametrize("count", [1, 3])
def test_the_last_part_of_a_batch_says_so(count):
    batch = Batch(0, 6, 0, 6, 6, 6)
    assert [Part(batch, index, count, 6 // count).is_last for index in range(count)] == [False] * (count - 1) + [True]


@pytest.mark.parametrize("make", [ab.DataLoader, lambda data, size: ab.micro_batches(data.split(2), batch_size=size)])
def test_loaders_schedulers_and_plans_offer_what_the_protocols_ask_for(make):
    loader = make(torch.arange(8), 4)
    assert isinstance(loader, DrivenLoader)
    assert (loader.driver, loader.sharing()) == (None, (None, 0, 1))
    assert isinstance(loader.parts(), RepeatableParts) != loader.counted_late
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant())
    assert loader.driver is batches
    assert all(hasattr(batches, name) for name in names(Driver))
    assert all(hasattr(batches.plan, name) for name in names(DrivingPlan))
