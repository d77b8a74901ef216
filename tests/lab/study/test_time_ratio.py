import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adabatch.lab.advice import holds
from adabatch.lab.study.curve import Curve, CurvePoint
from adabatch.lab.study.measures import Pooled
from adabatch.lab.study.time_ratio import Ending, mean_curve, measured, noise_of, rival, time_ratio

EXACT = Pooled(0.0, 4)


def curve(losses, *, second=1.0):
    """Points 1.3 apart in updates, so many seconds an update."""
    totals = [round(10 * 1.3**place) for place in range(len(losses))]
    points = (CurvePoint(n, 8 * n, second * n, loss, loss) for n, loss in zip(totals, losses, strict=True))
    return Curve(tuple(points))


falling = st.lists(st.floats(0.02, 0.5), min_size=3, max_size=9).map(
    lambda falls: [math.exp(-sum(falls[:place])) for place in range(len(falls))]
)


@given(losses=falling, place=st.integers(1, 8), seconds=st.floats(0.1, 1e4), seeds=st.integers(1, 4))
def test_a_schedule_that_ends_at_a_point_of_the_curve_is_faster_by_the_ratio_of_times(losses, place, seconds, seeds):
    at = curve(losses)
    point = at.points[min(place, len(losses) - 1)]
    endings = [Ending(seconds, None, point.test_loss)] * seeds
    found = measured(endings, [at] * seeds)
    assert found.low == found.high == pytest.approx(math.log(point.seconds / seconds), abs=1e-6)
    told = time_ratio(endings, [at] * seeds, EXACT, EXACT, confidence=0.8)
    assert told.estimate == pytest.approx(point.seconds / seconds, rel=1e-6)
    assert told.low == pytest.approx(told.estimate)
    assert told.high == pytest.approx(told.estimate)


@given(losses=falling, shift=st.floats(0.001, 0.3), confidence=st.sampled_from([0.8, 0.95]))
def test_noise_and_the_model_widen_an_interval_that_stays_around_its_middle(losses, shift, confidence):
    at = curve(losses)
    level = math.sqrt(losses[0] * losses[-1])
    endings = [Ending(5.0, None, level)] * 2
    noise = Pooled(shift**2, 4)
    plain = time_ratio(endings, [at] * 2, noise, EXACT, confidence=confidence)
    more = time_ratio(endings, [at] * 2, noise, EXACT, confidence=confidence, others=3)
    model = time_ratio(endings, [at] * 2, noise, EXACT, confidence=confidence, others=3, model_std=0.2)
    for narrow, wide in ((plain, more), (more, model)):
        assert narrow.estimate == wide.estimate
        assert wide.interval[0] <= narrow.interval[0] <= narrow.estimate <= narrow.interval[1] <= wide.interval[1]
    assert model.low < more.low or more.low == 0


def test_beyond_its_ends_a_curve_gives_bounds_alone():
    at = curve([1.0, 0.5, 0.25])
    never, early = [Ending(2.0, None, 0.2)] * 2, [Ending(2.0, None, 1.5)] * 2
    found = measured(never, [at] * 2)
    assert (found.low, found.high) == (pytest.approx(math.log(at.points[-1].seconds / 2)), math.inf)
    told = time_ratio(never, [at] * 2, EXACT, EXACT, confidence=0.8)
    assert (told.estimate, told.high) == (None, None)
    assert told.low == pytest.approx(at.points[-1].seconds / 2)
    found = measured(early, [at] * 2)
    assert (found.low, found.high) == (-math.inf, pytest.approx(math.log(at.points[0].seconds / 2)))
    told = time_ratio(early, [at] * 2, EXACT, EXACT, confidence=0.8)
    assert (told.estimate, told.low) == (None, 0.0)


def test_without_repeats_there_is_an_estimate_and_no_interval():
    at = curve([1.0, 0.5, 0.25])
    told = time_ratio([Ending(2.0, None, 0.5)], [at], Pooled(0.0, 0), EXACT, confidence=0.8)
    assert told.estimate is not None
    assert told.interval == (0.0, math.inf)


@pytest.mark.parametrize("bad", [None, 0.0])
def test_a_loss_that_is_missing_tells_nothing(bad):
    at = curve([1.0, 0.5])
    assert measured([Ending(2.0, None, 0.7), Ending(2.0, None, bad)], [at] * 2) is None
    told = time_ratio([Ending(2.0, None, bad)] * 2, [at] * 2, EXACT, EXACT, confidence=0.8)
    assert (told.estimate, told.interval) == (None, (0.0, math.inf))


def test_the_mean_curve_ends_where_a_seed_does():
    whole, broken = curve([1.0, 0.5, 0.25]), curve([1.0, 2.0, 0.0])
    found = mean_curve([whole, broken])
    assert [point.loss for point in found] == [1.0, 1.0]
    assert mean_curve([whole, Curve(())]) == []


