"""Constant batch sizes, judged by their cooled curves: which is the best, and how long each takes to its loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from adabatch.lab.advice import FixedBatch
from adabatch.lab.scaling import Estimate, LearningCurve
from adabatch.lab.study import fits, measures
from adabatch.lab.study.curve import Curve
from adabatch.lab.study.grid import Grid
from adabatch.lab.study.measures import LATER


class Judged(NamedTuple):
    """Constant batch sizes, judged.

    Attributes:
        rows: as records, by batch size.
        best: the batch size that takes the least time to the target.
        critical: batch size.
        seconds: to the target, by batch size; infinite where a run never arrived.
    """

    rows: Mapping[int, FixedBatch]
    best: int
    critical: Estimate
    seconds: Mapping[int, float]


def judged(grid: Grid, curves: Mapping[int, Sequence[Curve]], seeds: Sequence[int]) -> Judged:
    """The batch size that takes the least time to the test loss that the best one reaches with every seed, and more.

    Args:
        grid: of the trainings, with one LR rule.
        curves: for each batch size the curve of each seed.
        seeds: in the order of the curves.

    Raises:
        ValueError: if no batch size has a finite loss with every seed.
    """
    points = {size: [_points(run) for run in found] for size, found in curves.items() if all(r.points for r in found)}
    target = measures.best_batch_target(points).loss
    arrivals = {size: [measures.first_arrival(run, target) for run in found] for size, found in points.items()}
    told = {row.batch_size: row for row in measures.to_target(arrivals)}
    seconds = {
        size: math.inf
        if size not in arrivals or any(run.censored == LATER for run in arrivals[size])
        else fmean(run.seconds or 0.0 for run in arrivals[size])
        for size in curves
    }
    rows = {
        size: FixedBatch(
            batch_size=size,
            lr=grid.scaled_lr(grid.rules[0], size),
            curves=tuple(
                LearningCurve(seed, [list(point) for point in run.points])
                for seed, run in zip(seeds, found, strict=True)
            ),
            seconds_to_target=told[size].seconds if size in told else Estimate(),
        )
        for size, found in curves.items()
    }
    critical = fits.fit(arrivals).critical_batch if len(arrivals) > 1 else Estimate()
    return Judged(rows, min(seconds, key=lambda size: seconds[size]), critical, seconds)


def _points(run: Curve) -> list[measures.Point]:
    return [measures.Point(point.updates, point.samples, point.seconds, point.test_loss) for point in run.points]
