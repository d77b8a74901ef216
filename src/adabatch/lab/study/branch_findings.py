"""The findings of branching: how many samples a larger batch costs at each fork, and which size does no harm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, variance
from typing import Any, Final

import numpy as np
from scipy import optimize, stats

from adabatch import schedules, units
from adabatch.lab.scaling import BranchCell, BranchFindings, Estimate, Harmless
from adabatch.lab.study.branch import SHORTER, Branch, Branching

TOLERANCES: Final = (0.003, 0.01, 0.03)
CONFIDENCE: Final = 0.95

Key = tuple[int, int, int, float]  # fork, window, factor, power
Losses = dict[Key, dict[int, float]]


def findings(
    setting: Branching,
    found: Mapping[int, Sequence[Branch]],
    *,
    dataset_size: int,
    loss: str = "test",
    tolerances: Sequence[float] = TOLERANCES,
    window: int = -1,
    tolerance: float = 0.01,
    versions: Mapping[str, Any] | None = None,
    expected: Mapping[int, Sequence[Branch]] | None = None,
) -> BranchFindings:
    """The findings of branches.

    The LR of a branch is chosen, for each seed, by the losses of the other seeds, so that the choice does not favour
    large batches; with one seed by its own. Differences of log losses to the base branch are paired by seed; their
    variance is pooled over forks and factors of a window. A factor does no harm within a tolerance if the upper end of
    the one-sided interval of the difference lies below it, and so do those of all smaller factors.

    Args:
        setting: the settings.
        found: the branches of each seed.
        dataset_size: samples in an epoch.
        loss: `"train"` or `"test"`.
        tolerances: of the loss after a branch, as shares of it.
        window: number of the window by which the schedule is made.
        tolerance: by which the schedule is made; one of `tolerances`.
        versions: of what it ran with.
        expected: the same branches with expected losses, of a task where they are known.
    """
    losses, curves = _losses(found, loss)
    cells: list[BranchCell] = []
    windows = range(len(setting.windows))
    for place in windows:
        cells += _cells(setting, losses, curves, place)
    if expected is not None:
        cells = _with_truth(setting, cells, *_losses(expected, loss))
    harmless = tuple(
        Harmless(
            window=setting.windows[place],
            tolerance=each,
            factors=tuple(_largest(setting, cells, place, fork, each) for fork in range(len(setting.forks))),
        )
        for place in windows
        for each in tolerances
    )
    chosen = next(each for each in harmless if (each.window, each.tolerance) == (setting.windows[window], tolerance))
    power = _common_power(setting, cells, chosen, window % len(setting.windows))
    return BranchFindings(
        task=setting.base.task,
        model=setting.base.model,
        settings=setting.to_json(),
        versions=dict(versions or {}),
        loss=loss,
        cells=tuple(cells),
        harmless=harmless,
        window=chosen.window,
        tolerance=chosen.tolerance,
        coupling=_coupling(power),
        growth=_trend(chosen.factors),
        schedule=_schedule(setting, chosen, dataset_size).to_json(),
    )


def _losses(
    found: Mapping[int, Sequence[Branch]], loss: str
) -> tuple[Losses, dict[tuple[int, int], dict[float, list[float]]]]:
    """Log losses of whole branches by seed, and of base branches by length."""
    losses: Losses = {}
    curves: dict[tuple[int, int], dict[float, list[float]]] = {}
    for seed, branches in found.items():
        for branch in branches:
            value = getattr(branch, f"{loss}_loss")
            log = math.inf if value is None else math.log(value)
            if branch.factor == 1:
                curves.setdefault((branch.fork, branch.window), {}).setdefault(branch.share, []).append(log)
            if branch.share == 1:
                losses.setdefault((branch.fork, branch.window, branch.factor, branch.power), {})[seed] = log
    return losses, curves


def _cells(
    setting: Branching,
    losses: Losses,
    curves: Mapping[tuple[int, int], Mapping[float, Sequence[float]]],
    window: int,
) -> list[BranchCell]:
    """A window's forks and factors."""
    differences: dict[tuple[int, int], tuple[list[float], float]] = {}
    for fork in range(len(setting.forks)):
        base = losses[fork, window, 1, 0.0]
        for factor in setting.factors:
            tried = {
                power: losses[fork, window, factor, power]
                for power in setting.powers
                if (fork, window, factor, power) in losses
            }
            if tried:
                differences[fork, factor] = _tuned(tried, base)
    finite = [values for values, _ in differences.values() if all(map(math.isfinite, values))]
    degrees = sum(len(values) - 1 for values in finite)
    pooled = sum(variance(values) * (len(values) - 1) for values in finite if len(values) > 1)
    std = math.sqrt(pooled / degrees) if degrees else math.inf
    cells = []
    for (fork, factor), (values, power) in differences.items():
        mean = fmean(values)
        error = std / math.sqrt(len(values))
        two_sided = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * error if degrees else math.inf
        one_sided = float(stats.t.ppf(CONFIDENCE, degrees)) * error if degrees else math.inf
        curve = curves[fork, window]
        cost, low, high = (_cost(curve, mean + shift) for shift in (0.0, -two_sided, two_sided))
        ends = cost, min(low, 1 / SHORTER[0]), max(high, 1 / SHORTER[-1])
        cells.append(
            BranchCell(
                fork=setting.forks[fork],
                window=setting.windows[window],
                factor=factor,
                power=power,
                loss_ratio=Estimate.of(*(_exp(mean + shift) for shift in (0.0, -two_sided, two_sided))),
                worst_ratio=None if not math.isfinite(mean + one_sided) else math.exp(mean + one_sided),
                cost=Estimate.of(*ends),
            )
        )
    return cells


