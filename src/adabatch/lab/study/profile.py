"""The likelihood of updates by batch size under a form of `fits`, its optimum, and what it leaves possible.

A form is log S = level + h(B), h(B) = g(B) - g(middle), g(B) = log(1 + (B_crit / B)^a). So both limits are finite: as
B_crit goes to 0, h does; as it goes to infinity, h goes to the line of slope -a. The deviance is the sum over runs that
arrived of squared residuals over the variance, plus -2 log of the probability of each run that did not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.lab.study.measures import EARLIER, LATER, Arrival, Pooled, pooled

EXPONENTS: Final = (0.5, 3.0)  # searched in form 2
MORE: Final = 0.2  # samples above the fewest that end perfect scaling
SAVES: Final = 0.1  # of the updates, by a doubled batch, below which is stagnation
MILLION: Final = 1e6  # a number that far outside the data is infinite, or 0
_NEAR, _STEPS = 8.0, 129  # the fine grid of log B_crit reaches e^8 beyond the batch sizes measured
_LIMIT: Final = 21.0  # e^-21 = 1e-9: there a limit of the form is reached
_EXACT: Final = 1e-9  # of log S: far less than any run tells
_Array = NDArray[np.float64]


class Point(NamedTuple):
    """Parameters of a form, numbers or arrays of one shape: log S at the middle batch size, log B_crit, exponent."""

    level: Any
    critical: Any
    exponent: Any


class Optimum(NamedTuple):
    """The parameters of least deviance, that deviance, and the standard deviation of a run that it is based on."""

    point: Point
    deviance: float
    std: float


class Runs(NamedTuple):
    """All runs: logarithms of batch size and updates, and `side`: 1 for a run that needs more, -1 for less, else 0."""

    batch: _Array
    updates: _Array
    side: _Array
    middle: float
    smallest: float
    confidence: float

    @classmethod
    def of(cls, arrivals: Mapping[int, Sequence[Arrival]], smallest: float | None, confidence: float) -> Runs:
        """The runs of each batch size; `smallest` is the batch size from which on the fewest samples are sought.

        Raises:
            ValueError: if there are fewer than two batch sizes, or a number is out of range.
        """
        _checks.finite("confidence", confidence, above=0, below=1)
        sizes = sorted(size for size, runs in arrivals.items() if runs)
        if len(sizes) < 2:
            raise ArgumentError("arrivals", "must have runs of at least two batch sizes", value=sizes)
        told = [(size, run) for size in sizes for run in arrivals[size]]
        for size, run in told:
            _checks.finite("batch_size", size, above=0)
            _checks.finite("updates", run.updates, above=0)
        return cls(
            np.log([size for size, _ in told]),
            np.log([run.updates for _, run in told]),
            np.array([float((run.censored == LATER) - (run.censored == EARLIER)) for _, run in told]),
            float(np.log(sizes).mean()),
            sizes[0] if smallest is None else _checks.finite("smallest_batch", smallest, above=0),
            confidence,
        )

    @property
    def arrived(self) -> NDArray[np.bool_]:
        """Which runs arrived at a place that is known."""
        here: NDArray[np.bool_] = self.side == 0
        return here

    def groups(self) -> list[tuple[_Array, _Array]]:
        """Updates and sides of each batch size."""
        return [(self.updates[self.batch == one], self.side[self.batch == one]) for one in np.unique(self.batch)]

    def spread(self) -> Pooled:
        """The variance of repeats, at batch sizes without censored runs."""
        return pooled([updates.tolist() for updates, side in self.groups() if not side.any()])


def optimum(runs: Runs, form: int, std: float) -> Optimum:
    """The parameters of least deviance; not numbers if no run arrived."""
    if not runs.arrived.any():
        return Optimum(Point(math.nan, math.nan, math.nan), 0.0, std)
    exponent = np.ones((1, 1))
    if form == 2:
        logs = _zoomed(lambda logs: _least(runs, np.exp(logs[0]), std)[1][None], _log_exponents())
        exponent = np.exp(logs)[None]
    critical, deviance = _least(runs, exponent[0], std)
    level, _ = _levels(runs, critical, exponent[0], std)
    return Optimum(Point(float(level[0]), float(critical[0]), float(exponent[0, 0])), float(deviance[0]), std)


def without_repeats(runs: Runs, form: int, degrees: int) -> Optimum:
    """The optimum with the spread of its own residuals; with censored runs, which need the spread, the two in turns."""
    std, here = 0.1, runs.arrived
    found = optimum(runs, form, std)
    for _ in range((8 if runs.side.any() else 1) if degrees else 0):
        left = (runs.updates - found.point.level - _shape(runs, found.point.critical, found.point.exponent))[here]
        std = max(1e-6, math.sqrt(float(left @ left) / degrees))
        found = optimum(runs, form, std)
    return found


def saturated(runs: Runs, std: float) -> float:
    """The deviance of the model in which each batch size has a level of its own."""
    return sum(float(level(updates, side, std)[1]) for updates, side in runs.groups() if not side.all())


def misfit(runs: Runs, point: Point) -> float:
    """The largest distance of the form from the mean of a batch size whose runs all arrived; 0 without one."""
    left = runs.updates - point.level - _shape(runs, point.critical, point.exponent)
    sizes = [runs.batch == one for one in np.unique(runs.batch)]
    return max((abs(float(left[size].mean())) for size in sizes if not runs.side[size].any()), default=0.0)


def estimates(runs: Runs, form: int, found: Optimum, rise: float) -> dict[str, tuple[float, float, float]]:
    """Each quantity of a `Fit` at the optimum, and its bounds where the deviance rises by `rise` at most."""
    scales = _scales(runs)
    if not runs.arrived.any():
        return dict.fromkeys(scales, (math.nan, 0.0, math.inf))
    best = {name: float(value) for name, value in _quantities(runs, form, found.point).items()}
    bounds = dict.fromkeys(best, (0.0, math.inf))
    if math.isfinite(rise):
        sampled = _quantities(runs, form, _region(runs, form, found, found.deviance + rise))
        bounds = {
            name: (min(best[name], float(values.min())), max(best[name], float(values.max())))
            for name, values in sampled.items()
        }
        low, high = bounds["exponent"]
        bounds["exponent"] = (low if low > EXPONENTS[0] else 0.0, high if high < EXPONENTS[1] else math.inf)
    if form == 1:
        bounds |= {"exponent": (1.0, 1.0), "best_batch": (0.0, 0.0)}
    told = {name: [_within(value, *scales[name]) for value in (best[name], *bounds[name])] for name in best}
    return {name: (values[0], values[1], values[2]) for name, values in told.items()}


def _within(value: float, least: float, most: float) -> float:
    if value < least / MILLION:
        return 0.0
    return math.inf if value > most * MILLION else value


def _scales(runs: Runs) -> dict[str, tuple[float, float]]:
    """The smallest and the largest measured value of what each quantity is of."""
    kinds = {"batch": runs.batch, "min_updates": runs.updates, "min_samples": runs.batch + runs.updates}
    ends = {name: (math.exp(logs.min()), math.exp(logs.max())) for name, logs in kinds.items()}
    batch = dict.fromkeys(
        ("critical_batch", "batch_at_20_percent_more_samples", "stagnation_batch", "best_batch"), ends.pop("batch")
    )
    return {**batch, **ends, "exponent": (1.0, 1.0)}


def _quantities(runs: Runs, form: int, point: Point) -> dict[str, _Array]:
    """The quantities of a `Fit` by name."""
    log_level, c, a = (np.asarray(value, dtype=np.float64) for value in point)
    min_updates = log_level - _g(runs.middle, c, a)
    above = np.maximum(a - 1, 1e-300)
    best = np.where(a > 1, c + np.log(above) / a, -math.inf)
    fewest = np.maximum(best, math.log(runs.smallest))
    logs = {
        "critical_batch": c,
        "batch_at_20_percent_more_samples": _more_samples(fewest, c, a),
        "stagnation_batch": c + np.log((1 - SAVES - np.exp2(-a)) / SAVES) / a,
        "min_updates": min_updates,
        "min_samples": min_updates + (c if form == 1 else fewest + _g(fewest, c, a)),
        "best_batch": best,
    }
    return {**{name: np.exp(values) for name, values in logs.items()}, "exponent": a}


def _more_samples(fewest: _Array, c: _Array, a: _Array) -> _Array:
    """The logarithm of the batch size that needs 1 + `MORE` times the samples of `fewest`, by bisection."""
    limit = fewest + _g(fewest, c, a) + math.log(1 + MORE)
    low, high = fewest, np.maximum(fewest, c) + 3
    for _ in range(50):
        middle = (low + high) / 2
        is_more = middle + _g(middle, c, a) > limit
        low, high = np.where(is_more, low, middle), np.where(is_more, middle, high)
    return low


def _region(runs: Runs, form: int, found: Optimum, limit: float) -> Point:
    """Points on the border of the parameters whose deviance is at most `limit`, and their hull's far ends."""
    std, a = found.std, np.ones(1)
    if form == 2:
        grid = _log_exponents()
        best = np.log([found.point.exponent])
        low, high = _ends(
            lambda logs: _least(runs, np.exp(logs.ravel()), std)[1].reshape(logs.shape), grid, best, limit
        )
        a = np.exp(np.append(_spaced(low, high, 33)[0], best))
    critical, least = _least(runs, a, std)
    kept = least <= limit + 1e-9 * abs(limit)
    a, critical = a[kept], critical[kept]
    low, high = _ends(lambda c: _levels(runs, c, a[:, None], std)[1], _grid(runs, a), critical, limit)
    near = runs.batch.min() - _NEAR, runs.batch.max() + _NEAR
    c = np.column_stack([_spaced(np.clip(low, *near), np.clip(high, *near), 41), low, high, critical])
    a = np.broadcast_to(a[:, None], c.shape)
    middle, deviance = _levels(runs, c, a, std)
    half = std * np.sqrt(np.maximum(limit - deviance, 0) / runs.arrived.sum())
    sides = [middle + sign * _half_width(runs, c, a, std, middle, sign * half, limit) for sign in (-1, 1)]
    return Point(np.stack(sides), np.stack([c, c]), np.stack([a, a]))


