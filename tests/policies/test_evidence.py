from __future__ import annotations

import inspect
from dataclasses import replace
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.policies.model import Estimates, Z, first_growth

from adabatch import policies
from adabatch.noise.tap import EPOCHS, MEASURED_IN_A_HALF_LIFE
from adabatch.policies import _evidence
from adabatch.types import NoiseEstimate, Observation

POLICY = policies.noise_scale(1.0, maximum=4096)
NEXT = 128  # the size to which batches of 64 would grow


def observed(number, batch_size, noise):
    return Observation(number * batch_size, number, batch_size, noise=noise)


def grown(share, *, decisions, runs, **arguments):
    """For each run the number of its first growth where B_simple is that share of what growth asks for."""
    return first_growth(POLICY, share * NEXT, decisions=decisions, observed=observed, runs=runs, **arguments)


def test_the_errors_of_all_looks_add_up():
    for sides in (1, 2):
        quantiles = [_evidence.quantile(look, sides=sides) for look in range(1, 20_001)]
        errors = (sides * stats.norm.sf(quantiles)).tolist()
        assert sum(errors) == pytest.approx(_evidence.ERROR * 20_000 / 20_050, rel=1e-6)
        assert errors == sorted(errors, reverse=True)


@given(st.floats(2, 5), st.floats(20, 1e5))
def test_few_updates_take_the_quantile_of_students_distribution(z, measured):
    noise = NoiseEstimate(100.0, 50.0, inf, 100.0, 1.0, measured)  # one standard error is 0.01 / Z on the inverse scale
    low, high = _evidence.widened(noise, z)
    t = stats.t.isf(stats.norm.sf(z), measured - 1)
    assert 1 / low == pytest.approx(0.01 + 0.01 * t / Z, rel=3e-3)
    assert high == inf


def test_where_the_signal_alone_is_noisy_the_widened_interval_is_fiellers():
    """trace = 100 exactly, signal = 1 with a standard error of 0.2: signal + z * 0.2 over 100."""
    noise = NoiseEstimate(100.0, 100 / (1 + 0.2 * Z), 100 / (1 - 0.2 * Z), 100.0, 1.0, 1e9)
    for z in (1.0, Z, 3.0, 4.9):
        low, high = _evidence.widened(noise, z)
        assert low == pytest.approx(100 / (1 + 0.2 * z), rel=1e-5)
        assert high == pytest.approx(100 / (1 - 0.2 * z), rel=1e-4)
    assert _evidence.widened(noise, 5.1)[1] == inf
    below = NoiseEstimate(-1000.0, 100 / (0.3 * Z - 0.1), inf, 100.0, -0.1, 1e9)  # the signal came out negative
    assert _evidence.widened(below, 4.0)[0] == pytest.approx(100 / (4 * 0.3 - 0.1), rel=1e-5)


@given(
    st.floats(1e-3, 1e3),
    st.floats(-10, 10),
    st.floats(0, 1e4),
    st.floats(1e-3, 1e4),
    st.floats(1, 7),
    st.floats(20, 1e6),
)
def test_an_interval_only_widens(trace, signal, low, more, z, measured):
    noise = NoiseEstimate(trace / signal if signal else inf, low, low + more, trace, signal, measured)
    narrow, wide = _evidence.widened(noise, z), _evidence.widened(noise, z + 0.5)
    assert 0 <= wide[0] <= narrow[0]
    assert narrow[1] <= wide[1]


def test_nothing_is_known_of_an_unbounded_interval():
    assert _evidence.widened(NoiseEstimate(100.0, 0.0, inf, 100.0, 1.0, 100.0), 3.0) == (0.0, inf)


@pytest.mark.parametrize("measured", [20, 100, 1000])
@pytest.mark.parametrize("z", [2.0, 3.5, 5.0])
def test_the_trace_is_held_by_the_chi_squared_distribution(measured, z):
    noise = NoiseEstimate(100.0, 50.0, inf, 7.0, 1.0, measured)
    low, high = _evidence.variance_between(noise, z)
    assert low == pytest.approx(7 * measured / stats.chi2.isf(stats.norm.sf(z), measured), rel=0.02)
    exact = 7 * measured / stats.chi2.ppf(stats.norm.sf(z), measured)
    assert high == inf or high == pytest.approx(exact, rel=0.02 if measured >= 100 or z <= 2 else 0.6)


@pytest.mark.parametrize(
    "changed",
    [
        {"trace": nan},
        {"trace": 0.0},
        {"trace": -1.0},
        {"signal": inf},
        {"low": nan},
        {"low": -1.0},
        {"high": 10.0},
        {"low": 0.0, "high": 0.0},
    ],
)
def test_what_cannot_be_used(changed):
    values = {"noise_scale": 100.0, "low": 50.0, "high": 200.0, "trace": 100.0, "signal": 1.0, "measured": 50.0}
    assert _evidence.usable(NoiseEstimate(**values))
    assert not _evidence.usable(NoiseEstimate(**values | changed))


def test_the_estimators_interval_is_one_of_95_per_cent():
    """Of the stand-in, so that what follows is about policies."""
    source = Estimates(100.0, runs=4000)
    for _ in range(60):
        _, _, low, high, measured = source.step()
    assert measured > 40
    assert 0.93 < ((low <= 100) & (high >= 100)).mean() < 0.97


def test_an_interval_of_95_per_cent_acts_on_noise_and_a_policy_does_not():
    source, ever = Estimates(0.95 * NEXT, runs=40, half_life=30), [False] * 40
    for _ in range(1000):
        *_, low, _, measured = source.step()
        if measured >= _evidence.FEWEST:
            ever = [one or at >= NEXT for one, at in zip(ever, low, strict=True)]
    assert sum(ever) > 20, "looked at 1,000 times, it is wrong in most runs"
    assert sum(each is not None for each in grown(0.95, decisions=1000, runs=40, half_life=30)) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("directions", [5, 100])
@pytest.mark.parametrize("share", [0.5, 0.75, 0.9, 0.95])
def test_at_most_5_per_cent_of_200_runs_of_10_000_decisions_ever_grow_falsely(share, directions):
    falsely = grown(share, decisions=10_000, runs=200, directions=directions)
    assert sum(each is not None for each in falsely) <= 10


@pytest.mark.slow
@pytest.mark.parametrize(("share", "within", "least"), [(2, 400, 90), (3, 400, 180), (4, 300, 190), (16, 150, 190)])
def test_it_grows_where_it_should_within_so_many_measurements(share, within, least):
    """At so many times what growth asks for, by a tap's memory and margin; of 200 runs."""
    found = grown(share, decisions=within, runs=200, margin=EPOCHS)
    assert sum(each is not None for each in found) >= least


def test_it_grows_where_it_should():
    assert None not in grown(8, decisions=300, runs=10, margin=EPOCHS)


def test_the_stand_in_has_the_memory_of_a_tap():
    assert inspect.signature(Estimates).parameters["half_life"].default == MEASURED_IN_A_HALF_LIFE


@given(st.floats(1, 3), st.floats(1, 6), st.floats(-5, 5), st.floats(0, 100), st.floats(0.1, 100))
def test_a_margin_stays_as_it_is(margin, z, signal, low, more):
    """It is no error that more updates make smaller, so no look makes it larger."""
    plain = NoiseEstimate(100.0 / signal if signal else inf, low, low + more, 100.0, signal, 50.0)
    out = replace(plain, low=plain.low / margin, high=plain.high * margin, margin=margin)
    low, high = _evidence.widened(plain, z)
    assert _evidence.widened(out, z) == pytest.approx((low / margin, high * margin))