def _with_truth(
    setting: Branching,
    cells: Sequence[BranchCell],
    losses: Losses,
    curves: Mapping[tuple[int, int], Mapping[float, Sequence[float]]],
) -> list[BranchCell]:
    """The cells with their costs by expected losses, at the power that was chosen."""
    found = []
    for cell in cells:
        fork, window = setting.forks.index(cell.fork), setting.windows.index(cell.window)
        base = losses[fork, window, 1, 0.0]
        here = losses[fork, window, cell.factor, cell.power]
        cost = _cost(curves[fork, window], fmean(here[seed] - base[seed] for seed in base))
        found.append(replace(cell, truth=cost if math.isfinite(cost) else None))
    return found


def _tuned(tried: Mapping[float, Mapping[int, float]], base: Mapping[int, float]) -> tuple[list[float], float]:
    """Differences of log losses to the base branch, seed by seed, each at the power that others choose; the power."""
    seeds = list(base)

    def best(of: Sequence[int]) -> float:
        return min(tried, key=lambda power: (fmean(tried[power][seed] for seed in of), power))

    values = []
    for seed in seeds:
        others = [other for other in seeds if other != seed] or seeds
        values.append(tried[best(others)][seed] - base[seed])
    return values, best(seeds)


def _cost(curve: Mapping[float, Sequence[float]], difference: float) -> float:
    """Samples over those that base branches need to the same loss, given the difference of its log to the base's.

    The base's loss against its samples is a line between lengths, on logarithms, made monotone. Beyond the lengths that
    were measured the cost is infinite, or 0; an interval then ends at the last of them.
    """
    if math.isnan(difference):
        return math.nan
    if not math.isfinite(difference):
        return math.inf if difference > 0 else 0.0
    lengths = sorted(curve)
    means = np.array([fmean(curve[length]) for length in lengths])
    falling = optimize.isotonic_regression(means, increasing=False).x
    wanted = falling[lengths.index(1.0)] + difference
    if wanted > falling[0]:
        return math.inf
    if wanted < falling[-1]:
        return 0.0
    logs = np.log(lengths)
    return math.exp(-float(np.interp(-wanted, -falling, logs)))


def _largest(setting: Branching, cells: Sequence[BranchCell], window: int, fork: int, tolerance: float) -> int:
    """The largest factor of a fork that does no harm, with all smaller ones; 1 if none."""
    largest = 1
    for cell in cells:
        if (cell.fork, cell.window) == (setting.forks[fork], setting.windows[window]):
            if cell.worst_ratio is None or cell.worst_ratio > 1 + tolerance:
                break
            largest = cell.factor
    return largest


def _common_power(setting: Branching, cells: Sequence[BranchCell], chosen: Harmless, window: int) -> float:
    """The power that most of the chosen branches took; the smaller one of two."""
    taken = [
        cell.power
        for cell in cells
        for fork, factor in zip(setting.forks, chosen.factors, strict=True)
        if (cell.fork, cell.window, cell.factor) == (fork, setting.windows[window], factor)
    ]
    return max(sorted(set(taken)), key=taken.count, default=1.0)


def _coupling(power: float) -> str:
    return {0.0: "none", 0.5: "sqrt", 1.0: "linear"}.get(power, f"power({power:g})")


def _trend(factors: Sequence[int]) -> str:
    """When growth suits the task, in a word."""
    if max(factors) == 1:
        return "none"
    half = len(factors) // 2
    early, late = fmean(map(math.log, factors[:half] or factors)), fmean(map(math.log, factors[-half:] or factors))
    if abs(early - late) < math.log(1.5):
        return "any time"
    return "early" if early > late else "late"


def _schedule(setting: Branching, chosen: Harmless, dataset_size: int) -> schedules.Schedule:
    """The batch sizes that do no harm, each from its fork on."""
    size = setting.base.batch_size
    changes: dict[units.Duration | int, int] = {0: size}
    for fork, factor in zip(setting.forks, chosen.factors, strict=True):
        if factor * size != list(changes.values())[-1]:
            changes[round(fork * setting.base.epochs * dataset_size)] = factor * size
    return schedules.steps(changes)


def _exp(value: float) -> float:
    return math.exp(value) if value < 600 else math.inf
