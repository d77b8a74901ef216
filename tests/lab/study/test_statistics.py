import math
import statistics as plain

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from adabatch.lab.study.statistics import (
    difference_over_samples,
    paired_difference,
    paired_ratio,
    sign_rank,
    skewed,
    spread,
    summary,
    t_probability,
    t_quantile,
    unseen_share,
)

# Student's t at 97.5 %, as every printed table has it.
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 29: 2.045, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize(("degrees", "value"), TABLE.items())
def test_t_quantile_is_the_printed_table(degrees, value):
    assert round(t_quantile(0.975, degrees), 3) == value


@given(st.floats(0.001, 0.999), st.integers(1, 500))
def test_t_quantile_is_scipys(probability, degrees):
    assert t_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9, abs=1e-9)


@given(st.floats(-50, 50), st.integers(1, 200))
@example(1e-6, 1)  # where scipy's is off by 1e-11
def test_t_probability_is_the_incomplete_beta_function(value, degrees):
    with mpmath.workdps(40):
        inside = mpmath.mpf(degrees) / (degrees + mpmath.mpf(value) ** 2)
        tail = mpmath.betainc(mpmath.mpf(degrees) / 2, 0.5, 0, inside, regularized=True) / 2
    assert t_probability(value, degrees) == pytest.approx(float(1 - tail if value > 0 else tail), abs=1e-12)


@given(st.integers(1, 400), st.floats(0.5, 0.999))
def test_sign_rank_is_the_largest_that_covers(n, confidence):
    def coverage(rank):
        return 1 - 2 * stats.binom.cdf(rank - 1, n, 0.5)

    rank = sign_rank(n, confidence=confidence)
    assert rank == 0 or coverage(rank) >= confidence - 1e-9
    assert rank == n // 2 or coverage(rank + 1) < confidence + 1e-9


def test_sign_rank_known_values():
    assert [sign_rank(n) for n in (1, 5, 6, 8, 9, 10, 12, 20)] == [0, 0, 1, 1, 2, 2, 3, 6]
    assert sign_rank(5000) > 2400  # no overflow


def test_paired_ratio_uses_order_statistics():
    tops = [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    found = paired_ratio(tops, [2.0] * 10)
    assert (found.median, found.low, found.high) == (2.75, 1.0, 4.5)


def test_paired_ratio_pairs_by_position():
    found = paired_ratio([2.0, 40.0, 6.0], [1.0, 20.0, 3.0])
    assert found.median == found.low == pytest.approx(2) == found.high


def test_few_pairs_use_t_on_logarithms():
    ratios = [1.5, 1.6, 1.8]
    logs = np.log(ratios)
    low, high = stats.t.interval(0.95, 2, loc=logs.mean(), scale=stats.sem(logs))
    found = paired_ratio(ratios, [1.0] * 3)
    assert (found.median, found.low, found.high) == pytest.approx((1.6, math.exp(low), math.exp(high)))


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=40))
def test_the_interval_contains_the_median(ratios):
    found = paired_ratio(ratios, [1.0] * len(ratios))
    assert found.low <= found.median * (1 + 1e-9)
    assert found.median <= found.high * (1 + 1e-9)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=2, max_size=20))
def test_swapping_the_sides_inverts_the_interval(pairs):
    tops, bottoms = zip(*pairs, strict=True)
    there, back = paired_ratio(tops, bottoms), paired_ratio(bottoms, tops)
    assert there.low == pytest.approx(1 / back.high)
    assert there.high == pytest.approx(1 / back.low)


def test_paired_difference_is_scipys():
    values, baseline = [0.95, 0.96, 0.97, 0.93], [0.94, 0.955, 0.98, 0.92]
    interval = stats.ttest_rel(values, baseline).confidence_interval(0.95)
    found = paired_difference(values, baseline)
    assert (found.mean, found.low, found.high) == pytest.approx((0.00375, interval.low, interval.high))


