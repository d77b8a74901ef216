"""The findings of a study: updates, samples and seconds to target by batch size, with fits, from its curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, Final

from adabatch.lab.scaling import Cell, CriticalBatch, Estimate, LearningCurve, Panel, Rule, Study, ToLoss
from adabatch.lab.study import due, fits, measures
from adabatch.lab.study.curve import Curve
from adabatch.lab.study.grid import Cell as GridCell
from adabatch.lab.study.grid import Grid, checkpoints, cooldown

FORMAT: Final = 1
LOSSES: Final = ("train", "test")


def findings(
    grid: Grid,
    curves: Mapping[str, Curve],
    *,
    samples: Mapping[float, int],
    versions: Mapping[str, Any],
    expected_loss: Callable[..., Any] | None = None,
) -> Study:
    """The findings of a study in which all that was due is done.

    Args:
        grid: its settings.
        curves: of its jobs, by key.
        samples: of the training set, by share of the data.
        versions: of what it ran with.
        expected_loss: of a task whose answer is known, see `tasks.Task`; None: it is not known.
    """
    panels = tuple(_panel(grid, panel, curves, samples[panel[1]]) for panel in grid.panels)
    return Study(
        format=FORMAT,
        task=grid.base.task,
        settings=grid.to_json(),
        versions=versions,
        panels=panels,
        critical_batch=_critical(grid, panels[0], expected_loss),
    )


def _panel(grid: Grid, panel: tuple[str, float], curves: Mapping[str, Curve], samples: int) -> Panel:
    rules = {rule: {cell.batch_size: cell for cell in grid.cells(panel) if cell.rule == rule} for rule in grid.rules}
    runs = {
        rule: {size: due.longest(grid, cell, curves) for size, cell in cells.items()} for rule, cells in rules.items()
    }
    aims = {loss: due.target(grid, panel, curves, loss) for loss in LOSSES}
    return Panel(
        model=panel[0],
        fraction=panel[1],
        samples=samples,
        rules=tuple(
            Rule(
                rule=rule,
                cells=_cells(grid, cells, runs[rule], curves),
                **{loss: _to_loss(runs[rule], loss, aims[loss]) for loss in LOSSES},
            )
            for rule, cells in rules.items()
        ),
    )


def _cells(
    grid: Grid, cells: Mapping[int, GridCell], runs: Mapping[int, Mapping[int, Curve]], curves: Mapping[str, Curve]
) -> tuple[Cell, ...]:
    errors = measures.means(
        {size: [run.linear_approximation_error for run in by_seed.values()] for size, by_seed in runs.items()}
    )
    return tuple(_cell(grid, cell, runs[size], curves, errors[size]) for size, cell in cells.items())


def _cell(grid: Grid, cell: GridCell, runs: Mapping[int, Curve], curves: Mapping[str, Curve], error: Estimate) -> Cell:
    _, found = due.search(grid, cell, curves)
    assert found is not None  # the study is done
    rates = [
        (last.samples - first.samples) / (last.seconds - first.seconds)
        for run in runs.values()
        if len(run.points) > 1
        for first, last in [(run.points[0], run.points[-1])]
        if last.seconds > first.seconds
    ]
    return Cell(
        batch_size=cell.batch_size,
        lr=found.lr,
        momentum=found.momentum,
        at_edge=found.at_edge,
        samples_per_second=median(rates) if rates else None,
        linear_approximation_error=error,
        stopped=dict(Counter(run.stopped for run in runs.values())),
        curves=tuple(LearningCurve(seed, [list(point) for point in run.points]) for seed, run in runs.items()),
    )


def _to_loss(runs: Mapping[int, Mapping[int, Curve]], loss: str, aim: measures.Target | None) -> ToLoss:
    """The way of each batch size to a target."""
    if aim is None:
        return ToLoss(target=None, to_target=(), fits=None)
    arrivals: dict[int, list[measures.Arrival]] = {}
    for size, by_seed in runs.items():
        found = [measures.first_arrival(due.points(run, loss), aim.loss) for run in by_seed.values() if run.points]
        if found:
            arrivals[size] = found
    if not arrivals:
        return ToLoss(target=aim, to_target=(), fits=None)
    return ToLoss(
        target=aim,
        to_target=measures.to_target(arrivals),
        fits=fits.fits(arrivals) if len(arrivals) > 1 else None,
    )


def _critical(grid: Grid, panel: Panel, expected_loss: Callable[..., Any] | None) -> CriticalBatch | None:
    """The critical batch size of a panel's test loss, under the rule `tuned` if there is one."""
    rules = {rule.rule: rule for rule in panel.rules}
    rule = rules.get("tuned", panel.rules[0])
    found = rule.test
    if found.fits is None or found.target is None:
        return None
    estimate, truth = found.fits.form_1.critical_batch, None
    if expected_loss is not None and grid.base.optimizer == "sgd":
        known = {}
        for cell in rule.cells:
            curve = expected_curve(grid, cell, expected_loss, samples=panel.samples)
            known[cell.batch_size] = [measures.first_arrival(curve, found.target.loss)]
        truth = fits.fit(known).critical_batch.estimate
    return CriticalBatch(
        estimate=estimate.estimate,
        low=estimate.low,
        high=estimate.high,
        truth=truth,
        model=panel.model,
        rule=rule.rule,
        loss="test",
        target=found.target.loss,
    )


def expected_curve(grid: Grid, cell: Cell, expected_loss: Callable[..., Any], *, samples: int) -> list[measures.Point]:
    """The cooled curve of a batch size as it would be without the noise of sampling, up to the larger budget.

    Args:
        grid: of the study.
        cell: the batch size, with its LR and momentum.
        expected_loss: of the task.
        samples: in an epoch.
    """
    an_epoch = samples // cell.batch_size
    base_updates, updates = grid.epochs * an_epoch, grid.max_epochs * an_epoch
    course = grid.course(cell.lr, base_updates=base_updates)
    found = []
    for total in checkpoints(base_updates=base_updates, updates=updates):
        lrs = [course.at(update) for update in range(total - cooldown(total))] + course.cooling(total)
        loss = float(expected_loss(lrs, cell.batch_size, momentum=cell.momentum)[-1])
        found.append(measures.Point(total, total * cell.batch_size, 0.0, loss))
    return found
