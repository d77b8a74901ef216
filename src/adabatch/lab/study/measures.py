"""Updates, samples and seconds to a target loss by batch size, from cooled learning curves; speedup and cost.

A *cooled* curve holds losses that were each measured after a cooldown of their own: the LR was annealed to 0 from that
place, and updates, samples and seconds include the cooldown. Curves of different batch sizes under a constant LR cross,
because the LR's noise floor depends on the batch; cooled ones can be compared.

Source: Golmant et al. 2018, arXiv 1811.12941: k(m), the updates that batch size m needs to a target; the speedup
s(m; m0) = k(m0) / k(m), ideally m / m0; the total cost, updates times batch size. Departures: cooled losses; several
seeds with intervals; by default another target.
"""

from __future__ import annotations

import math
import statistics as plain
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Self, TypeVar

import numpy as np
from scipy import optimize

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.lab.scaling import EARLIER as EARLIER
from adabatch.lab.scaling import LATER as LATER
from adabatch.lab.scaling import Arrival as Arrival
from adabatch.lab.scaling import Estimate as Estimate
from adabatch.lab.scaling import Target as Target
from adabatch.lab.scaling import ToTarget as ToTarget
from adabatch.lab.shapes import Amount, Loss, Record, Size
from adabatch.lab.study.statistics import t_quantile

_Run = TypeVar("_Run")
_SAME: Final = 1e-12  # of logarithms: seeds that differ by less do not tell their spread
_FAR: Final = 600.0  # a logarithm, from which on a number counts as infinite


@dataclass(frozen=True, slots=True)
class Point(Record):
    """A cooled loss and the updates, samples and seconds that led to it; a loss that is not finite becomes None."""

    updates: Size
    samples: Size
    seconds: Amount
    loss: Loss

    def __post_init__(self) -> None:
        if self.loss is not None and not math.isfinite(self.loss):
            object.__setattr__(self, "loss", None)


Curve = Sequence[Point]


def smoothed(curve: Curve) -> list[Point]:
    """The curve up to its lowest loss, made monotone by least squares (isotonic regression).

    The first of many noisy losses to cross a target crosses early, the more so the denser the curve: with noise of 0.3
    of the fall of the loss per e-fold of updates, and points 1.19-fold apart, 10 % early on average. Of a monotone fit
    the crossing is within 1 % there (both simulated), because a low loss among higher ones is averaged with them.
    Where the lowest loss is passed and losses rise for good, as by overfitting, the rise plays no part. Losses from the
    first one on that is not finite do not count.

    Args:
        curve: points with growing updates.

    Returns:
        Points whose losses do not rise; none if the first loss is not finite.

    Raises:
        ValueError: if there is no point or updates do not grow.
    """
    _checked(curve)
    until = next((place for place, point in enumerate(curve) if point.loss is None), len(curve))
    losses = [point.loss for point in curve[:until] if point.loss is not None]
    if not losses:
        return []
    losses = losses[: losses.index(min(losses)) + 1]
    fitted = optimize.isotonic_regression(losses, increasing=False).x
    return [replace(point, loss=float(loss)) for point, loss in zip(curve, fitted, strict=False)]


def first_arrival(curve: Curve, target: float) -> Arrival:
    """The place where a curve, once `smoothed`, first is at or below a target.

    Between the last point above and the first at or below, the loss is a line against the logarithm of updates;
    samples and seconds are lines against updates.

    Args:
        curve: points with growing updates.
        target: a loss.

    Returns:
        The arrival. A curve that never arrives gives its last point, censored as `"later"`; one that is there at its
        first point gives that point, censored as `"earlier"`.

    Raises:
        ValueError: if there is no point, updates do not grow, or the target is not finite.

    Example:
        >>> curve = [Point(100, 1600, 2.0, 0.9), Point(400, 6400, 8.0, 0.5)]
        >>> found = first_arrival(curve, 0.7)
        >>> round(found.updates), round(found.samples), round(found.seconds)
        (200, 3200, 4)
        >>> first_arrival(curve, 0.4)
        Arrival(updates=400, samples=6400, seconds=8.0, censored='later')
    """
    _checks.finite("target", target)
    points, last = smoothed(curve), curve[-1]
    place = next((place for place, point in enumerate(points) if _loss(point) <= target), None)
    if place is None:
        return Arrival(last.updates, last.samples, last.seconds, LATER)
    there = points[place]
    if place == 0:
        return Arrival(there.updates, there.samples, there.seconds, EARLIER)
    before = points[place - 1]
    share = (_loss(before) - target) / (_loss(before) - _loss(there))
    updates = before.updates * math.pow(there.updates / before.updates, share)
    share = (updates - before.updates) / (there.updates - before.updates)
    samples = before.samples + share * (there.samples - before.samples)
    return Arrival(updates, samples, before.seconds + share * (there.seconds - before.seconds))


