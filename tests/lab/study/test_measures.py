import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from adabatch.lab.shapes import faults
from adabatch.lab.study.measures import (
    EARLIER,
    LATER,
    Arrival,
    Estimate,
    Point,
    ToTarget,
    best_batch_target,
    first_arrival,
    means,
    paper_target,
    pooled,
    smoothed,
    to_target,
)

losses = st.lists(st.floats(0.1, 3), min_size=1, max_size=9)


def curve(values, every=10, batch=4):
    """Points at 10, 20, 40... updates; seconds are half the updates."""
    at = [every * 2**place for place in range(len(values))]
    return [Point(updates, batch * updates, updates / 2, loss) for updates, loss in zip(at, values, strict=True)]


def naive_monotone(values):
    """The least-squares fit that does not rise, by its max-min formula: Robertson, Wright and Dykstra 1988, 1.4.4."""
    values = values[: values.index(min(values)) + 1]
    n = len(values)
    return [
        min(max(float(np.mean(values[start : end + 1])) for end in range(place, n)) for start in range(place + 1))
        for place in range(n)
    ]


def naive_arrival(points, target):
    """The first crossing of the smoothed curve by walking in small steps of log updates."""
    values = naive_monotone([point.loss for point in points])
    logs = np.log([point.updates for point in points[: len(values)]])
    walk = np.linspace(logs[0], logs[-1], 200_001)
    below = np.nonzero(np.interp(walk, logs, values) <= target)[0]
    return math.exp(walk[below[0]]) if len(below) else None


@given(losses)
@settings(deadline=None)
def test_smoothing_is_the_monotone_fit_up_to_the_lowest_loss(values):
    found = smoothed(curve(values))
    assert [point.loss for point in found] == pytest.approx(naive_monotone(values), abs=1e-12)
    assert [point.updates for point in found] == [10 * 2**place for place in range(len(found))]


@given(losses, st.floats(0.1, 3))
@settings(max_examples=40, deadline=None)
def test_the_first_arrival_is_the_naive_one(values, target):
    found = first_arrival(curve(values), target)
    naive = naive_arrival(curve(values), target)
    if naive is None:
        assert (found.censored, found.updates) == (LATER, 10 * 2 ** (len(values) - 1))
    elif found.censored:
        assert (found.censored, found.updates) == (EARLIER, 10)
    else:
        assert found.updates == pytest.approx(naive, rel=1e-4)
        assert (found.samples, found.seconds) == pytest.approx((4 * found.updates, found.updates / 2))


def test_the_line_is_in_the_logarithm_of_updates():
    found = first_arrival([Point(100, 1600, 3.0, 0.9), Point(400, 6400, 9.0, 0.5)], 0.7)
    assert (found.updates, found.samples, found.seconds) == pytest.approx((200, 3200, 5))


def test_a_rise_after_the_lowest_loss_plays_no_part():
    assert first_arrival(curve([2.0, 1.0, 0.5, 3.0, 3.0]), 0.5).updates == 40


def test_a_loss_that_is_not_finite_ends_the_curve():
    for lost in (math.nan, math.inf, None):
        points = curve([2.0, 1.0, lost, 0.1])
        assert [point.loss for point in smoothed(points)] == [2.0, 1.0]
        found = first_arrival(points, 0.5)
        assert (found.censored, found.updates) == (LATER, 80)
    assert first_arrival(curve([math.nan]), 1.0).censored == LATER
    assert json.loads(json.dumps(curve([math.inf])[0].to_json(), allow_nan=False))["loss"] is None


