"""Orders of the user's: torch's samplers give the same order again after a restart."""

import random
import time

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from adabatch.data import DataLoader
from adabatch.data.order import SampledOrder

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


class Named(dict):
    """Samples by other keys than numbers."""

    def __getitem__(self, key):
        return str(key) if key not in self else super().__getitem__(key)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "keys", [["a", "b", "c", "d", "e"], [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)], [0, "a", (1, 2), True, 2**70]]
)
def test_a_sampler_may_give_keys(workers, keys):
    loader = DataLoader(Named(), 2, sampler=keys, num_workers=workers, shuffle=False)
    for _ in range(2):
        assert [name for batch in loader for name in batch] == [str(key) for key in keys]
    next(iterator := iter(loader))
    resumed = DataLoader(Named(), 3, sampler=keys, num_workers=workers)
    resumed.load_state_dict(loader.state_dict())
    assert list(resumed) == list(iterator)


@pytest.mark.parametrize("make", [lambda: torch.arange(10) * 10, lambda: TensorDataset(torch.arange(10) * 10)])
@pytest.mark.parametrize("workers", [0, 1])
def test_lists_of_numbers_bools_and_numbers_from_the_end_are_what_they_are_to_torch(make, workers):
    for sampler in (BatchSampler(SequentialSampler(range(6)), 3, drop_last=False), [-1, 3, -10], [True, True]):
        ours, theirs = (
            list(kind(make(), 2, sampler=sampler, num_workers=workers))
            for kind in (DataLoader, torch.utils.data.DataLoader)
        )
        assert str(ours) == str(theirs)


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, torch.tensor, lambda i: torch.tensor(i, dtype=torch.uint8)])
def test_numbers_of_any_kind_are_numbers(kind):
    order = SampledOrder([kind(3), kind(1), kind(2)], 3, seed=0)
    assert order.keys(0, 3).tolist() == [3, 1, 2]
    assert order.keys(0, 3).dtype == torch.int64


@pytest.mark.parametrize("value", [0.9, 1.0, np.float32(1.5), torch.tensor(0.5), float("nan")])
@pytest.mark.parametrize("workers", [0, 1])
def test_fractions_are_refused(value, workers):
    loader = DataLoader([10, 11, 12], 1, sampler=[0, value], num_workers=workers)
    with pytest.raises(
        TypeError, match=r"`sampler` must give sample numbers .* got the fraction .* in epoch 0; make whole"
    ):
        list(loader)


def test_an_endless_sampler_is_drawn_as_far_as_it_is_used(monkeypatch):
    monkeypatch.setattr("adabatch.data.order.SAMPLED_BLOCK", 1000)
    drawn = []

    class Endless:
        generator = torch.Generator()

        def __len__(self):
            return 10**10

        def __iter__(self):
            while True:
                draws = random.random(), np.random.rand(), torch.rand(()), torch.rand((), generator=self.generator)
                drawn.append(int(1000 * sum(map(float, draws))))
                yield drawn[-1]

    begun = time.perf_counter()
    loader = DataLoader(range(4000), 400, sampler=Endless(), seed=1)
    iterator = iter(loader)
    first = []
    for _ in range(9):
        first += next(iterator).tolist()
        random.random(), np.random.rand(), torch.rand(())  # those of the sampler are its own
    assert first == drawn[:3600]
    assert len(drawn) == 4000
    resumed = DataLoader(range(4000), 400, sampler=Endless(), seed=1)
    resumed.load_state_dict(loader.state_dict())
    assert next(iter(resumed)).tolist() == next(iterator).tolist()
    sampler = RandomSampler(range(50), replacement=True, num_samples=10**10)
    assert len(next(iter(DataLoader(range(50), 4, sampler=sampler)))) == 4
    assert time.perf_counter() - begun < 60


@pytest.mark.parametrize(("length", "got"), [(2500, "2400"), (2400, None), (2300, "2400"), (900, "at least 1900")])
def test_another_number_than_the_length_is_refused_in_any_block(length, got, monkeypatch):
    monkeypatch.setattr("adabatch.data.order.SAMPLED_BLOCK", 1000)

    class Sized:
        def __len__(self):
            return length

        def __iter__(self):
            return iter(range(2400))

    loader = DataLoader(range(2400), 100, sampler=Sized())
    if got is None:
        assert [item for batch in loader for item in batch.tolist()] == list(range(2400))
        return
    with pytest.raises(ValueError, match=f"as its length {length}, got {got} in epoch 0; correct its `__len__`"):
        list(loader)
