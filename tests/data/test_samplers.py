"""Orders of the user's: torch's samplers give the same order again after a restart."""

import pytest
import torch
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from adabatch.data import DataLoader

SAMPLERS = [
    lambda generator: RandomSampler(range(12), generator=generator),
    lambda generator: RandomSampler(range(12), replacement=True, num_samples=12, generator=generator),
    lambda generator: SubsetRandomSampler(range(12), generator=generator),
    lambda generator: WeightedRandomSampler([1.0] * 12, 12, generator=generator),
]


@pytest.mark.parametrize("make", SAMPLERS)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_epoch_has_the_order_that_it_had(make, own, workers):
    def new():
        generator = torch.Generator().manual_seed(0) if own else None
        return DataLoader(list(range(12)), 4, sampler=make(generator), seed=0, num_workers=workers)

    loader = new()
    first = torch.cat(list(loader)).tolist()
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    rest = torch.cat(list(iterator)).tolist()
    resumed = new()
    resumed.load_state_dict(state)
    assert torch.cat(list(resumed)).tolist() == rest
    assert first[4:] != rest


def test_the_generator_is_put_back():
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(list(range(12)), 4, sampler=RandomSampler(range(12), generator=generator), seed=0)
    list(loader)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.rand(3, generator=generator), expected)