@pytest.mark.parametrize("ratio", [2**0.25, 2.0])
def test_noise_does_not_make_arrivals_early(ratio):
    """Noise of 0.3 of the fall per e-fold: the docstring's claim, and that of a raw crossing, which is early."""
    generator, logs = np.random.default_rng(0), np.log(ratio) * np.arange(int(math.log(64) / math.log(ratio)) + 1)
    target, late, raw = -logs[len(logs) // 2] - 0.1, [], []
    for _ in range(400):
        noisy = 9 - logs + 0.3 * generator.standard_normal(len(logs))
        points = [Point(round(1e6 * math.exp(log)), 1, 0.0, loss) for log, loss in zip(logs, noisy, strict=True)]
        late.append(math.log(first_arrival(points, 9 + target).updates / 1e6) + target)
        place = int(np.argmax(noisy <= 9 + target))
        share = (noisy[place - 1] - 9 - target) / (noisy[place - 1] - noisy[place]) if place else 0
        raw.append(logs[place - 1] + share * (logs[place] - logs[place - 1]) + target if place else logs[0] + target)
    assert np.mean(late) == pytest.approx(0, abs=0.01 + 2 * stats.sem(late))
    if ratio < 2:
        assert np.mean(raw) < -0.06


def test_bad_curves():
    with pytest.raises(ValueError, match="`curve` must hold at least one point, got none"):
        first_arrival([], 1.0)
    with pytest.raises(ValueError, match="`curve` must have growing updates"):
        first_arrival([*curve([1.0]), *curve([1.0])], 1.0)
    with pytest.raises(ValueError, match="`target` must be finite"):
        first_arrival(curve([1.0]), math.nan)


@given(st.dictionaries(st.sampled_from([16, 64, 256]), st.lists(losses, min_size=1, max_size=3), min_size=1))
@settings(deadline=None)
def test_all_seeds_of_the_best_batch_arrive_and_of_no_other_before(runs):
    curves = {size: [curve(values, batch=size) for values in seeds] for size, seeds in runs.items()}
    target = best_batch_target(curves)
    assert all(first_arrival(run, target.loss).censored != LATER for run in curves[target.batch_size])
    lower = math.nextafter(target.loss, -math.inf)
    for seeds in curves.values():
        assert any(first_arrival(run, lower).censored == LATER for run in seeds)


def test_the_budget_counts_and_a_lost_seed_rules_a_batch_out():
    curves = {
        16: [curve([2.0, 1.5, 1.2], batch=16)],
        64: [curve([2.0, 1.0, 0.9], batch=64), curve([2.0, 1.1, 1.0], batch=64)],
    }
    assert best_batch_target(curves).to_json() == {"loss": 1.0, "batch_size": 64}
    assert best_batch_target(curves, budget_samples=640).to_json() == {"loss": 1.2, "batch_size": 16}
    curves[64][0] = curve([math.nan, 0.1], batch=64)
    assert best_batch_target(curves).batch_size == 16
    with pytest.raises(ValueError, match="`curves` must have a batch size with a finite loss for every seed"):
        best_batch_target(curves, budget_samples=1)
    with pytest.raises(ValueError, match="`curves` must have at least one run"):
        best_batch_target({16: []})


def test_the_papers_target_is_the_lower_quartile_of_the_largest_batch():
    curves = {16: [curve([0.1])], 64: [curve([5.0, 4.0, 3.0]), curve([2.0, math.nan])]}
    assert paper_target(curves).to_json() == {"loss": 3.0, "batch_size": 64}
    with pytest.raises(ValueError, match="finite losses at the largest batch size, 64"):
        paper_target({64: [curve([math.nan])]})


updates = st.floats(1, 1e5)
groups = st.dictionaries(
    st.sampled_from([8, 16, 32, 64]), st.lists(updates, min_size=2, max_size=4, unique=True), min_size=2
)


@given(groups)
@settings(deadline=None)
def test_speedups_are_those_of_pooled_t(runs):
    rows = to_target({size: [Arrival(k) for k in seeds] for size, seeds in runs.items()})
    logs = {size: np.log(seeds) for size, seeds in runs.items()}
    degrees = sum(len(seeds) - 1 for seeds in runs.values())
    std = math.sqrt(sum(np.var(seeds, ddof=1) * (len(seeds) - 1) for seeds in logs.values()) / degrees)
    base, t = min(runs), stats.t.ppf(0.975, degrees)
    for row in rows[1:]:
        middle = logs[base].mean() - logs[row.batch_size].mean()
        half = t * std * math.sqrt(1 / len(logs[base]) + 1 / len(logs[row.batch_size]))
        wanted = np.exp([middle, middle - half, middle + half])
        assert (row.speedup.estimate, *row.speedup.interval) == pytest.approx(tuple(wanted), rel=1e-6)
        ideal = row.batch_size / base
        assert row.ideal == ideal
        cost = (row.cost.estimate, *row.cost.interval)
        assert cost == pytest.approx((ideal / wanted[0], ideal / wanted[2], ideal / wanted[1]), rel=1e-6)
        assert row.updates.estimate == pytest.approx(math.exp(logs[row.batch_size].mean()))
    assert rows[0].speedup == Estimate(1.0, 1.0, 1.0)


@given(groups, st.data())
@settings(deadline=None)
def test_a_censored_run_only_gives_bounds_that_hold(runs, data):
    """Each interval with a run censored contains the side that would be there without, if the spread is the same."""
    whole = {size: [Arrival(k, 2 * k, k) for k in seeds] for size, seeds in runs.items()}
    spread = {4: [Arrival(10.0, 20.0, 10.0), Arrival(11.0, 22.0, 11.0)]}
    size = data.draw(st.sampled_from(sorted(runs)))
    cut = data.draw(st.floats(0.1, 1)) * runs[size][0]
    part = {**whole, size: [Arrival(cut, 2 * cut, cut, LATER), *whole[size][1:]]}
    found = {row.batch_size: row for row in to_target({**part, **spread}, base=4)}[size]
    assert found.updates.estimate is found.updates.high is found.speedup.estimate is found.cost.high is None
    assert (found.arrived, found.n, found.speedup.low) == (len(runs[size]) - 1, len(runs[size]), 0)
    known = to_target({size: [Arrival(runs[size][0]), *whole[size][1:]], **spread}, base=4)
    mean = known[1].updates.estimate
    assert found.updates.low < mean * 1.0000001
    assert found.speedup.high * mean * 1.0000001 > math.sqrt(110)


def test_without_repeats_or_spread_there_is_no_interval():
    for runs in ({16: [100.0], 64: [50.0]}, {16: [100.0, 100.0], 64: [50.0, 50.0]}):
        row = to_target({size: [Arrival(k) for k in seeds] for size, seeds in runs.items()})[1]
        assert row.speedup == Estimate(pytest.approx(2.0), 0.0, None)
        assert row.seconds == Estimate()


def test_an_arrival_at_the_first_point_bounds_from_above():
    row = to_target({16: [Arrival(100), Arrival(104)], 64: [Arrival(50, censored=EARLIER), Arrival(50)]})[1]
    assert row.updates.estimate is None
    assert row.updates.low == 0
    assert row.speedup.high is None
    assert row.speedup.low == pytest.approx(
        math.sqrt(10400) / 50 / math.exp(stats.t.ppf(0.975, 1) * math.log(1.04) / math.sqrt(2))
    )
    assert row.arrived == 2


def test_records_go_through_json_without_nan():
    rows = to_target({16: [Arrival(100, 1600, 3.0), Arrival(104)], 64: [Arrival(50, censored=LATER)]})
    for row in rows:
        text = json.dumps(row.to_json(), allow_nan=False)
        assert not list(faults(json.loads(text), ToTarget))
        assert ToTarget.of_json(json.loads(text)) == row
    assert Estimate.of(math.inf, math.nan, math.inf) == Estimate(None, 0.0, None)


def test_pooling():
    found = pooled([[1.0], [2.0, 4.0], [0.0, 0.0, 3.0]])
    assert found.variance == pytest.approx((2 + 6) / 3)
    assert found.degrees == 3
    assert pooled([[1.0], [2.0]]) == pooled([[1.0, 1.0]]) == (0.0, 0)


def test_bad_arrivals():
    with pytest.raises(ValueError, match="`base` must be one of 16, got 4"):
        to_target({16: [Arrival(1)]}, base=4)
    with pytest.raises(ValueError, match="`confidence` must be less than 1"):
        to_target({16: [Arrival(1)]}, confidence=1)
    with pytest.raises(ValueError, match="`arrivals` must have at least one run"):
        to_target({})


@given(st.dictionaries(st.integers(1, 9), st.lists(st.floats(0.01, 100), min_size=1, max_size=4), min_size=1))
def test_means_of_other_values_are_those_of_updates(values):
    rows = to_target({size: [Arrival(value) for value in runs] for size, runs in values.items()})
    assert means(values) == {row.batch_size: row.updates for row in rows}


@pytest.mark.parametrize("lost", [None, 0.0])
def test_a_mean_with_a_value_that_is_lost_is_not_known(lost):
    assert means({16: [1.0, lost], 32: [2.0, 2.5]})[16] == Estimate()
    assert means({16: [lost]}) == {16: Estimate()}
