"""Orders of the user's: torch's samplers give the same order again after a restart."""

import itertools
import math
import random
import time
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.sets import Rich
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from adabatch.data import DataLoader
from adabatch.data.order import ROUNDS_OF_SMALL, Order, SampledOrder, items_of, mix, permute


def z(observed, expected, freedom):
    """How many standard deviations the chi-square statistic lies above what chance gives."""
    return (((observed - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


def orders(size, epochs, seed=7):
    return np.stack([permute(np.arange(size), size=size, seed=seed, epoch=epoch) for epoch in range(epochs)])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**63 - 1), st.integers(0, 10**6))
def test_it_is_a_bijection_of_any_size(size, seed, epoch):
    found = permute(np.arange(size), size=size, seed=seed, epoch=epoch)
    assert np.array_equal(np.sort(found), np.arange(size))


def test_every_small_size_is_a_bijection():
    for size in range(1, 300):
        assert np.array_equal(np.sort(orders(size, 1)[0]), np.arange(size))


@pytest.mark.parametrize("size", [2**31 - 1, 2**32 + 5, 10**12 + 39, 2**48])
def test_large_sizes_stay_inside_and_hit_no_sample_twice(size):
    positions = np.concatenate([np.arange(2000), size // 2 + np.arange(2000), size - 1 - np.arange(2000)])
    found = permute(positions, size=size, seed=1, epoch=0)
    assert found.min() >= 0
    assert found.max() < size
    assert len(np.unique(found)) == len(positions)


def test_the_order_is_the_documented_one_for_good():
    assert permute(np.arange(8), size=8, seed=0, epoch=0).tolist() == [3, 2, 4, 0, 6, 5, 7, 1]
    assert permute(np.arange(3), size=10**9, seed=5, epoch=2).tolist() == [712612515, 155939124, 905199618]


@pytest.mark.parametrize(
    "size", [2, 3, 4, 5, pytest.param(6, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow)]
)
def test_small_sizes_give_every_order_equally_often(size):
    epochs = 10 * math.factorial(size) + 1000
    seen = Counter(map(tuple, orders(size, epochs).tolist()))
    counts = np.array([seen[order] for order in itertools.permutations(range(size))])
    assert z(counts, epochs / len(counts), len(counts) - 1) < 5


@pytest.mark.parametrize(("size", "epochs"), [(30, 2000), (1000, 300), (4095, 150), (5000, 150), (50_000, 50)])
def test_positions_neighbours_and_epochs_are_as_uniform_as_chance(size, epochs):
    found = orders(size, epochs)
    cells = min(size, 50)
    cell = np.arange(size) * cells // size
    table = np.zeros((cells, cells))
    np.add.at(table, (np.broadcast_to(cell, found.shape), cell[found]), 1)
    expected = np.outer(np.bincount(cell), np.bincount(cell)) * epochs / size
    assert z(table, expected, (cells - 1) ** 2) < 5
    for differences in (found[:, 1:] - found[:, :-1], found[:, 2:] - found[:, :-2]):
        counts = np.bincount((differences % size).ravel(), minlength=size)[1:]
        assert z(counts, counts.mean(), size - 2) < 5
    between = np.bincount(((found[1:] - found[:-1]) % size).ravel(), minlength=size)
    assert z(between, between.mean(), size - 1) < 5


@pytest.mark.parametrize(
    ("size", "epochs"),
    [
        (16, 10_000),  # 4 rounds: 87 standard deviations, 6: 32, 8: 10
        (36, 10_000),  # 115, 38, 9
        (1024, 1000),  # 93, 19, 0
        (4096, 1000),  # 128, 19, 1
        (10_000, 600),  # 123, 17, 1
        pytest.param(65_536, 400, marks=pytest.mark.slow),  # 159, 18, 1
    ],
)
def test_pairs_that_share_a_digit_come_out_as_far_apart_as_chance_would_have_it(size, epochs):
    """What a Feistel network of few rounds gives away: two positions of one column move by the same number of rows."""
    rows = columns = math.isqrt(size)
    row, column = np.divmod(np.arange(size), columns)
    pairs = np.empty(epochs)
    for epoch, found in enumerate(permute(np.arange(size), size=size, seed=7, epoch=epoch) for epoch in range(epochs)):
        alike = np.bincount(column * rows + (found // columns - row) % rows, minlength=size)
        pairs[epoch] = (alike * (alike - 1) // 2).sum()
    expected = columns * rows * (rows - 1) / 2 * columns / (size - 1)
    assert abs(pairs.mean() - expected) < 4.5 * pairs.std() / math.sqrt(epochs)


def distance_from_chance(size, rounds):
    """The share of epochs that have another order than chance would give them, for perfect functions in each round.

    The distribution over all bijections of the grid, round by round; then what it makes of the orders of `size`.
    """
    rows = math.isqrt(size - 1) + 1
    rows += rows % 2
    columns = -(-size // rows)
    cells = rows * columns
    row, column = np.divmod(np.arange(cells), columns)
    bijections = np.array(list(itertools.permutations(range(cells))))
    weights = cells ** np.arange(cells)[::-1]
    codes = bijections @ weights  # sorted, as they are listed
    to_rows = [
        (row + np.array(steps)[column]) % rows * columns + column
        for steps in itertools.product(range(rows), repeat=columns)
    ]
    to_columns = [
        row * columns + (column + np.array(steps)[row]) % columns
        for steps in itertools.product(range(columns), repeat=rows)
    ]
    after = [[np.searchsorted(codes, each[bijections] @ weights) for each in kind] for kind in (to_rows, to_columns)]
    chances = np.zeros(len(bijections))
    chances[0] = 1
    for number in range(rounds):
        kind = after[number % 2]
        chances = np.mean([np.bincount(each, chances, len(chances)) for each in kind], axis=0)
    found = bijections[:, :size].copy()
    while (outside := found >= size).any():
        found = np.where(outside, np.take_along_axis(bijections, found, 1), found)
    _, which = np.unique(found @ weights[-size:], return_inverse=True)
    return abs(np.bincount(which, chances) - 1 / math.factorial(size)).sum() / 2


@pytest.mark.parametrize(
    ("size", "bound"),
    [
        (2, 1e-9),
        (3, 1e-6),
        (4, 1e-6),
        (5, 5e-4),  # 8 rounds: 0.043, 16: 0.0035, 24: 0.00037
        (6, 5e-4),  # 0.074, 0.0053, 0.00047
        (7, 2e-3),  # 0.16, 0.013, 0.0014
        (8, 5e-3),  # 0.28, 0.030, 0.0038
    ],
)
def test_the_rounds_at_small_sizes_bring_every_order_near_its_chance(size, bound):
    assert distance_from_chance(size, ROUNDS_OF_SMALL) < bound
    assert size < 5 or distance_from_chance(size, ROUNDS_OF_SMALL - 2) > bound


@pytest.mark.parametrize("size", [30, 1000, 5000])
def test_neighbours_and_the_same_position_in_other_epochs_are_not_correlated(size):
    found = orders(size, 200_000 // size).astype(float)
    by_seed = np.stack([permute(np.arange(size), size=size, seed=seed, epoch=0) for seed in range(200_000 // size)])
    for first, second in [
        *((found[:, lag:], found[:, :-lag]) for lag in (1, 2, math.isqrt(size), size // 2)),
        *((found[lag:], found[:-lag]) for lag in (1, 2)),
        (by_seed[1:], by_seed[:-1]),
    ]:
        correlation = np.corrcoef(first.ravel(), second.ravel())[0, 1]
        assert abs(correlation + (first.shape[1] < size) / (size - 1)) < 4.5 / math.sqrt(first.size)


def test_each_bit_of_a_word_turns_each_bit_of_its_scramble_half_of_the_time():
    words = np.random.default_rng(0).integers(0, 2**32, (2, 20_000), dtype=np.uint32)
    plain = mix(words[0].copy(), words[1])
    for bit in range(32):
        turned = plain ^ mix(words[0] ^ np.uint32(1 << bit), words[1])
        shares = np.unpackbits(turned.view(np.uint8)).reshape(-1, 32).mean(0)
        assert abs(shares - 0.5).max() < 0.02


def test_seeds_give_unrelated_orders():
    first = np.stack([permute(np.arange(1000), size=1000, seed=seed, epoch=0) for seed in range(400)])
    fixed = (first[1:] == first[:-1]).sum()
    assert abs(fixed - 399) < 5 * math.sqrt(399)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_items_are_the_samples_of_a_rank_at_any_place(data):
    size = data.draw(st.integers(1, 60))
    world = data.draw(st.integers(1, 5))
    rank = data.draw(st.integers(0, world - 1))
    order = Order(size, seed=3, shuffle=True, rank=rank, world=world)
    clocks = range(rank, 10 * size + world, world)
    expected = [int(permute(np.array([c % size]), size=size, seed=3, epoch=c // size)[0]) for c in clocks]
    for _ in range(5):
        start = data.draw(st.integers(0, len(expected)))
        stop = data.draw(st.integers(start, len(expected)))
        assert order.items(start, stop).tolist() == expected[start:stop]


def test_items_across_blocks_and_longer_than_a_block():
    order = Order(100_000, seed=3, shuffle=True)
    whole = permute(np.arange(100_000), size=100_000, seed=3, epoch=0)
    for start, stop in [(0, 10), (8000, 9000), (9000, 9001), (5, 20_000), (20_000, 20_003), (99_990, 100_000)]:
        assert order.items(start, stop).tolist() == whole[start:stop].tolist()


def test_without_shuffle_samples_come_as_they_lie():
    assert Order(5, seed=1, shuffle=False).items(3, 12).tolist() == [3, 4, 0, 1, 2, 3, 4, 0, 1]


@given(st.integers(0, 100), st.integers(1, 50), st.integers(1, 6))
def test_shares_of_a_batch_differ_by_at_most_one_and_are_congruent_to_the_rank(clock, size, world):
    bounds = [items_of(clock, size, rank, world) for rank in range(world)]
    clocks = [rank + item * world for rank, (first, last) in enumerate(bounds) for item in range(first, last)]
    assert sorted(clocks) == list(range(clock, clock + size))
    shares = [last - first for first, last in bounds]
    assert max(shares) == -(-size // world)
    assert max(shares) - min(shares) <= 1


def test_a_billion_samples_start_at_once_anywhere():
    order = Order(10**9, seed=1, shuffle=True)
    order.items(7, 8)
    for start in (0, 10**9 // 2, 10**9 * 3 + 17):
        order.items(start, start + 128)
    assert order._block.nbytes < 2**18


def test_blocks_take_each_other_s_place_so_that_they_lie_in_no_batch_s_memory():
    order = Order(10**6, seed=1, shuffle=True)
    places = {order.items(start, start + 1_000).untyped_storage().data_ptr() for start in range(0, 100_000, 1_000)}
    assert len(places) == 1


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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sampler_is_the_order(workers):
    loader = DataLoader(Rich(), 4, sampler=[5, 5, 9, 1, 0, 3, 2], num_workers=workers)
    assert (loader.dataset_size, len(loader)) == (7, 2)
    assert [item for batch in loader for item in batch["item"].tolist()] == [5, 5, 9, 1, 0, 3, 2]
    assert loader.sampler == [5, 5, 9, 1, 0, 3, 2]


@pytest.mark.parametrize("make", [RandomSampler, lambda data: WeightedRandomSampler([1.0] * 50 + [3.0] * 50, 60)])
def test_torchs_samplers_resume_exactly(make):
    def items(loader):
        return [item for batch in loader for item in batch["item"].tolist()]

    loader = DataLoader(Rich(), 7, sampler=make(Rich()), seed=1)
    epochs = [items(loader) for _ in range(2)]
    assert epochs[0] != epochs[1]
    begun = DataLoader(Rich(), 7, sampler=make(Rich()), seed=1)
    items(begun)
    iterator = iter(begun)
    for _ in range(3):
        next(iterator)
    resumed = DataLoader(Rich(), 20, sampler=make(Rich()), num_workers=2)
    resumed.load_state_dict(begun.state_dict())
    assert items(resumed) == epochs[1][21:]
    with pytest.raises(ValueError, match=r"`sampler` is 'RandomSampler' there and '' here|`dataset_size`"):
        DataLoader(Rich(), 7, seed=1).load_state_dict(begun.state_dict())
