"""A study in tables: what each batch size needs, and what the fits say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from adabatch.lab.report.figures import Row, Table
from adabatch.lab.report.scaling.lines import LOSSES, Line
from adabatch.lab.report.scaling.words import UNKNOWN, believed, border, number, peak, stops, told
from adabatch.lab.report.words import NOTHING
from adabatch.lab.scaling import Fit, FTest, ToTarget

NEEDS = ("arrived", "updates", "speedup, and ideal", "samples", "cost", "seconds", "speedup in seconds")
SETTINGS = (
    "LR", "momentum", "search at its edge", "samples per second", "linear-approximation error", "trainings ended",
)  # fmt: skip
FITS = (
    "form", "perfect scaling ends", "critical batch size", "stagnation begins", "fewest samples", "fewest updates",
    "exponent", "lack of fit, p",
)  # fmt: skip


def needs(lines: Sequence[Line], loss: str) -> Table:
    """What each batch size needs to the target: a group for each line, a row for each batch size."""
    groups = []
    for line in lines:
        rows = [(f"{row.batch_size:,}", _needed(row)) for row in line.to(loss).to_target]
        groups.append((f"{line.name}: {aim(line, loss)}", rows))
    return Table(NEEDS, groups, corner="batch size", style="dense")


def aim(line: Line, loss: str) -> str:
    """The target of a line in words."""
    target = line.to(loss).target
    return "no target" if target is None else f"to {LOSSES[loss]} {target.loss:.4g}"


def _needed(row: ToTarget) -> list[str]:
    return [
        f"{row.arrived} of {row.n}",
        told(row.updates),
        speedup(row),
        told(row.samples),
        told(row.cost),
        told(row.seconds),
        told(row.seconds_speedup),
    ]


def speedup(row: ToTarget) -> str:
    """The speedup in updates beside the ideal: `"7.6 of 8 [7.4, 7.8]"`."""
    found, cut, interval = told(row.speedup).partition(" [")
    return found if found == UNKNOWN else f"{found} of {number(row.ideal)}{cut}{interval}"


def fits(lines: Sequence[Line], loss: str) -> Table:
    """What the fits say: a group for each line, a row for each form; the one to believe is marked."""
    groups = []
    for line in lines:
        found = line.to(loss).fits
        if found is None:
            continue
        rows: list[Row] = []
        for fit in (found.form_1, found.form_2):
            mark = " (used)" if fit is believed(found) else ""
            rows.append((f"{fit.form}{mark}", _fitted(fit)))
        needed = found.exponent_needed
        title = f"{line.name}: {aim(line, loss)}"
        groups.append((title if needed is None else f"{title}; exponent needed: p = {needed.p:.2g}", rows))
    return Table(FITS[1:], groups, corner=FITS[0], style="dense")


def _fitted(fit: Fit) -> list[str]:
    return [
        told(fit.batch_at_20_percent_more_samples),
        told(fit.critical_batch),
        told(fit.stagnation_batch),
        told(fit.min_samples),
        told(fit.min_updates),
        told(fit.exponent),
        _p(fit.lack_of_fit),
    ]


def _p(test: FTest | None) -> str:
    return NOTHING if test is None else f"{test.p:.2g}"


def borders(lines: Sequence[Line], losses: Iterable[str] = LOSSES) -> Table:
    """The borders of all lines by the form to believe, beside the machine's limits: a group for each loss.

    With a probe of a network both limits are the probe's; without one throughput is that of the study's trainings.
    """
    columns = ["perfect scaling to", "critical batch", "stagnation from", "form", "95 % of speed at"]
    probed = any(line.machine is not None for line in lines)
    groups = []
    for loss in losses:
        rows = [(line.name, [*_ends(line, loss), *_limits(line)][: len(columns) + probed]) for line in lines]
        groups.append((LOSSES[loss], rows))
    return Table([*columns, *(["memory full at"] if probed else [])], groups)


def _ends(line: Line, loss: str) -> list[str]:
    """The borders of a line, and the form that gives them."""
    found = line.to(loss).fits
    if found is None:
        return [NOTHING] * 4
    fit = believed(found)
    ends = (fit.batch_at_20_percent_more_samples, fit.critical_batch, fit.stagnation_batch)
    return [*(border(end, line.to(loss)) for end in ends), str(fit.form)]


def _limits(line: Line) -> list[str]:
    """The batch sizes of 95 % of the highest throughput and of full memory."""
    if line.machine is not None:
        return [line.machine.speed, line.machine.memory]
    size = peak(line.rule.cells)
    return [NOTHING if size is None else f"{size:,}", NOTHING]


def trainings(lines: Sequence[Line]) -> Table:
    """How each batch size was trained, and how its trainings ended: a group for each line."""
    groups = []
    for line in lines:
        rows = []
        for cell in line.rule.cells:
            rate = NOTHING if cell.samples_per_second is None else number(cell.samples_per_second)
            edge = "yes" if cell.at_edge else "no"
            error = told(cell.linear_approximation_error)
            cells = [f"{cell.lr:.4g}", f"{cell.momentum:.4g}", edge, rate, error, stops(cell)]
            rows.append((f"{cell.batch_size:,}", cells))
        groups.append((line.name, rows))
    return Table(SETTINGS, groups, corner="batch size")
