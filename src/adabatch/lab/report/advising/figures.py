"""Advice as tables: constant batch sizes, schedules, and forecasts beside outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from adabatch.lab.advice import Advice, FixedBatch
from adabatch.lab.report.advising.words import ratio, regret
from adabatch.lab.report.figures import Row, Table
from adabatch.lab.report.scaling.words import number, told
from adabatch.lab.report.words import NOTHING, plural

CONSTANT = ("LR", "test loss at the end", "seconds to the best one's loss")
GROWING = ("coupling", "test loss at the end", "seconds", "times as fast, 80 %", "of three other seeds, 95 %")
BESIDE = ("verdict", "schedule", "forecast, 80 %", "forecast, 95 %", "outcome", "80 % holds", "95 % holds", "regret")

WIDE = 100  # from which on the ends of an interval say nothing


def constant(found: Advice) -> Table:
    """The constant batch sizes; the best one is marked."""
    rows: list[Row] = []
    for row in found.fixed:
        mark = " (best)" if row.batch_size == found.best_fixed else ""
        ends = [curve.points[-1][4] if curve.points else None for curve in row.curves]
        rows.append((f"{row.batch_size:,}{mark}", [f"{row.lr:.4g}", mean(ends), _time(row)]))
    return Table(CONSTANT, [("", rows)], corner="batch size", style="dense")


def _time(row: FixedBatch) -> str:
    """The time to the target; words where the seeds leave it open by more than a factor of `WIDE`."""
    found, seeds = row.seconds_to_target, len(row.curves)
    if found.estimate is not None and found.high is not None and found.high > WIDE * found.low:
        return f"not known from {seeds} {plural('seed', seeds)}"
    return told(found)


def growing(found: Advice) -> Table:
    """The schedules; the one that promises most is marked."""
    rows: list[Row] = []
    for tried in found.growing:
        mark = " (chosen)" if tried.name == found.chosen else ""
        cells = [tried.coupling, mean(tried.test_losses), number(fmean(tried.seconds))]
        rows.append((f"{tried.name}{mark}", [*cells, ratio(tried.ratio), ratio(tried.forecast.at_95)]))
    return Table(GROWING, [("", rows)], corner="schedule", style="dense")


def beside(advices: Mapping[str, Advice]) -> Table:
    """Forecasts beside outcomes: a row for each advice."""
    rows = [(name, _beside(found)) for name, found in advices.items()]
    return Table(BESIDE, [("", rows)], corner="advice", style="dense")


def _beside(found: Advice) -> list[str]:
    choice, seen = found.choice, found.outcome
    cells = [found.verdict, NOTHING, NOTHING, NOTHING]
    if choice is not None:
        cells[1:] = [choice.name, ratio(choice.forecast.at_80), ratio(choice.forecast.at_95)]
    if seen is None:
        return [*cells, *[NOTHING] * 4]
    lost = regret(found)
    held = ["yes" if holds else "no" for holds in (seen.within_80, seen.within_95)]
    return [*cells, ratio(seen.ratio), *held, NOTHING if lost is None else number(lost)]


def mean(losses: Sequence[float | None]) -> str:
    """The geometric mean of losses."""
    logs = [math.log(loss) for loss in losses if loss]
    return f"{math.exp(fmean(logs)):.4g}" if logs and len(logs) == len(losses) else NOTHING