def test_one_pair_has_no_interval():
    assert paired_ratio([3.0], [2.0]).to_json() == {"median": 1.5, "low": None, "high": None}
    assert paired_difference([0.5], [0.25]).to_json() == {"mean": 0.25, "low": None, "high": None}
    assert summary([0.5]).to_json() == {"mean": 0.5, "std": None, "n": 1, "values": [0.5]}


def test_summary_and_spread():
    assert summary([1.0, 2.0, 4.0]).std == pytest.approx(plain.stdev([1, 2, 4]))
    assert spread([3.0, 1.0, 2.0]).to_json() == {"median": 2.0, "min": 1.0, "max": 3.0, "values": [3.0, 1.0, 2.0]}


@pytest.mark.parametrize("n", [3, 10])
def test_coverage_of_the_ratio_by_simulation(n):
    """Log-normal ratios: both methods must cover the true median at least 95 % of the time, less simulation noise."""
    generator = np.random.default_rng(0)
    hits, trials = 0, 4000
    for _ in range(trials):
        found = paired_ratio(list(1.6 * np.exp(generator.normal(0, 0.1, n))), [1.0] * n)
        hits += found.low <= 1.6 <= found.high
    assert 0.94 <= hits / trials <= 0.99


def test_coverage_of_the_ratio_with_outliers():
    """A busy machine slows one run in five by up to three times: the sign interval still covers, and stays narrow."""
    generator = np.random.default_rng(1)
    hits, widths, trials = 0, [], 2000
    for _ in range(trials):
        slow = np.where(generator.random((2, 10)) < 0.2, generator.uniform(1, 3, (2, 10)), 1.0)
        ratios = 1.6 * np.exp(generator.normal(0, 0.02, 10)) * slow[0] / slow[1]  # symmetric in the logarithm
        found = paired_ratio(list(ratios), [1.0] * 10)
        hits += found.low <= 1.6 <= found.high
        widths.append(found.high / found.low)
    assert hits / trials >= 0.96
    assert np.median(widths) < 2