def _half_width(runs: Runs, c: _Array, a: _Array, std: float, middle: _Array, signed: _Array, limit: float) -> _Array:
    """How far the level may go; without censored runs that is known, and they only narrow it."""
    low, high = np.zeros_like(signed), np.abs(signed)
    if not runs.side.any():
        return high
    left, sign = runs.updates - _shape(runs, c, a), np.sign(signed)
    for _ in range(40):
        here = (low + high) / 2
        inside = _deviance(middle + sign * here, left, runs.side, std) <= limit
        low, high = np.where(inside, here, low), np.where(inside, high, here)
    return high


def _log_exponents() -> _Array:
    """A row of logarithms of exponents, over all that are searched."""
    return np.linspace(math.log(EXPONENTS[0]), math.log(EXPONENTS[1]), 17)[None]


def _g(log_batch: Any, c: Any, a: Any) -> _Array:
    with np.errstate(invalid="ignore"):  # NaN where a form could not be fitted
        found: _Array = np.logaddexp(0.0, a * (c - log_batch))
    return found


def _shape(runs: Runs, c: Any, a: Any) -> _Array:
    """The form's h of each run, on a last axis of its own."""
    c, a = np.asarray(c)[..., None], np.asarray(a)[..., None]
    return _g(runs.batch, c, a) - _g(runs.middle, c, a)


