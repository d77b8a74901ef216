import itertools
import math
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adabatch.data.order import ROUNDS_OF_SMALL, Order, items_of, mix, permute


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
        begun = time.perf_counter()
        order.items(start, start + 128)
        assert time.perf_counter() - begun < 0.1  # about a millisecond; the machine is shared
    assert order._block.nbytes < 2**18
