import itertools
import math
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adabatch.data.order import Order, items_of, permute


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
        begun = time.perf_counter()
        order.items(start, start + 128)
        assert time.perf_counter() - begun < 0.1  # about a millisecond; the machine is shared
    assert order._block.nbytes < 2**18