@given(
    table=st.integers(2, 5).flatmap(
        lambda seeds: st.lists(st.lists(st.floats(0.01, 10.0), min_size=seeds, max_size=seeds), min_size=2, max_size=5)
    )
)
def test_noise_is_the_residual_variance_of_a_regression_on_arms_and_seeds(table):
    logs = np.log(np.array(table))
    arms, seeds = logs.shape
    columns = [np.repeat(np.eye(arms), seeds, axis=0), np.tile(np.eye(seeds), (arms, 1))]
    design = np.concatenate(columns, axis=1)
    rest = logs.ravel() - design @ np.linalg.lstsq(design, logs.ravel(), rcond=None)[0]
    found = noise_of({str(place): row for place, row in enumerate(table)})
    assert found.degrees == (arms - 1) * (seeds - 1)
    assert found.variance == pytest.approx(float(rest @ rest) / found.degrees, rel=1e-6, abs=1e-12)


def test_the_rival_is_the_first_constant_batch_at_the_schedules_loss():
    endings = [Ending(5.0, None, 0.5)] * 2
    curves = {
        16: [curve([1.0, 0.5, 0.1])] * 2,
        64: [curve([1.0, 0.5, 0.2], second=0.5)] * 2,
        256: [curve([1.0, 0.9])] * 2,
    }
    assert rival(endings, curves, default=256) == 64
    assert rival([Ending(5.0, None, 0.01)] * 2, curves, default=256) == 256
    assert rival([Ending(5.0, None, None)] * 2, curves, default=256) == 256


def test_rows_with_a_missing_loss_do_not_count():
    whole = {"a": [1.0, 2.0], "b": [2.0, 3.0]}
    assert noise_of({**whole, "c": [1.0, None], "d": [0.0, 1.0]}) == noise_of(whole)
    assert noise_of({"a": [1.0, 2.0], "c": [1.0, None]}).degrees == 0
    assert noise_of({"a": [1.0], "b": [2.0]}).degrees == 0
    assert noise_of({}).degrees == 0


def rows_of(endings, curves, loss):
    """The last losses, or the last seconds, of each seed."""
    rows = {str(size): [loss(run.points[-1]) for run in runs] for size, runs in curves.items()}
    return rows | {name: [loss(each) for each in runs] for name, runs in endings.items()}


def test_a_machine_that_slept_during_one_training_leaves_it_open():
    """The constant batch of one seed took eight times as long; without that both are as fast."""
    slow = [curve([1.0, 0.5, 0.25]), curve([1.0, 0.5, 0.25], second=8.0)]
    same = [curve([1.0, 0.5, 0.25])] * 2
    endings = {name: [Ending(same[0].points[1].seconds, None, 0.5)] * 2 for name in ("early", "late")}
    clock = noise_of(rows_of(endings, {0: slow, 1: same, 2: same}, lambda at: at.seconds))
    told = time_ratio(endings["late"], slow, EXACT, clock, confidence=0.8)
    assert told.estimate == pytest.approx(1.0)
    assert told.low < 0.5
    assert told.high > 2
    assert time_ratio(endings["late"], slow, EXACT, EXACT, confidence=0.8).low == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("confidence", "least", "most", "pace"),
    [(0.8, 0.74, 0.87, 0.0), (0.95, 0.91, 0.98, 0.0), (0.8, 0.74, 0.92, 0.1), (0.95, 0.91, 0.99, 0.1)],
)
def test_intervals_hold_the_outcome_of_other_seeds_as_often_as_they_say(confidence, least, most, pace):
    """Losses of seeds differ by 2 %, on top of what a seed does to all arms, and times too; 500 advices of 2 seeds."""
    drawn = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        endings, curves = _drawn(drawn, seeds=2, pace=pace)
        others, other_curves = _drawn(drawn, seeds=3, pace=pace)
        rows = rows_of(endings, curves, lambda at: at.test_loss)
        clock = noise_of(rows_of(endings, curves, lambda at: at.seconds))
        against = {name: rival(found, curves, default=0) for name, found in endings.items()}
        both = {
            name: time_ratio(found, curves[against[name]], noise_of(rows), clock, confidence=confidence, others=3)
            for name, found in endings.items()
        }
        chosen = max(both, key=lambda name: both[name].low)  # as an advice chooses
        told = both[chosen]
        low, high = measured(others[chosen], other_curves[against[chosen]])
        covered += holds(told, math.exp(low), math.exp(high) if math.isfinite(high) else None)
    assert least <= covered / 500 <= most


def _drawn(drawn, *, seeds, pace):
    """Endings of two schedules and curves of three batch sizes, with noise of losses and of seconds."""
    common = drawn.normal(0, 0.05, seeds)
    totals = np.array([10 * 1.3**place for place in range(14)])
    curves = {}
    for place in range(3):
        curves[place] = []
        for seed in range(seeds):
            own = np.full(14, drawn.normal(0, 0.02))
            losses, second = np.exp(common[seed] + own) * totals**-0.5, math.exp(drawn.normal(0, pace))
            points = (
                CurvePoint(round(n), round(8 * n), second * float(n), float(loss), float(loss))
                for n, loss in zip(totals, losses, strict=True)
            )
            curves[place].append(Curve(tuple(points)))
    endings = {
        name: [
            Ending(
                60.0 * math.exp(drawn.normal(0, pace)),
                None,
                float(np.exp(common[seed] + drawn.normal(0, 0.02)) * 150.0**-0.5),
            )
            for seed in range(seeds)
        ]
        for name in ("early", "late")
    }
    return endings, curves
