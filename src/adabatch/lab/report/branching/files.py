"""The files beside a branching's page: pictures where matplotlib is installed, and CSV.

- `branch.csv`: a row for each window, fork and batch size: what it costs;
- `branch-harmless.csv`: a row for each window, tolerance and fork: the largest batch that does no harm;
- `branch-schedule.csv`: a row for each batch size of the schedule.

An empty cell: not known, or without bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from adabatch.lab.report import look
from adabatch.lab.report.branching import charts
from adabatch.lab.report.branching.words import chosen, steps
from adabatch.lab.report.picture import GREY, MARKERS, new_figure, save
from adabatch.lab.report.scaling import files, picture
from adabatch.lab.report.scaling.sheets import Row, estimate, text_of
from adabatch.lab.scaling import BranchFindings

NAMES: Final = {"cost": "branch.png", "harmless": "branch-harmless.png", "schedule": "branch-schedule.png"}
PICTURE: Final = NAMES["cost"]
_Y_TITLES: Final = {"cost": "samples ratio", "harmless": "batch size", "schedule": "batch size"}
_WIDE: Final = 8.6  # inches
_HEAD: Final = 0.55  # inches of title and legend
_DEEP: Final = 2.1  # inches of a panel
_FOOT: Final = 1.1  # inches of the axis below, and of the gap above


def write(found: BranchFindings, folder: Path) -> list[str]:
    """Writes CSV files and, if matplotlib is installed, pictures; each is replaced whole or not at all.

    Returns:
        The names of the files.

    Raises:
        OSError: if a file cannot be written.
    """
    return files.written(folder, NAMES, partial(draw, found), sheets(found))


def draw(found: BranchFindings, name: str, path: Path) -> None:
    """Draws one of `NAMES` to a PNG file, which is replaced whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    from matplotlib.lines import Line2D

    paint = charts.lines([found])
    chart = charts.CHARTS[name](found, list(paint))
    panels = sum(key.startswith("yaxis") for key in chart["layout"])
    deep = _HEAD + _FOOT + _DEEP * panels
    figure = new_figure(_WIDE, deep, dpi=130)
    colours = paint | {charts.SCHEDULE: look.COLOURS["adaptive"]}
    picture.chart(figure, chart, colours, (0.0, 0.0, 1.0, 1 - _HEAD / deep), (_Y_TITLES[name], ""))
    drawn = {trace["name"] for trace in chart["traces"]}
    handles: list[Any] = [
        Line2D([], [], color=colour, marker=MARKERS[look.symbol(place)], label=line)
        for place, (line, colour) in enumerate(paint.items())
        if line in drawn
    ]
    if name == "cost" and any(cell.truth for cell in found.cells):
        handles.append(Line2D([], [], color=GREY, linestyle="none", marker=MARKERS["x"], label="truth"))
    if handles:
        at = (0.0, 1 - 0.3 / deep)
        columns = min(len(handles), 8)
        legend = figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=at, ncols=columns, frameon=False, fontsize=8.5
        )
        legend.set_in_layout(False)
    title = f"{found.task}, {found.model}: {charts.TITLES[name][0].lower()}{charts.TITLES[name][1:]}"
    figure.text(0.012, 1 - 0.08 / deep, title, va="top", fontsize=12, fontweight="bold", parse_math=False)
    save(figure, path)


def sheets(found: BranchFindings) -> dict[str, str]:
    """The text of each CSV file, by its name."""
    made = {"branch.csv": _costs, "branch-harmless.csv": _harmless, "branch-schedule.csv": _schedule}
    return {name: text_of(rows(found)) for name, rows in made.items()}


def _costs(found: BranchFindings) -> Iterator[Row]:
    for cell in found.cells:
        size = found.base_batch_size * cell.factor
        made = _key(found) | {"window": cell.window, "fork": cell.fork, "batch_size": size}
        made |= {"factor": cell.factor, "lr_factor": cell.lr_factor}
        made |= estimate("loss_ratio", cell.loss_ratio) | {"worst_loss_ratio": cell.worst_ratio}
        yield made | estimate("samples_ratio", cell.cost) | {"true_samples_ratio": cell.truth}


def _harmless(found: BranchFindings) -> Iterator[Row]:
    used = chosen(found)
    for row in found.harmless:
        for fork, factor in zip(found.forks, row.factors, strict=True):
            made = _key(found) | {"window": row.window, "tolerance": row.tolerance, "fork": fork}
            yield made | {"batch_size": found.base_batch_size * factor, "in_schedule": row is used}


def _schedule(found: BranchFindings) -> Iterator[Row]:
    for share, size in steps(found):
        yield _key(found) | {"from_share": share, "batch_size": size}


def _key(found: BranchFindings) -> Row:
    return {"task": found.task, "model": found.model, "loss": found.loss}
