"""Charts of a branching: what a larger batch costs, the largest batch that does no harm, and the schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from adabatch.lab.report import look, plotting
from adabatch.lab.report.branching.words import cost_words, fork_name, percent, steps, tolerance_name
from adabatch.lab.report.plotting import Chart
from adabatch.lab.report.scaling.charts import axis_of, level, marked, reached_by, stacked
from adabatch.lab.report.scaling.words import number
from adabatch.lab.scaling import BranchCell, BranchFindings

TITLES: Final = {
    "cost": "What a larger batch costs",
    "harmless": "The largest batch that does no harm",
    "schedule": "The schedule",
}
SCHEDULE: Final = "schedule"  # the name of its line
_APART: Final = 1.16  # ratio of the places of the last and the first fork at one batch size: they stand side by side
_WIDER: Final = 3.0  # pixels by which a line is wider than the next one, which may lie on it
_SHARES: Final = (0, 20, 40, 60, 80, 100)
_FEW: Final = 4.0  # times: on a shorter axis of costs ticks stand evenly


def cost(found: BranchFindings, names: Sequence[str]) -> Chart:
    """Samples over those of the base batch against batch size: a panel for each window, a line for each fork.

    Args:
        found: the findings.
        names: of all lines on the page, see `lines`.
    """
    windows = list(dict.fromkeys(cell.window for cell in found.cells))
    layout = stacked("batch size", [f"Window of {percent(window)}" for window in windows])
    traces: list[Chart] = []
    for place, window in enumerate(windows):
        axis = plotting.axis("y", place)
        for number_of_fork, fork in enumerate(found.forks):
            cells = [cell for cell in found.cells if (cell.window, cell.fork) == (window, fork)]
            aside = _APART ** (number_of_fork / (len(found.forks) - 1) - 0.5) if len(found.forks) > 1 else 1.0
            made = _costs(found, cells, aside, names.index(fork_name(fork)))
            traces += [trace | {"yaxis": axis} for trace in made]
        layout["shapes"].append(level(1.0, axis))
    heights = _cost_axis([1.0, *reached_by(traces)])
    for place in range(len(windows)):
        layout[plotting.axis("yaxis", place)] |= heights
    sizes = {found.base_batch_size * cell.factor for cell in found.cells}
    layout["xaxis"] |= plotting.sizes_axis(sorted(sizes), most=12, margin=0.15)
    return {"traces": traces, "layout": layout}


def _costs(found: BranchFindings, cells: Sequence[BranchCell], aside: float, place: int) -> list[Chart]:
    """The costs at one fork in one window, and crosses at the truth where it is known."""
    if not cells:
        return []
    name, sizes = fork_name(cells[0].fork), [found.base_batch_size * cell.factor for cell in cells]
    heads = [f"<b>{name}</b><br>batch {size:,}, LR ×{c.lr_factor:.3g}" for size, c in zip(sizes, cells, strict=True)]
    points = [
        (size * aside, cell.cost, f"{head}<br>{cost_words(cell)} times the samples")
        for size, cell, head in zip(sizes, cells, heads, strict=True)
    ]
    made = marked(name, place, points, joined=True)
    true: list[Any] = [
        (size * aside, cell.truth, f"{head}<br>in truth {number(cell.truth)} times the samples")
        for size, cell, head in zip(sizes, cells, heads, strict=True)
        if cell.truth
    ]
    if true:
        marks: Chart = {"mode": "markers", "marker": {"size": 8, "symbol": "x"}, "cliponaxis": False}
        xs, ys, text = ([point[n] for point in true] for n in range(3))
        made.append(plotting.trace(name, xs, ys, text) | marks)
    return made


def harmless(found: BranchFindings, names: Sequence[str]) -> Chart:
    """The largest batch size that does no harm over the training: a panel for each window, a line for each tolerance.

    Args:
        found: the findings.
        names: of all lines on the page, see `lines`.
    """
    windows = list(dict.fromkeys(row.window for row in found.harmless))
    layout = stacked("share of the training", [f"Window of {percent(window)}" for window in windows])
    base, shares = found.base_batch_size, [100 * fork for fork in found.forks]
    traces: list[Chart] = []
    for place, window in enumerate(windows):
        axis = plotting.axis("y", place)
        rows = [row for row in found.harmless if row.window == window]
        for behind, row in zip(reversed(range(len(rows))), rows, strict=True):
            name, sizes = tolerance_name(row.tolerance), [factor * base for factor in row.factors]
            text = [
                f"<b>{name}</b><br>{fork_name(fork)}<br>batch {size:,}"
                for fork, size in zip(found.forks, sizes, strict=True)
            ]
            line: Chart = {"mode": "lines", "line": {"width": 2 + _WIDER * behind, "shape": "hv"}, "yaxis": axis}
            traces.append(plotting.trace(name, [*shares, 100.0], [*sizes, sizes[-1]]) | line)
            marker = {"size": 7 + _WIDER * behind, "symbol": look.symbol(names.index(name))}
            marks: Chart = {"mode": "markers", "marker": marker, "cliponaxis": False, "yaxis": axis}
            traces.append(plotting.trace(name, shares, sizes, text) | marks)
    heights = _sizes_axis(found, (factor for row in found.harmless for factor in row.factors))
    for place in range(len(windows)):
        layout[plotting.axis("yaxis", place)] |= heights
    layout["xaxis"] |= _shares_axis()
    return {"traces": traces, "layout": layout}


def schedule(found: BranchFindings) -> Chart:
    """The batch size of the schedule over the training."""
    made = steps(found)
    shares, sizes = [100 * share for share, _ in made], [size for _, size in made]
    text = [f"<b>from {percent(share)} on</b><br>batch {size:,}" for share, size in made]
    line: Chart = {"mode": "lines", "line": {"width": 2.4, "shape": "hv"}}
    marks: Chart = {"mode": "markers", "marker": {"size": 7, "symbol": "circle"}, "cliponaxis": False}
    layout = plotting.layout("share of the training")
    layout["xaxis"] |= _shares_axis()
    layout["yaxis"] |= _sizes_axis(found, (size // found.base_batch_size for size in sizes))
    traces = [
        plotting.trace(SCHEDULE, [*shares, 100.0], [*sizes, sizes[-1]]) | line,
        plotting.trace(SCHEDULE, shares, sizes, text) | marks,
    ]
    return {"traces": traces, "layout": layout}


CHARTS: Final[Mapping[str, Callable[[BranchFindings, Sequence[str]], Chart]]] = {
    "cost": cost,
    "harmless": harmless,
    "schedule": lambda found, _: schedule(found),
}


def lines(every: Iterable[BranchFindings]) -> dict[str, str]:
    """A colour on a light ground for each line of these branchings: forks from dark to light, then tolerances."""
    found = list(every)
    forks = sorted({fork for one in found for fork in one.forks})
    tolerances = sorted({row.tolerance for one in found for row in one.harmless})
    return look.ramp(map(fork_name, forks)) | look.palette(map(tolerance_name, tolerances))


def _cost_axis(values: Sequence[float]) -> Chart:
    """A log axis of costs."""
    axis = axis_of(values)
    low, high = (10 ** min(max(end, -300.0), 300.0) for end in axis["range"])  # of floats
    if high < _FEW * low:
        ticks = look.even_ticks(low, high, 8)
        axis |= {"tickvals": ticks, "ticktext": [number(tick) for tick in ticks]}
    return axis


def _shares_axis() -> Chart:
    """An axis of shares of the training."""
    return {"range": [0, 100], "tickvals": list(_SHARES), "ticktext": [f"{share} %" for share in _SHARES]}


def _sizes_axis(found: BranchFindings, factors: Iterable[int]) -> Chart:
    """An axis of batch sizes that are multiples of the base one, which is on it."""
    base = found.base_batch_size
    return plotting.sizes_axis(sorted({base, *(base * factor for factor in factors)}), most=6, margin=0.12)