def best_batch_target(curves: Mapping[int, Sequence[Curve]], *, budget_samples: float | None = None) -> Target:
    """The loss that the best fixed batch size reaches with every seed: the default target.

    A batch size reaches the highest among its seeds' lowest smoothed losses, so that all its runs arrive. The best
    batch size is the one that reaches the lowest.

    Args:
        curves: for each batch size the curve of each seed.
        budget_samples: losses after more samples do not count; None: all do.

    Raises:
        ValueError: if no batch size has a finite loss within the budget for every seed.
    """
    reached: dict[int, float] = {}
    for size, runs in _checked_runs("curves", curves).items():
        lowest = [
            [_loss(point) for point in smoothed(run) if budget_samples is None or point.samples <= budget_samples][-1:]
            for run in runs
        ]
        if all(lowest):
            reached[size] = max(loss for (loss,) in lowest)
    if not reached:
        raise ArgumentError("curves", "must have a batch size with a finite loss for every seed within the budget")
    size = min(reached, key=lambda size: (reached[size], size))
    return Target(reached[size], size)


def paper_target(curves: Mapping[int, Sequence[Curve]]) -> Target:
    """The lower quartile of the losses of the largest batch size, which favours large batches.

    The quartile is one of the losses, of all seeds together and not smoothed; those that are not finite count as high.

    Args:
        curves: for each batch size the curve of each seed.

    Raises:
        ValueError: if there is no curve, or the quartile is not finite.

    Source: Golmant et al. 2018, arXiv 1811.12941. Departures: the losses are cooled.
    """
    size = max(_checked_runs("curves", curves))
    losses = sorted(math.inf if point.loss is None else point.loss for run in curves[size] for point in run)
    loss = losses[(len(losses) - 1) // 4]
    if not math.isfinite(loss):
        raise ArgumentError("curves", f"must have finite losses at the largest batch size, {size}")
    return Target(loss, size)


def to_target(
    arrivals: Mapping[int, Sequence[Arrival]], *, base: int | None = None, confidence: float = 0.95
) -> tuple[ToTarget, ...]:
    """Updates, samples and seconds to the target, speedup and cost of each batch size, over seeds.

    Intervals are Student's t on logarithms, with the variance pooled over those batch sizes whose runs all arrived;
    seeds are not paired. Where a run is censored its bound takes its place, and the interval keeps the side on which
    that can only widen it: updates of a batch size with a run that never arrived have no upper bound and no estimate.
    Without repeats there is no interval.

    Args:
        arrivals: for each batch size the arrival of each seed.
        base: the batch size m0; None: the smallest.
        confidence: the probability, in (0, 1), that an interval covers.

    Returns:
        A record for each batch size, growing.

    Raises:
        ValueError: if there is no run, `base` is not among the batch sizes, or `confidence` is out of range.
    """
    _checks.finite("confidence", confidence, above=0, below=1)
    sizes = sorted(_checked_runs("arrivals", arrivals))
    base = sizes[0] if base is None else _checks.one_of("base", base, sizes)
    updates = _Means.of({size: [(run.updates, run.censored) for run in arrivals[size]] for size in sizes}, confidence)
    samples = _Means.of({size: [(run.samples, run.censored) for run in arrivals[size]] for size in sizes}, confidence)
    seconds = _Means.of({size: [(run.seconds, run.censored) for run in arrivals[size]] for size in sizes}, confidence)
    return tuple(
        ToTarget(
            batch_size=size,
            n=len(arrivals[size]),
            arrived=sum(run.censored != LATER for run in arrivals[size]),
            runs=tuple(arrivals[size]),
            updates=updates.mean(size),
            samples=samples.mean(size),
            seconds=seconds.mean(size),
            speedup=updates.ratio(base, size),
            ideal=size / base,
            cost=updates.ratio(size, base, times=size / base),
            seconds_speedup=seconds.ratio(base, size),
        )
        for size in sizes
    )


def means(runs: Mapping[int, Sequence[float | None]], *, confidence: float = 0.95) -> dict[int, Estimate]:
    """The geometric mean of each batch size's runs, with the intervals of `to_target`.

    Args:
        runs: for each batch size a value above 0 of each run; where one is None or 0, the mean is not known.
        confidence: of the intervals.

    Example:
        >>> found = means({16: [0.5, 2.0], 64: [1.0, 4.0], 256: [None, 3.0]})
        >>> found[16].estimate, round(found[64].low, 3), found[256].estimate
        (1.0, 0.101, None)
    """
    found = _Means.of({size: [(value, "") for value in values] for size, values in sorted(runs.items())}, confidence)
    return {size: found.mean(size) for size in sorted(runs)}


class Pooled(NamedTuple):
    """A variance of logarithms pooled over groups, and its degrees of freedom; 0 degrees: not known."""

    variance: float
    degrees: int


def pooled(groups: Iterable[Sequence[float]]) -> Pooled:
    """The variance within groups of logarithms; not known without repeats, and where repeats do not differ at all."""
    kept = [group for group in groups if len(group) > 1]
    degrees = sum(len(group) - 1 for group in kept)
    squares = sum(plain.variance(group) * (len(group) - 1) for group in kept)
    return Pooled(squares / degrees, degrees) if squares > _SAME**2 else Pooled(0.0, 0)


class _Means(NamedTuple):
    """Bounds on the mean logarithm of each batch size, and what widens them."""

    low: Mapping[int, float]
    high: Mapping[int, float]
    runs: Mapping[int, int]
    error: float  # half the width of the interval of a single run; infinite if not known

    @classmethod
    def of(cls, runs: Mapping[int, Sequence[tuple[float | None, str]]], confidence: float) -> Self:
        low, high = {}, {}
        for size, values in runs.items():
            bounds = [_bounds(value, censored) for value, censored in values]
            low[size] = sum(bound[0] for bound in bounds) / len(values)
            high[size] = sum(bound[1] for bound in bounds) / len(values)
        clear = [[math.log(value) for value, _ in runs[size] if value] for size in runs if low[size] == high[size]]
        variance, degrees = pooled(clear)
        error = t_quantile((1 + confidence) / 2, degrees) * math.sqrt(variance) if degrees else math.inf
        return cls(low, high, {size: len(values) for size, values in runs.items()}, error)

    def mean(self, size: int) -> Estimate:
        """The geometric mean of a batch size's runs."""
        half = self.error / math.sqrt(self.runs[size])
        return _estimate(self.low[size], self.high[size], half)

    def ratio(self, top: int, bottom: int, *, times: float = 1.0) -> Estimate:
        """The mean at `top` over the mean at `bottom`; exactly 1 of a batch size over itself."""
        if top == bottom:
            return Estimate(times, times, times)
        half = self.error * math.sqrt(1 / self.runs[top] + 1 / self.runs[bottom])
        shift = math.log(times)
        low, high = self.low[top] - self.high[bottom], self.high[top] - self.low[bottom]
        return _estimate(low + shift, high + shift, half)


def _estimate(low: float, high: float, half: float) -> Estimate:
    return Estimate.of(math.exp(low) if low == high else math.nan, _exp(low - half), _exp(high + half))


def _exp(value: float) -> float:
    return math.exp(value) if value < _FAR else math.inf


def _bounds(value: float | None, censored: str) -> tuple[float, float]:
    """Bounds on the logarithm of what a run would have needed."""
    if not value:
        return -math.inf, math.inf
    return -math.inf if censored == EARLIER else math.log(value), math.inf if censored == LATER else math.log(value)


def _loss(point: Point) -> float:
    return math.inf if point.loss is None else point.loss


def _checked(curve: Curve) -> None:
    if not curve:
        raise ArgumentError("curve", "must hold at least one point", got="none")
    if np.any(np.diff([point.updates for point in curve]) <= 0):
        raise ArgumentError("curve", "must have growing updates", value=[point.updates for point in curve])


def _checked_runs(name: str, runs: Mapping[int, Sequence[_Run]]) -> Mapping[int, Sequence[_Run]]:
    if not runs or not all(runs.values()):
        raise ArgumentError(name, "must have at least one run of at least one batch size, and of each")
    return runs