def _levels(runs: Runs, c: _Array, a: _Array, std: float) -> tuple[_Array, _Array]:
    """The best level and its deviance for other parameters, which are arrays of one shape or broadcast to it."""
    return level(runs.updates - _shape(runs, c, a), runs.side, std)


def level(left: _Array, side: _Array, std: float) -> tuple[_Array, _Array]:
    """The level of least deviance and that deviance.

    Args:
        left: log updates less the form's shape, `[..., runs]`.
        side: of each run.
        std: standard deviation of a run.
    """
    found = left[..., side == 0].mean(axis=-1)
    away, signs = left[..., side != 0], side[side != 0]
    n = int(np.sum(side == 0))
    for _ in range(30 if len(signs) else 0):  # Newton's method; the deviance is convex, its second derivative bounded
        z = signs * (found[..., None] - away) / std
        mills = np.exp(-z * z / 2 - math.log(math.sqrt(2 * math.pi)) - special.log_ndtr(z))
        slope = n * (found - left[..., side == 0].mean(axis=-1)) / std - (signs * mills).sum(axis=-1)
        curvature = n + np.clip(mills * (z + mills), 0, 1).sum(axis=-1)
        step = std * slope / curvature
        found = found - step
        if np.abs(step).max() < _EXACT:
            break
    return found, _deviance(found, left, side, std)


