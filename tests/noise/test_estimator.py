"""The estimator: exact on tiny populations, its intervals by simulation, its state bit for bit."""

from __future__ import annotations

import itertools
import json
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.noise.checks import check_estimator

from adabatch.noise import Estimator, Parts, parts, trace_and_signal

VECTORS = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=3)


def length(vector):
    return sum(value * value for value in vector)


def mean(vectors):
    return [Fraction(sum(column), len(vectors)) for column in zip(*vectors, strict=True)]


def truth(population):
    """tr(Sigma) and |G|^2 of samples drawn with replacement."""
    centre = mean(population)
    spread = sum(length([a - b for a, b in zip(each, centre, strict=True)]) for each in population)
    return Fraction(spread, len(population)), length(centre)


def cut(batch, sizes):
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [batch[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def shown(batch, sizes):
    pieces = cut(batch, sizes)
    norms = [length(mean(piece)) if piece else 7 for piece in pieces]
    return trace_and_signal(parts([Fraction(size) for size in sizes], norms), length(mean(batch)))


@settings(max_examples=25, deadline=None)
@given(VECTORS, st.sampled_from([(1, 1), (1, 2), (1, 1, 1), (2, 2), (1, 3), (1, 0, 2), (2, 1, 1)]))
def test_the_expectation_over_all_batches_is_the_truth(population, sizes):
    """Exactly: all batches that can be drawn, in fractions."""
    batches = list(itertools.product(population, repeat=sum(sizes)))
    found = [shown(batch, sizes) for batch in batches]
    averaged = tuple(sum(column) / len(batches) for column in zip(*found, strict=True))
    assert averaged == truth(population)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=4, max_size=6), st.integers(1, 3))
def test_over_all_cuts_of_one_batch_the_trace_is_its_variance(batch, size):
    """The mean over all orders of a batch is the variance of its samples, with the divisor N - 1, whatever the cut."""
    sizes = (size, len(batch) - size)
    found = [shown(order, sizes) for order in itertools.permutations(batch)]
    variance = truth(batch)[0] * len(batch) / (len(batch) - 1)
    assert sum(trace for trace, _ in found) / len(found) == variance
    whole = length(mean(batch))
    assert sum(signal for _, signal in found) / len(found) == whole - variance / len(batch)


@settings(max_examples=15, deadline=None)
@given(VECTORS, st.sampled_from([(1, 2), (1, 3), (2, 1, 1)]), st.lists(st.integers(1, 4), min_size=3, max_size=3))
def test_other_weights_than_samples(population, sizes, weights):
    """Where the parts weigh otherwise, as with tokens, it is unbiased too: for the weighted gradient."""
    weights = weights[: len(sizes)]
    traces, signals, batches = 0, 0, list(itertools.product(population, repeat=sum(sizes)))
    for batch in batches:
        means = [mean(piece) for piece in cut(batch, sizes)]
        whole = [Fraction(sum(w * g for w, g in zip(weights, column, strict=True)), sum(weights))
                 for column in zip(*means, strict=True)]  # fmt: skip
        found = parts([Fraction(n) for n in sizes], [length(g) for g in means], weights)
        trace, signal = trace_and_signal(found, length(whole))
        traces, signals = traces + trace, signals + signal
    assert (traces / len(batches), signals / len(batches)) == truth(population)


def test_the_formulas_for_equal_parts():
    """As they are printed: m the mean of the squares, K parts of b = B / K samples."""
    squares, whole, size = [5.0, 3.0, 4.0, 8.0], 2.5, 3
    count, m = len(squares), sum(squares) / len(squares)
    trace, signal = trace_and_signal(parts([size] * count, squares), whole)
    assert trace == pytest.approx(size * count / (count - 1) * (m - whole))
    assert signal == pytest.approx((count * whole - m) / (count - 1))


def test_parts_add_up_and_empty_ones_are_left_out():
    one, other = parts([2, 0], [5.0, math.nan]), parts([3], [4.0])
    both = Parts(*(a + b for a, b in zip(one, other, strict=True)))
    assert both == parts([2, 3], [5.0, 4.0])
    assert parts([2, 3], [5.0, math.nan], [2, 0]) == parts([2], [5.0])
    with pytest.raises(ValueError, match=r"`found` must come from two parts at least, got 1; cut the batch"):
        trace_and_signal(one, 4.0)
    with pytest.raises(ValueError, match=r"`sq_norms` must hold one number for each part, got 2 sizes, 1 norms"):
        parts([1, 2], [3.0])


PAIRS = st.lists(
    st.tuples(st.floats(-50, 200), st.floats(-2, 5), st.floats(0, 40)), min_size=1, max_size=25
)  # fmt: skip