def test_coverage_of_the_difference_by_simulation():
    generator = np.random.default_rng(2)
    hits, trials = 0, 4000
    for _ in range(trials):
        values = generator.normal(0.001, 0.007, 5)
        found = paired_difference(list(values), [0.0] * 5)
        hits += found.low <= 0.001 <= found.high
    assert 0.94 <= hits / trials <= 0.96


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_ratio([1.0], [1.0, 2.0]), "pairs must be of equal length, got 1 and 2 values"),
        (lambda: paired_ratio([], []), "`pairs` must hold at least one value, got none"),
        (lambda: paired_ratio([0.0], [1.0]), "`ratios` must be greater than 0, got 0.0"),
        (lambda: paired_ratio([math.nan], [1.0]), "`ratios` must be finite, got nan"),
        (lambda: paired_difference([1.0], []), "pairs must be of equal length"),
        (lambda: paired_difference([1.0, 2.0], [1.0, 1.0], confidence=1), "`confidence` must be less than 1, got 1"),
        (lambda: summary([]), "`values` must hold at least one value, got none"),
        (lambda: spread([]), "`values` must hold at least one value, got none"),
        (lambda: sign_rank(0), "`n` must be at least 1, got 0"),
        (lambda: t_quantile(1.0, 3), "`probability` must be less than 1, got 1.0"),
        (lambda: unseen_share(0), "`n` must be at least 1, got 0"),
        (lambda: skewed([]), "`values` must hold at least one value, got none"),
        (lambda: difference_over_samples([[True]], []), "pairs must be of equal length, got 1 and 0 runs"),
        (lambda: difference_over_samples([[True], [True, True]], [[True], [True, True]]), "test samples, got 1 and 2"),
        (lambda: difference_over_samples([[True]], [[True, True]]), "pairs must be of equal length, got 1 and 2"),
        (lambda: difference_over_samples([], []), "`pairs` must hold at least one value, got none"),
        (lambda: t_quantile(0.5, 0), "`degrees` must be at least 1, got 0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def judged(generator, *, seeds, samples, both, ours, theirs, share):
    """Right or wrong of two sides: a sample has its kind, and in a share of seeds its networks follow it."""
    kinds = generator.choice(4, samples, p=[both, ours, theirs, 1 - both - ours - theirs])
    sides = []
    for apart in (1, 2):
        as_kind = (kinds == 0) | (kinds == apart)
        sides.append(np.where(generator.random((seeds, samples)) < share, as_kind, kinds == 0))
    return sides, share * (ours - theirs)


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize(("ours", "theirs"), [(0.02, 0.02), (0.005, 0.02), (0.0, 0.003), (0.1, 0.02)])
def test_coverage_over_samples_by_simulation(seeds, ours, theirs):
    """Other test sets of 300 samples for networks that stay as they are; also where they hardly ever disagree."""
    generator = np.random.default_rng(3)
    hits, trials = 0, 600
    for _ in range(trials):
        (right, base), truth = judged(
            generator, seeds=seeds, samples=300, both=0.85, ours=ours, theirs=theirs, share=1.0 if seeds == 1 else 0.7
        )
        found = difference_over_samples(right.tolist(), base.tolist())
        hits += found.low <= truth <= found.high
    assert hits / trials >= 0.935  # 0.95 less two and a half standard errors of the simulation
    assert found.low <= found.mean <= found.high


def test_difference_over_samples_is_the_mean_over_seeds():
    right = [[True, True, False, True], [True, False, False, True]]
    base = [[True, False, False, True], [False, False, True, True]]
    found = difference_over_samples(right, base)
    differences = [0.5, 0.5, -0.5, 0.0]
    interval = stats.t.interval(0.95, 5, *(f([*differences, 1, -1]) for f in (np.mean, stats.sem)))
    assert found.mean == 0.125
    assert (found.low, found.high) == pytest.approx(interval)
    (low,) = {difference_over_samples([[True] * n], [[True] * n]).low < 0 for n in (10, 1000)}
    assert low  # no disagreement is no certainty


def drawn(generator, kind, shape):
    return {
        "normal": lambda: generator.normal(size=shape),
        "exponential": lambda: generator.exponential(size=shape),
        "disasters": lambda: 0.2 * generator.normal(size=shape) - 3 * (generator.random(shape) < 0.1),
    }[kind]()


@pytest.mark.parametrize("n", [5, 6, 8, 10, 20, 30])
def test_normal_values_are_called_skewed_in_one_of_twenty_cases(n):
    values = drawn(np.random.default_rng(4), "normal", (3000, n)).tolist()
    assert 0.035 < np.mean([skewed(row) for row in values]) < 0.065


@pytest.mark.parametrize("kind", ["exponential", "disasters"])
def test_skew_is_seen_the_better_the_more_seeds_there_are(kind):
    generator = np.random.default_rng(5)
    found = [np.mean([skewed(row) for row in drawn(generator, kind, (1000, n)).tolist()]) for n in (5, 10, 30)]
    assert found == sorted(found)
    assert found[1] > 0.3
    assert found[2] > 0.8


def test_too_few_values_or_equal_ones_show_no_skew():
    assert [skewed([0.0] * (n - 1) + [-1.0]) for n in (1, 2, 3, 4, 5)] == [None, None, None, None, True]
    assert skewed([0.25] * 8) is None
    assert skewed([0.95 - 0.9, 0.05, 0.05, 0.05, 0.05, 0.05]) is None  # but for rounding
    assert skewed([-2.0, -1.0, 0.0, 1.0, 2.0]) is False
    assert skewed([0.0] * 9 + [1.0]) is True  # either way


@pytest.mark.parametrize("n", [1, 3, 10])
def test_unseen_failures_are_what_no_failure_leaves_open(n):
    share = unseen_share(n)
    assert stats.binom.pmf(0, n, share) == pytest.approx(0.05)
