"""Fieller's interval against a search for its ends; Student's quantiles against scipy's."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from adabatch.noise._interval import fieller, student

MEANS = st.floats(-8, 8).map(lambda value: round(value, 3))
SPREADS = st.floats(0.01, 2).map(lambda value: round(value, 3))
FAR = 1e7


def belongs(ratio, top, bottom, var_top, var_bottom, covariance, quantile):
    """Whether a ratio is not rejected, straight from its definition."""
    error = var_top - 2 * ratio * covariance + ratio * ratio * var_bottom
    return (top - ratio * bottom) ** 2 <= quantile**2 * error * (1 + 1e-9) + 1e-9


def naive(*numbers):
    """The least and the largest ratio from 0 on that belongs, on a grid and by halving; none where nothing does."""
    grid = [0.0, *(10 ** (power / 200) for power in range(-1400, 1401))]
    inside = [ratio for ratio in grid if belongs(ratio, *numbers)]
    if not inside:
        return None
    at = grid.index(inside[0]), grid.index(inside[-1])
    ends = []
    for index, step in zip(at, (-1, 1), strict=True):
        beyond = index + step
        if beyond < 0:
            ends.append(0.0)
        elif beyond == len(grid):
            ends.append(math.inf)
        else:
            within, without = grid[index], grid[beyond]
            for _ in range(100):
                middle = (within + without) / 2
                within, without = (middle, without) if belongs(middle, *numbers) else (within, middle)
            ends.append(within)
    return tuple(ends)


@settings(deadline=None)
@given(MEANS, MEANS, SPREADS, SPREADS, st.floats(-0.95, 0.95), st.floats(0.5, 6))
def test_the_interval_holds_all_ratios_that_are_not_rejected(top, bottom, spread, other, correlation, quantile):
    numbers = (top, bottom, spread**2, other**2, correlation * spread * other, quantile)
    low, high = fieller(*numbers)
    assert 0 <= low <= high
    told = abs(bottom) > quantile * other
    assume(abs(abs(bottom) - quantile * other) > 1e-2)
    if bottom < 0 and told:
        assert (low, high) == (0, math.inf)
        return
    assert math.isinf(high) != told, "it ends exactly where the mean below is told from 0"
    wanted = naive(*numbers)
    if wanted is None:  # all of it lies below 0
        assert low == high == 0
        return
    for mine, theirs in zip((low, high), wanted, strict=True):
        assert mine == pytest.approx(theirs, rel=2e-3, abs=1e-3) or (mine > FAR and theirs > FAR / 2), (mine, theirs)


def test_an_interval_without_noise_is_a_point():
    assert fieller(6.0, 2.0, 0.0, 0.0, 0.0, 2.0) == (3.0, 3.0)
    assert fieller(-6.0, 2.0, 0.0, 0.0, 0.0, 2.0) == (0.0, 0.0)
    assert fieller(6.0, 0.0, 0.0, 0.0, 0.0, 2.0) == (0.0, math.inf)


def test_one_root_alone():
    low, high = fieller(3.0, 1.0, 1.0, 0.25, 0.0, 2.0)  # the mean below is two errors from 0
    assert math.isinf(high)
    assert low == pytest.approx((3**2 - 4 * 1) / (2 * 3 * 1))


@settings(deadline=None)
@given(st.sampled_from([0.5, 0.9, 0.95]), st.floats(1, 3000))
def test_quantiles_of_student(confidence, freedom):
    assert student(confidence, freedom) == pytest.approx(stats.t.ppf((1 + confidence) / 2, freedom), rel=1e-4)