@settings(deadline=None)
@given(PAIRS, st.floats(0.5, 100))
def test_sums_are_weighted_by_age(pairs, half_life):
    estimator = Estimator(half_life)
    for trace, signal, age in pairs:
        estimator.add(trace, signal, age=age)
    ages = [sum(age for *_, age in pairs[index + 1 :]) for index in range(len(pairs))]
    weights = [2 ** (-age / half_life) for age in ages]
    found = estimator.estimate()
    total = sum(weights)
    means = [sum(w * pair[i] for w, pair in zip(weights, pairs, strict=True)) / total for i in (0, 1)]
    assert (found.trace, found.signal) == pytest.approx(tuple(means), abs=1e-9)
    assert found.measured == pytest.approx(total**2 / sum(w * w for w in weights))
    assert 0 <= found.low <= found.high
    if found.signal:
        assert found.noise_scale == found.trace / found.signal, "a ratio of means, negative ones kept"
    if found.measured < 2:
        assert (found.low, found.high) == (0, math.inf), "one update tells nothing"


def test_the_interval_is_that_of_the_plain_sample():
    """Without ages: variances with the divisor n (n - 1), by Fieller's definition on the ends."""
    pairs = [(90.0, 1.0), (120.0, 1.4), (100.0, 0.7), (95.0, 1.2), (60.0, 0.9)]
    estimator, n = Estimator(10), len(pairs)
    for trace, signal in pairs:
        estimator.add(trace, signal, age=0)
    found = estimator.estimate()
    for end in (found.low, found.high):
        differences = [trace - end * signal for trace, signal in pairs]
        centre = sum(differences) / n
        error = math.sqrt(sum((value - centre) ** 2 for value in differences) / n / (n - 1))
        assert abs(centre) / error == pytest.approx(2.7764451, rel=1e-5)  # Student's t, 4 degrees of freedom


RUNS = 400


@pytest.mark.parametrize("signal", [1.0, 0.3, 0.03])
def test_intervals_cover(signal):
    """Gaussian gradients in 20 dimensions, halves of 64 samples, 30 updates; with little signal it is told less."""
    source, size, dimensions, updates, true = random.Random(5), 32, 20, 30, 400.0
    covered = unbounded = 0
    for _ in range(RUNS):
        estimator = Estimator(1e9)
        for _ in range(updates):
            spread = math.sqrt(true * signal / dimensions / size)
            g = [
                [source.gauss(math.sqrt(signal) * (axis == 0), spread) for axis in range(dimensions)] for _ in range(2)
            ]
            whole = length([(a + b) / 2 for a, b in zip(*g, strict=True)])
            estimator.add(*trace_and_signal(parts([size] * 2, [length(each) for each in g]), whole), age=0)
        found = estimator.estimate()
        covered += found.low <= true <= found.high
        unbounded += math.isinf(found.high)
    error = math.sqrt(0.95 * 0.05 / RUNS)
    assert covered / RUNS >= 0.95 - 4 * error - 0.01
    assert covered / RUNS <= 0.95 + 4 * error
    assert unbounded < RUNS


def test_without_a_signal_the_interval_has_no_upper_end():
    source, unbounded, rejected = random.Random(1), 0, 0
    for _ in range(RUNS):
        estimator = Estimator(1e9)
        for _ in range(20):
            estimator.add(source.gauss(100, 10), source.gauss(0, 1), age=0)
        found = estimator.estimate()
        unbounded += math.isinf(found.high)
        rejected += found.low > 1e6
    assert unbounded / RUNS >= 0.95
    assert rejected == 0


def test_contract():
    def feed(estimator, index):
        source = random.Random(index)
        estimator.add(source.gauss(100, 30), source.gauss(1, 0.4), age=source.random())

    check_estimator(lambda: Estimator(3.0), feed)


def test_merging_is_seeing_both():
    one, other, both = (Estimator(5.0) for _ in range(3))
    for index, each in enumerate([one, other, one, other]):
        for estimator in {each, both}:
            estimator.add(100 + index, 1 + index, age=0)
    one.merge(other)
    assert one.state_dict() == pytest.approx(both.state_dict())
    assert one.estimate() == both.estimate()
    with pytest.raises(ValueError, match=r"`other` must have the half-life of 5, got"):
        one.merge(Estimator(4.0))


def test_bad_input():
    estimator = Estimator(5.0)
    assert estimator.estimate() is None
    with pytest.raises(ValueError, match=r"`half_life` must be greater than 0, got 0"):
        Estimator(0)
    with pytest.raises(ValueError, match=r"`trace` must be finite, got nan"):
        estimator.add(math.nan, 1.0, age=0)
    with pytest.raises(ValueError, match=r"`signal` must be finite, got inf"):
        estimator.add(1.0, math.inf, age=0)
    with pytest.raises(ValueError, match=r"`age` must be at least 0, got -1"):
        estimator.add(1.0, 1.0, age=-1)
    state = estimator.state_dict()
    with pytest.raises(ValueError, match=r"`half_life` must be 5.0 as in the state, got 6.0; resume with the same"):
        Estimator(6.0).load_state_dict(state)
    for broken in ({}, {**state, "format": 2}, {**state, "w": -1.0}, {**state, "w": 1.0}, None):
        with pytest.raises(ValueError, match="`state` must"):
            estimator.load_state_dict(broken)
    assert json.loads(json.dumps(state)) == state
