import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from adabatch.lab.study import profile
from adabatch.lab.study.measures import EARLIER, LATER, Arrival
from adabatch.lab.study.profile import Point, Runs, level, optimum

SIZES = (16, 64, 256, 1024)


def runs_of(updates, censored=""):
    return {size: [Arrival(one, censored=censored)] for size, one in zip(SIZES, updates, strict=True)}


@given(st.lists(st.tuples(st.floats(-2, 2), st.sampled_from([0, 1, -1])), min_size=1, max_size=8), st.floats(0.02, 1))
@settings(max_examples=50, deadline=None)
def test_the_level_has_the_least_deviance(values, std):
    left, side = np.array([0.3, *[value for value, _ in values]]), np.array([0.0, *[sign for _, sign in values]])

    def deviance(at):
        free = np.sum(((left[side == 0] - at) / std) ** 2)
        return free - 2 * sum(
            stats.norm.logcdf(sign * (at - one) / std) for one, sign in zip(left, side, strict=True) if sign
        )

    found, least = level(left, side, std)
    wanted = optimize.minimize_scalar(deviance, bounds=(-12, 12), method="bounded", options={"xatol": 1e-10})
    assert least == pytest.approx(deviance(float(found)), rel=1e-9, abs=1e-9)
    assert least <= wanted.fun + 1e-7 * (1 + abs(wanted.fun))


@given(st.floats(2, 9), st.floats(0.5, 3), st.floats(1, 100))
@settings(max_examples=40, deadline=None)
def test_the_quantities_of_form_2_are_those_of_a_fine_grid(critical, exponent, smallest):
    """S_min, the fewest samples and the borders of the regimes, read off a table of updates by batch size."""
    runs = Runs.of(runs_of([8.0, 4.0, 2.0, 1.0]), smallest, 0.95)
    found = profile._quantities(runs, 2, Point(3.0, critical, exponent))
    logs = np.linspace(math.log(smallest), 30, 400_001)
    shape = np.logaddexp(0, exponent * (critical - logs))
    middle = np.logaddexp(0, exponent * (critical - runs.middle))
    samples = logs + shape
    assert np.log(found["min_updates"]) == pytest.approx(3 - middle, abs=1e-9)
    assert np.log(found["min_samples"]) == pytest.approx(samples.min() + 3 - middle, abs=1e-6)
    more = logs[np.nonzero(samples <= samples.min() + math.log(1.2))[0][-1]]
    assert np.log(found["batch_at_20_percent_more_samples"]) == pytest.approx(more, abs=2e-4)
    saved = 1 - np.exp(np.logaddexp(0, exponent * (critical - logs - math.log(2))) - shape)
    assert np.log(found["stagnation_batch"]) == pytest.approx(
        logs[np.nonzero(saved < 0.1)[0][0]] if saved[0] >= 0.1 else np.log(found["stagnation_batch"]), abs=2e-4
    )
    assert np.interp(critical, logs, shape, left=math.log(2)) == pytest.approx(math.log(2), abs=1e-4)
    if exponent > 1 and found["best_batch"] > smallest:
        assert np.log(found["best_batch"]) == pytest.approx(logs[samples.argmin()], abs=0.05)
    elif exponent <= 1:
        assert found["best_batch"] == 0


def test_form_1_is_form_2_at_exponent_1():
    runs = Runs.of(runs_of([8.0, 4.0, 2.0, 1.0]), None, 0.95)
    one = profile._quantities(runs, 1, Point(3.0, 5.0, 1.0))
    assert one["min_samples"] == pytest.approx(one["min_updates"] * one["critical_batch"])
    assert one["stagnation_batch"] == pytest.approx(4 * math.exp(5))
    assert one["batch_at_20_percent_more_samples"] == pytest.approx(math.exp(5) / 5 + 1.2 * 16)


@pytest.mark.parametrize("form", [1, 2])
def test_the_optimum_is_that_of_another_optimizer_also_with_censored_runs(form):
    generator = np.random.default_rng(0)
    told = {
        size: [
            Arrival(one, censored=how) for one, how in zip(steps, ("", "", LATER if size > 500 else ""), strict=True)
        ]
        for size, steps in (
            (size, 100 * (1 + 300 / size) * np.exp(0.1 * generator.standard_normal(3))) for size in (16, 64, 256, 1024)
        )
    }
    told[8] = [Arrival(4100.0, censored=EARLIER)]
    runs, std = Runs.of(told, None, 0.95), 0.1
    found = optimum(runs, form, std)

    def deviance(at):
        mean = at[0] + np.log1p(np.exp((at[2] if form == 2 else 1) * (at[1] - runs.batch)))
        z, here = (runs.updates - mean) / std, runs.side == 0
        return np.sum(z[here] ** 2) - 2 * np.sum(stats.norm.logcdf(-runs.side[~here] * z[~here]))

    wanted = optimize.minimize(
        deviance, [4, 5, 1][: form + 1], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-9}
    )
    assert found.deviance == pytest.approx(wanted.fun, abs=1e-6)
    assert found.point.critical == pytest.approx(wanted.x[1], abs=1e-3)


def test_without_an_arrival_there_is_no_optimum():
    found = optimum(Runs.of(runs_of([1.0] * 4, LATER), None, 0.95), 2, 0.1)
    assert math.isnan(found.point.critical)


def test_batch_sizes_with_censored_runs_do_not_tell_the_spread():
    """What is left of their runs differs less than runs do."""
    told = {16: [Arrival(100.0), Arrival(110.0)], 64: [Arrival(50.0), Arrival(50.1), Arrival(50.1, censored=LATER)]}
    found = Runs.of(told, None, 0.95).spread()
    assert found.variance == pytest.approx(math.log(1.1) ** 2 / 2)
    assert found.degrees == 1
