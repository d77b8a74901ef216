"""Which jobs of a study are due: a function of its grid and of the curves that are there, so that workers agree.

A study goes in three steps, each network and share of the data by itself:

1. Under the rule `tuned`, LR and momentum are searched at each batch size, on a grid that grows while its best value
   lies at an edge.
2. Every case is trained over all seeds, to the budget in which the target is set.
3. Where a seed has not arrived at the target it goes on, up to the larger budget.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import Final

from adabatch.lab.study import measures
from adabatch.lab.study.curve import Curve
from adabatch.lab.study.grid import SEARCH_SEED, Case, Grid, Job
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


def due_by_case(grid: Grid, curves: Curves) -> dict[Case, list[Job]]:
    """The jobs that are due for each case, those under way among them; several cases may wait for the same one.

    Args:
        grid: of the study.
        curves: of finished jobs, by key.
    """
    found: dict[Case, list[Job]] = {}
    for panel in grid.panels:
        found |= _due_in(grid, panel, curves)
    return found


def in_order(jobs: Mapping[Case, Sequence[Job]]) -> list[Job]:
    """Jobs of cases in the order of urgency, each once.

    A panel comes after the other; in it claims before searches, and seed by seed, so that after the first seed there is
    a training of every case.
    """
    found: dict[str, Job] = {}
    for _, cases in groupby(jobs, key=lambda case: case.panel):
        here = [job for case in cases for job in jobs[case]]
        found |= {job.key: job for job in sorted(here, key=lambda job: (job.searches, job.seed))}
    return list(found.values())


def _due_in(grid: Grid, panel: tuple[str, float], curves: Curves) -> dict[Case, list[Job]]:
    """The jobs that are due for the cases of a panel."""
    found: dict[Case, list[Job]] = {}
    for case in grid.cases(panel):
        missing, _ = search(grid, case, curves)
        found[case] = missing or _missing(base_jobs(grid, case, curves), curves)
    if any(found.values()) or grid.max_epochs == grid.epochs:
        return found
    aims = targets(grid, panel, curves)
    return {case: _missing(_longer_jobs(grid, case, aims, curves), curves) for case in found}


def _missing(jobs: Iterable[Job], curves: Curves) -> list[Job]:
    return [job for job in jobs if job.key not in curves]


def base_jobs(grid: Grid, case: Case, curves: Curves) -> list[Job]:
    """The trainings of a case to the base budget; none while its search is not over."""
    _, found = search(grid, case, curves)
    if found is None:
        return []
    return [grid.job(case, seed=seed, lr=found.lr, momentum=found.momentum) for seed in grid.seeds]


def _longer_jobs(grid: Grid, case: Case, aims: Targets, curves: Curves) -> Iterator[Job]:
    """The trainings of a case that go on beyond the base budget; all base jobs are done."""
    for job in base_jobs(grid, case, curves):
        if curves[job.key].stopped == "budget" and not _arrived(curves[job.key], aims):
            longer = replace(job, epochs=grid.max_epochs, train_target=aims.train_loss, test_target=aims.test_loss)
            *_, last = _turns(longer, curves)
            yield last


def _turns(longer: Job, curves: Curves) -> Iterator[Job]:
    """Trainings to a larger budget: while one arrived at targets that were higher than these, another follows."""
    yield longer
    aims = Targets(longer.train_target, longer.test_target)
    while (curve := curves.get(longer.key)) is not None and curve.stopped == "arrived" and not _arrived(curve, aims):
        longer = replace(longer, turn=longer.turn + 1)
        yield longer


def longest(grid: Grid, case: Case, curves: Curves) -> dict[int, Curve]:
    """The longest curve of each seed of a case; call it when nothing is due."""
    found = {}
    for job in base_jobs(grid, case, curves):
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
            case.batch_size: [points(curves[job.key], loss) for job in base_jobs(grid, case, curves)]
            for case in grid.cases(panel)
            if case.rule == rule
        }
        with suppress(ValueError):  # no batch size has a finite loss with every seed
            found.append(find({size: by_seed for size, by_seed in runs.items() if all(by_seed)}))
    return min(found, key=lambda aim: aim.loss, default=None)


# The search for LR and momentum.


def search(grid: Grid, case: Case, curves: Curves) -> tuple[list[Job], Found | None]:
    """The trainings that a case's search still needs, and its end.

    The best value is the one with the lowest training loss within the base budget. While it lies at an edge of the
    grid, the grid grows there, up to `MOST_GROWTH` times in each direction. Momentum is searched of optimizers that
    have one.

    Returns:
        Jobs, none when it is over; the values found, None before. A case of another rule has nothing to search.
    """
    if case.rule != "tuned":
        lr = grid.scaled_lr(case.rule, case.batch_size)
        return [], Found(lr, grid.base.momentum, at_edge=False)
    lrs, momenta = _Axis(), _momenta(grid.base)
    while True:
        tried = {(i, k): _trial(grid, case, i, k) for i, k in product(lrs.places, momenta.places)}
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


def _trial(grid: Grid, case: Case, lr_steps: int, momentum_steps: int) -> Job:
    """A training with LR and momentum so many steps from the middle of the search."""
    momentum = grid.base.momentum
    if momentum_steps:  # the middle exactly, so that its trainings are those of other rules
        momentum = max(0.0, 1 - (1 - momentum) * math.pow(2.0, -momentum_steps))
    return grid.job(
        case,
        seed=SEARCH_SEED,
        lr=grid.scaled_lr("tuned", case.batch_size) * math.pow(LR_STEP, lr_steps),
        momentum=momentum,
        searches=True,
    )


def _score(curve: Curve) -> float:
    """The lowest training loss; infinite if the training diverged."""
    if curve.stopped != "budget":
        return math.inf
    return min((point.train_loss for point in curve.points if point.train_loss is not None), default=math.inf)
