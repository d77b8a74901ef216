"""A study as CSV for spreadsheets: what is drawn, tidy, with a header row.

- `study.csv`: a row for each network, share of the data, LR rule, loss and batch size: what it needs to the target;
- `study-runs.csv`: a row for each run and loss: where it arrived;
- `study-fits.csv`: a row for each fitted form, with the limits of the machine by a probe;
- `study-curves.csv`: a row for each cooled loss of each training.

An empty cell: not known, or without bound.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from adabatch.lab.report.scaling.lines import LOSSES, NO_MACHINES, Line, lines
from adabatch.lab.report.scaling.machine import Machines
from adabatch.lab.report.scaling.words import believed
from adabatch.lab.scaling import Estimate, Study

_NEEDS: Final = ("updates", "samples", "seconds", "speedup", "cost", "seconds_speedup")
_FITTED: Final = (
    "batch_at_20_percent_more_samples", "critical_batch", "stagnation_batch", "min_samples", "min_updates",
    "best_batch", "exponent",
)  # fmt: skip

Row = dict[str, Any]


def sheets(study: Study, machines: Machines = NO_MACHINES) -> dict[str, str]:
    """The text of each CSV file, by its name."""
    every = lines({"": study}, machines)
    return {name: text_of(made(study, every)) for name, made in _SHEETS.items()}


def _needs(study: Study, every: Iterable[Line]) -> Iterator[Row]:
    for line in every:
        cells = {cell.batch_size: cell for cell in line.rule.cells}
        for loss in LOSSES:
            found = line.to(loss)
            for row in found.to_target:
                cell, fits = cells[row.batch_size], found.fits
                made = _key(study, line) | {"loss": loss, "target": found.target and found.target.loss}
                made |= {"batch_size": row.batch_size, "lr": cell.lr, "momentum": cell.momentum}
                made |= {"search_at_edge": cell.at_edge, "runs": row.n, "arrived": row.arrived}
                for name in _NEEDS:
                    made |= estimate(name, getattr(row, name))
                made["ideal_speedup"] = row.ideal
                for form in (1, 2):
                    fit = None if fits is None else getattr(fits, f"form_{form}")
                    made[f"form_{form}_updates"] = None if fit is None else fit.updates(row.batch_size)
                made["samples_per_second"] = cell.samples_per_second
                yield made | estimate("linear_approximation_error", cell.linear_approximation_error)


def _runs(study: Study, every: Iterable[Line]) -> Iterator[Row]:
    for line in every:
        for loss in LOSSES:
            for row in line.to(loss).to_target:
                for number, run in enumerate(row.runs, start=1):
                    made = _key(study, line) | {"loss": loss, "batch_size": row.batch_size, "run": number}
                    arrived = {"": "yes", "later": "not yet", "earlier": "before its first loss"}
                    made |= {"arrived": arrived.get(run.censored, run.censored)}
                    yield made | {"updates": run.updates, "samples": run.samples, "seconds": run.seconds}


def _fits(study: Study, every: Iterable[Line]) -> Iterator[Row]:
    for line in every:
        for loss in LOSSES:
            fits = line.to(loss).fits
            if fits is None:
                continue
            for fit in (fits.form_1, fits.form_2):
                made = _key(study, line) | {"loss": loss, "form": fit.form, "used": fit is believed(fits)}
                for name in _FITTED:
                    made |= estimate(name, getattr(fit, name))
                made["lack_of_fit_p"] = fit.lack_of_fit and fit.lack_of_fit.p
                made["exponent_needed_p"] = fits.exponent_needed and fits.exponent_needed.p
                made |= {"std_of_log_updates": fit.std, "degrees": fit.degrees, "std_from": fit.std_from}
                yield made | _limits(line)


def _limits(line: Line) -> Row:
    machine = line.machine
    return {
        "batch_at_95_percent_of_throughput": machine and machine.fast,
        "largest_batch_probed": machine and machine.largest,
        "out_of_memory_at": machine and machine.full,
    }


def _curves(study: Study, every: Iterable[Line]) -> Iterator[Row]:
    names = ("updates", "samples", "seconds", "train_loss", "test_loss")
    for line in every:
        for cell in line.rule.cells:
            for curve in cell.curves:
                made = _key(study, line) | {"batch_size": cell.batch_size, "lr": cell.lr, "momentum": cell.momentum}
                for point in curve.points:
                    yield made | {"seed": curve.seed} | dict(zip(names, point, strict=True))


_SHEETS: Final[Mapping[str, Callable[[Study, Iterable[Line]], Iterable[Row]]]] = {
    "study.csv": _needs,
    "study-runs.csv": _runs,
    "study-fits.csv": _fits,
    "study-curves.csv": _curves,
}


def _key(study: Study, line: Line) -> Row:
    panel = line.panel
    return {"task": study.task, "model": panel.model, "fraction": panel.fraction, "lr_rule": line.rule.rule}


def estimate(name: str, value: Estimate) -> Row:
    """An estimate and its bounds as cells."""
    return {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}


def text_of(rows: Iterable[Row]) -> str:
    """The rows as CSV, with a header row; those after the first have the same columns."""
    found = list(rows)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(found[0]) if found else ["task"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return stream.getvalue()
