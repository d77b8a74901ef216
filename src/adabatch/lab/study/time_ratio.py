"""The time of a constant batch over the time of a growing one, to the same loss: as measured, and as expected.

A training by a schedule ends at some loss. The cooled curve of the constant batch tells when that batch gets there. The
ratio of both times is the answer. Noise enters it through the loss: two trainings that differ in their seed alone end
at different losses, and a loss that differs by a little may be reached a lot earlier or later. And through the clock: a
machine that is busy or asleep makes a training look slow. It only ever adds, so the fastest seed tells the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Final, NamedTuple

import numpy as np
from scipy import stats

from adabatch.lab.scaling import Estimate
from adabatch.lab.study import measures
from adabatch.lab.study.curve import Curve
from adabatch.lab.study.measures import EARLIER, LATER, Point, Pooled

_FAR: Final = 600.0  # a logarithm, from which on a number counts as infinite


class Ending(NamedTuple):
    """A training by a schedule.

    Attributes:
        seconds: of training.
        train_loss: at its end; None if it is not finite.
        test_loss: likewise.
    """

    seconds: float
    train_loss: float | None
    test_loss: float | None


class Bounds(NamedTuple):
    """A logarithm of which only bounds may be known; both are the same where it is."""

    low: float
    high: float


def noise_of(values: Mapping[str, Sequence[float | None]]) -> Pooled:
    """The variance of logarithms over seeds, without what a seed does to all trainings alike, and its degrees.

    It is the residual variance of a table with a row for each kind of training and a column for each seed. Rows with a
    value that is missing or not above 0 do not count; 0 degrees: not known.

    Args:
        values: for each kind of training the last loss of each seed, or its seconds, in the same order.

    Example:
        >>> noise_of({"a": [1.0, 2.0], "b": [2.0, 4.0]}).variance  # the second seed is the better one for both
        0.0
    """
    rows = [[math.log(value) for value in row if value is not None and value > 0] for row in values.values()]
    whole = max((len(row) for row in values.values()), default=0)
    table = np.array([row for row in rows if len(row) == whole])
    if min(table.shape, default=0) < 2:
        return Pooled(0.0, 0)
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    degrees = (table.shape[0] - 1) * (table.shape[1] - 1)
    squares = float(np.sum(rest**2))
    return Pooled(squares / degrees if squares > 1e-24 else 0.0, degrees)


def measured(endings: Sequence[Ending], fixed: Sequence[Curve]) -> Bounds | None:
    """The log ratio of times to the schedule's test loss; None if a loss is missing.

    Args:
        endings: of the schedule, one for each seed.
        fixed: the cooled curves of the constant batch.
    """
    found = _Lookup.of(endings, fixed)
    return None if found is None else found.ratio(0.0)


def rival(endings: Sequence[Ending], curves: Mapping[int, Sequence[Curve]], *, default: int) -> int:
    """The constant batch size that is the first at the schedule's test loss; the default where none gets there.

    Args:
        endings: of the schedule.
        curves: for each batch size the cooled curve of each seed.
        default: batch size.
    """
    found = {size: measured(endings, fixed) for size, fixed in curves.items()}
    known = {size: ratio.high for size, ratio in found.items() if ratio is not None and math.isfinite(ratio.high)}
    return min(known, key=known.__getitem__, default=default)


def time_ratio(
    endings: Sequence[Ending],
    fixed: Sequence[Curve],
    noise: Pooled,
    clock: Pooled,
    *,
    confidence: float,
    others: int | None = None,
    model_std: float = 0.0,
) -> Estimate:
    """The ratio of times to the schedule's test loss, with an interval.

    Student's t, with the degrees of freedom of `noise`, bounds the mean log loss of the schedule against that of the
    constant batch. Both bounds are looked up on the constant batch's mean curve. Beyond the end of that curve there is
    no bound, and the estimate is missing where the schedule's own loss lies there. What the clock leaves open is added
    in squares.

    Args:
        endings: of the schedule, one for each seed.
        fixed: the cooled curves of the constant batch, of the same seeds.
        noise: of log losses, from `noise_of`.
        clock: of log seconds, likewise.
        confidence: the probability, in (0, 1), that the interval covers.
        others: of so many other seeds' mean; None: of the mean of endless seeds.
        model_std: a standard deviation of the log ratio that is added, for what these trainings cannot tell.

    Returns:
        The ratio, above 1 where the schedule is faster.
    """
    found = _Lookup.of(endings, fixed)
    if found is None:
        return Estimate()
    probability = (1 + confidence) / 2
    shares = 1 / len(endings) + (1 / others if others else 0.0)
    half, late = (_half(each, shares, probability) for each in (noise, clock))
    more = math.hypot(float(stats.norm.ppf(probability)) * model_std, late)
    middle = found.ratio(0.0)
    low, high = middle
    if math.isfinite(low):
        low -= math.hypot(low - found.ratio(half).low, more)
    if math.isfinite(high):
        high += math.hypot(found.ratio(-half).high - high, more)
    known = middle.low == middle.high
    return Estimate.of(math.exp(middle.low) if known else math.nan, _exp(low), _exp(high))


class _Lookup(NamedTuple):
    """The mean curve of a constant batch, and the mean loss of a schedule with its least time."""

    course: Sequence[Point]
    level: float  # log loss
    seconds: float  # log

    @classmethod
    def of(cls, endings: Sequence[Ending], fixed: Sequence[Curve]) -> _Lookup | None:
        course = mean_curve(fixed)
        losses = [math.log(loss) for ending in endings if (loss := ending.test_loss) is not None and loss > 0]
        if not course or not endings or len(losses) < len(endings):
            return None
        seconds = min(ending.seconds for ending in endings)
        return cls(course, fmean(losses), math.log(max(seconds, 1e-9)))

    def ratio(self, shift: float) -> Bounds:
        """The log ratio if the schedule's mean log loss is higher by `shift`."""
        if math.isinf(shift):
            return Bounds(-math.inf, math.inf)
        arrival = measures.first_arrival(self.course, math.exp(min(self.level + shift, _FAR)))
        at = math.log(max(arrival.seconds or 0.0, 1e-9)) - self.seconds
        return Bounds(-math.inf if arrival.censored == EARLIER else at, math.inf if arrival.censored == LATER else at)


def _half(noise: Pooled, shares: float, probability: float) -> float:
    """Half an interval of the difference of two means, each of a variance of `noise` times `shares`."""
    if not noise.degrees:
        return math.inf
    return float(stats.t.ppf(probability, noise.degrees)) * math.sqrt(2 * noise.variance * shares)


def mean_curve(curves: Iterable[Curve]) -> list[Point]:
    """The geometric means of test losses and the least seconds over seeds, as far as all seeds have losses above 0."""
    found: list[Point] = []
    for points in zip(*(curve.points for curve in curves), strict=False):
        losses = [math.log(point.test_loss) for point in points if point.test_loss is not None and point.test_loss > 0]
        if len(losses) < len(points):
            break
        seconds = min(point.seconds for point in points)
        found.append(Point(points[0].updates, points[0].samples, seconds, math.exp(fmean(losses))))
    return found


def _exp(value: float) -> float:
    return math.exp(value) if value < _FAR else math.inf