def _deviance(at: _Array, left: _Array, side: _Array, std: float) -> _Array:
    z = (at[..., None] - left) / std
    here = side == 0
    total: _Array = (z[..., here] ** 2).sum(axis=-1) - 2 * special.log_ndtr(side[~here] * z[..., ~here]).sum(axis=-1)
    return total


def _grid(runs: Runs, a: _Array) -> _Array:
    """Values of log B_crit for each exponent, growing: fine near the data, and a limit of the form at each end."""
    low, high = runs.batch.min(), runs.batch.max()
    fine = np.broadcast_to(np.linspace(low - _NEAR, high + _NEAR, _STEPS), (len(a), _STEPS))
    return np.column_stack(
        [np.minimum(low - _LIMIT / a, low - _NEAR - 1), fine, np.maximum(high + _LIMIT / a, high + _NEAR + 1)]
    )


def _least(runs: Runs, a: _Array, std: float) -> tuple[_Array, _Array]:
    """For each exponent the log B_crit of least deviance, and that deviance."""
    critical = _zoomed(lambda c: _levels(runs, c, a[:, None], std)[1], _grid(runs, a))
    return critical, _levels(runs, critical, a, std)[1]


def _zoomed(deviance: Callable[[_Array], _Array], grid: _Array) -> _Array:
    """The place of least deviance in each row of a grid of growing values."""
    rows = np.arange(len(grid))
    for _ in range(13):
        best = deviance(grid).argmin(axis=1)
        low, high = grid[rows, np.maximum(best - 1, 0)], grid[rows, np.minimum(best + 1, grid.shape[1] - 1)]
        grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 9)
    found: _Array = grid[rows, deviance(grid).argmin(axis=1)]
    return found


def _ends(deviance: Callable[[_Array], _Array], grid: _Array, best: _Array, limit: float) -> tuple[_Array, _Array]:
    """For each row the outermost places where the deviance is at most `limit`; `best` is such a place."""
    inside, ends = deviance(grid) <= limit, []
    for sign in (-1, 1):
        inner = sign * np.maximum(np.where(inside, sign * grid, -math.inf).max(axis=1), sign * best)
        further = np.where(sign * grid > sign * inner[:, None], sign * grid, math.inf).min(axis=1)
        outer = np.where(np.isfinite(further), sign * further, inner)
        for _ in range(40):
            middle = (inner + outer) / 2
            fits = deviance(middle[:, None])[:, 0] <= limit
            inner, outer = np.where(fits, middle, inner), np.where(fits, outer, middle)
        ends.append(outer)
    return ends[0], ends[1]


def _spaced(low: _Array, high: _Array, count: int) -> _Array:
    """In each row values from low to high, denser at the ends, where a border bends most."""
    share = (1 - np.cos(np.linspace(0, math.pi, count))) / 2
    return low[:, None] + (high - low)[:, None] * share
