"""Which jobs of a study are due: a function of its grid and of the curves that are there, so that workers agree.

A study goes in three steps, each network and share of the data by itself:

1. Under the rule `tuned`, LR and momentum are searched at each batch size, on a grid that grows while its best value
   lies at an edge.
2. Every cell is trained over all seeds, to the budget in which the target is set.
3. Where a seed has not arrived at the target it goes on, up to the larger budget.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from adabatch.lab.study import measures
from adabatch.lab.study.curve import Curve
from adabatch.lab.study.grid import SEARCH_SEED, Cell, Grid, Job
from adabatch.lab.training import RunConfig, optimizers

LR_STEP: Final = 2.0  # ratio of neighbouring LRs in a search
MOST_GROWTH: Final = 4  # how often a search's grid grows in one direction
LEAST_LEFT: Final = 1e-3  # of 1 - momentum: beyond it nothing is searched

Curves = Mapping[str, Curve]


@dataclass(frozen=True, slots=True)
class Found:
    """The end of a search.

    Attributes:
        lr: the best learning rate.
        momentum: the best momentum.
        at_edge: whether it still lies at the edge of its grid, so that a better one may lie beyond.
    """

    lr: float
    momentum: float
    at_edge: bool


@dataclass(frozen=True, slots=True)
class Targets:
    """The losses to reach, None where none is finite."""

    train_loss: float | None
    test_loss: float | None


def due(grid: Grid, curves: Curves) -> list[Job]:
    """The jobs that are due, the most urgent first; those that are under way are among them.

    Args:
        grid: of the study.
        curves: of finished jobs, by key.
    """
    found: list[Job] = []
    for panel in grid.panels:
        found += _due_in(grid, panel, curves)
    return found


def _due_in(grid: Grid, panel: tuple[str, float], curves: Curves) -> list[Job]:
    """The jobs that are due in a panel."""
    searches: list[Job] = []
    measured: list[Job] = []
    for cell in grid.cells(panel):
        missing, _ = search(grid, cell, curves)
        searches += missing
        measured += base_jobs(grid, cell, curves)
    missing = [job for job in _by_seed(measured) if job.key not in curves]
    if searches or missing:
        return missing + searches
    return [job for job in longer_jobs(grid, panel, curves) if job.key not in curves]


def _by_seed(jobs: list[Job]) -> list[Job]:
    """Jobs in the order of seeds, so that after the first seed there is one of every cell."""
    return sorted(jobs, key=lambda job: job.seed)


def base_jobs(grid: Grid, cell: Cell, curves: Curves) -> list[Job]:
    """The trainings of a cell to the base budget; none while its search is not over."""
    _, found = search(grid, cell, curves)
    if found is None:
        return []
    return [grid.job(cell, seed=seed, lr=found.lr, momentum=found.momentum) for seed in grid.seeds]


def longer_jobs(grid: Grid, panel: tuple[str, float], curves: Curves) -> list[Job]:
    """The trainings of a panel that go on beyond the base budget; call it when all base jobs are done."""
    if grid.max_epochs == grid.epochs:
        return []
    aims = targets(grid, panel, curves)
    found = []
    for cell in grid.cells(panel):
        for job in base_jobs(grid, cell, curves):
            if curves[job.key].stopped == "budget" and not _arrived(curves[job.key], aims):
                longer = replace(job, epochs=grid.max_epochs, train_target=aims.train_loss, test_target=aims.test_loss)
                *_, last = _turns(longer, curves)
                found.append(last)
    return _by_seed(found)


def _turns(longer: Job, curves: Curves) -> Iterator[Job]:
    """Trainings to a larger budget: while one arrived at targets that were higher than these, another follows."""
    yield longer
    aims = Targets(longer.train_target, longer.test_target)
    while (curve := curves.get(longer.key)) is not None and curve.stopped == "arrived" and not _arrived(curve, aims):
        longer = replace(longer, turn=longer.turn + 1)
        yield longer


def longest(grid: Grid, cell: Cell, curves: Curves) -> dict[int, Curve]:
    """The longest curve of each seed of a cell; call it when nothing is due."""
    found = {}
    for job in base_jobs(grid, cell, curves):
        found[job.seed] = curves[job.key]
        longer = replace(job, epochs=grid.max_epochs)
        while (curve := curves.get(longer.key)) is not None:
            found[job.seed] = max(curve, found[job.seed], key=_updates)
            longer = replace(longer, turn=longer.turn + 1)
    return found


def _updates(curve: Curve) -> int:
    return curve.points[-1].updates if curve.points else 0


def points(curve: Curve, loss: str) -> list[measures.Point]:
    """A curve of one loss, `"train"` or `"test"`."""
    return [
        measures.Point(point.updates, point.samples, point.seconds, getattr(point, f"{loss}_loss"))
        for point in curve.points
    ]


def _arrived(curve: Curve, aims: Targets) -> bool:
    """Whether a curve has been at or below both targets."""
    return all(
        target is None or any(loss is not None and loss <= target for loss in losses)
        for target, losses in (
            (aims.train_loss, [point.train_loss for point in curve.points]),
            (aims.test_loss, [point.test_loss for point in curve.points]),
        )
    )


# Targets.


def targets(grid: Grid, panel: tuple[str, float], curves: Curves) -> Targets:
    """The losses to reach in a panel; call it when all base jobs are done."""
    train, test = (target(grid, panel, curves, loss) for loss in ("train", "test"))
    return Targets(None if train is None else train.loss, None if test is None else test.loss)


def target(grid: Grid, panel: tuple[str, float], curves: Curves, loss: str) -> measures.Target | None:
    """The target of one loss: the lowest of those that the LR rules give; None if none gives one."""
    find = measures.paper_target if grid.target == "paper" else measures.best_batch_target
    found = []
    for rule in grid.rules:
        runs = {
            cell.batch_size: [points(curves[job.key], loss) for job in base_jobs(grid, cell, curves)]
            for cell in grid.cells(panel)
            if cell.rule == rule
        }
        with suppress(ValueError):  # no batch size has a finite loss with every seed
            found.append(find({size: by_seed for size, by_seed in runs.items() if all(by_seed)}))
    return min(found, key=lambda aim: aim.loss, default=None)


# The search for LR and momentum.


def search(grid: Grid, cell: Cell, curves: Curves) -> tuple[list[Job], Found | None]:
    """The trainings that a cell's search still needs, and its end.

    The best value is the one with the lowest training loss within the base budget. While it lies at an edge of the
    grid, the grid grows there, up to `MOST_GROWTH` times in each direction. Momentum is searched of optimizers that
    have one.

    Returns:
        Jobs, none when it is over; the values found, None before. A cell of another rule has nothing to search.
    """
    if cell.rule != "tuned":
        lr = grid.scaled_lr(cell.rule, cell.batch_size)
        return [], Found(lr, grid.base.momentum, at_edge=False)
    lrs, momenta = _Axis(), _momenta(grid.base)
    while True:
        tried = {(i, k): _trial(grid, cell, i, k) for i, k in product(lrs.places, momenta.places)}
        missing = {job.key: job for job in tried.values() if job.key not in curves}
        if missing:
            return list(missing.values()), None
        scores = {place: _score(curves[job.key]) for place, job in tried.items()}
        i, k = min(scores, key=lambda place: (scores[place], abs(place[0]) + abs(place[1])))
        if not math.isfinite(scores[i, k]):  # all diverged: only a smaller LR can help
            i, k = lrs.low, 0
        before = lrs, momenta
        lrs, momenta = lrs.grown(i), momenta.grown(k)
        if (lrs, momenta) == before:
            return [], Found(tried[i, k].lr, tried[i, k].momentum, at_edge=lrs.has_edge(i) or momenta.has_edge(k))


@dataclass(frozen=True, slots=True)
class _Axis:
    """Places on one axis of a search, in steps from its middle: those tried, within those that have a sense."""

    low: int = -1
    high: int = 1
    lowest: float = -math.inf
    highest: float = math.inf

    @property
    def places(self) -> range:
        return range(self.low, self.high + 1)

    def grown(self, best: int) -> _Axis:
        """Longer by a place where the best one lies at an edge, if it may grow there."""
        low = self.low - (best == self.low > max(self.lowest, -1 - MOST_GROWTH))
        return replace(self, low=low, high=self.high + (best == self.high < min(self.highest, 1 + MOST_GROWTH)))

    def has_edge(self, best: int) -> bool:
        """Whether better places may lie beyond the best one."""
        return best == self.low > self.lowest or best == self.high < self.highest


def _momenta(base: RunConfig) -> _Axis:
    """The axis of momentum, from 0 up to `LEAST_LEFT` below 1; its middle alone if the optimizer has none."""
    if optimizers.CLASSES[base.optimizer] not in optimizers.OF_MOMENTUM:
        return _Axis(0, 0, 0, 0)
    left = 1 - base.momentum
    lowest, highest = math.floor(math.log2(left)), max(0, math.floor(math.log2(left / LEAST_LEFT)))
    return _Axis(max(-1, lowest), min(1, highest), lowest, highest)


def _trial(grid: Grid, cell: Cell, lr_steps: int, momentum_steps: int) -> Job:
    """A training with LR and momentum so many steps from the middle of the search."""
    return grid.job(
        cell,
        seed=SEARCH_SEED,
        lr=grid.scaled_lr("tuned", cell.batch_size) * math.pow(LR_STEP, lr_steps),
        momentum=max(0.0, 1 - (1 - grid.base.momentum) * math.pow(2.0, -momentum_steps)),
        searches=True,
    )


def _score(curve: Curve) -> float:
    """The lowest training loss; infinite if the training diverged."""
    if curve.stopped != "budget":
        return math.inf
    return min((point.train_loss for point in curve.points if point.train_loss is not None), default=math.inf)
