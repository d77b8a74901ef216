"""Charts of a study: updates to target with fits and borders, speedup, cost, seconds, trade-off, learning curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from adabatch.lab.report import look, plotting
from adabatch.lab.report.charts import AXES
from adabatch.lab.report.plotting import Chart
from adabatch.lab.report.scaling.lines import LOSSES, Line
from adabatch.lab.report.scaling.words import believed, number, told
from adabatch.lab.scaling import EARLIER, LATER, Estimate, Fit, ToTarget

TITLES: Final = {
    "updates": "Updates to target",
    "speedup": "Speedup in updates",
    "cost": "Samples to target",
    "seconds": "Seconds to target",
    "trade": "Samples against updates",
    "curves": "Learning curves",
}
IDEAL: Final = ""  # the name of ideal lines: in no legend, and grey
_BEYOND: Final = 8.0  # times the measured batch sizes, up to which the axis follows a border
_STEPS: Final = 48  # points of a fitted curve
_ROW: Final = 26  # pixels of a line in the panel of borders
_MAIN: Final = 380  # pixels of the main panel
_GAP: Final = 44  # pixels between two panels
_MARGINS: Final = 56  # pixels above and below all panels
_ASIDE: Final = 1.1  # by this factor of the batch size dots of seeds lie right of their mark
_PANEL: Final = 210  # pixels of a panel of learning curves
_BORDERS: Final = {"batch_at_20_percent_more_samples": "circle", "stagnation_batch": "square"}


def batch_name(size: int) -> str:
    """The name of a batch size in the legend of learning curves."""
    return f"batch {size:,}"


def updates(lines: Sequence[Line], loss: str) -> Chart:
    """Updates to target against batch size, with seeds, ideal lines, both fits, and a panel of borders below."""
    low, high = span(lines, loss)
    drawn = [line for line in lines if line.to(loss).to_target]
    traces = ideals(drawn, loss, lambda batch, first: first.updates.estimate and _over(first, batch), (low, high))
    heights: list[float] = [y for trace in traces for y in trace["y"]]
    for line in drawn:
        place = lines.index(line)
        traces += _fits(line, loss, low, high)
        found = _estimates(line, place, loss, lambda row: row.updates, "updates")[:1] + _seeds(line, loss)
        heights += reached_by(found)
        traces += found
    for trace in traces:
        trace["yaxis"] = "y"
    marks = [trace for line in drawn for trace in _border_marks(line, loss, low, high)]
    below = [trace | {"yaxis": "y2"} for trace in marks + _machine_marks(drawn, low, high)]
    layout = plotting.layout("batch size")
    layout["xaxis"] |= size_axis(lines, loss, low, high)
    rows = len({trace["y"][0] for trace in below})
    deep = _MAIN + (_GAP + _ROW * rows if rows else 0)
    layout["height"] = _MARGINS + deep
    strip = _ROW * rows / deep
    layout["yaxis"] = {**axis_of(heights), "domain": [strip + _GAP / deep if rows else 0.0, 1]}
    if rows:
        names = {"type": "category", "range": [rows - 0.5, -0.5], "showgrid": False}
        layout["yaxis2"] = {**names, "domain": [0, strip]}
        title = _title("<b>Borders</b>: \N{BLACK CIRCLE} perfect scaling, \N{BLACK SQUARE} stagnation", strip)
        layout["annotations"] = [title | {"font": {"size": 12}}]
    beyond = max(_sizes(lines, loss), default=1) * 1.02
    layout["shapes"] = [_measured(beyond)] if high > 1.2 * beyond else []
    return {"traces": traces + below, "layout": layout}


def speedup(lines: Sequence[Line], loss: str) -> Chart:
    """Speedup in updates over the smallest batch size, with the ideal line."""
    return _against_size(
        lines, loss, lambda row: row.speedup, "times fewer updates", lambda batch, first: batch / first.batch_size
    )


def cost(lines: Sequence[Line], loss: str) -> Chart:
    """Samples to target against batch size; ideally they stay as they are at the smallest."""
    return _against_size(
        lines, loss, lambda row: row.samples, "samples", lambda _, first: first.samples.estimate or math.nan
    )


def seconds(lines: Sequence[Line], loss: str) -> Chart:
    """Seconds to target against batch size."""
    return _against_size(lines, loss, lambda row: row.seconds, "s", None)


def trade(lines: Sequence[Line], loss: str) -> Chart:
    """Samples against updates to target: a mark for each batch size, and the fitted curves."""
    traces: list[Chart] = []
    points: list[tuple[float, float]] = []
    for place, line in enumerate(lines):
        rows = [row for row in line.to(loss).to_target if row.updates.estimate and row.samples.estimate]
        sizes = _sizes([line], loss)
        for fit, style in _curves(line, loss):
            batches = spaced(min(sizes), max(sizes))
            found = [(batch, fit.updates(batch) or math.nan) for batch in batches]
            xs, ys = [s for _, s in found], [batch * s for batch, s in found]
            traces.append(plotting.trace(line.name, xs, ys) | style)
        xs, ys = ([getattr(row, key).estimate for row in rows] for key in ("updates", "samples"))
        text = [
            f"<b>{line.name}</b><br>batch {row.batch_size:,}<br>{told(row.updates)} updates<br>"
            f"{told(row.samples)} samples"
            for row in rows
        ]
        marks = {"mode": "markers", "marker": {"size": 9, "symbol": look.symbol(place)}, "cliponaxis": False}
        traces.append(plotting.trace(line.name, xs, ys, text) | marks)
        points += zip(xs, ys, strict=True)
    layout = plotting.layout("updates")
    layout["xaxis"] |= axis_of([x for x, _ in points])
    layout["yaxis"] |= axis_of([y for _, y in points])
    return {"traces": traces, "layout": layout}


def curves(lines: Sequence[Line], loss: str) -> Chart:
    """Cooled loss against updates, samples or time: a panel for each line, a line for each training."""
    traces: list[Chart] = []
    xs: dict[str, list[list[float]]] = {key: [] for key in AXES}
    layout = stacked("samples", [line.name for line in lines])
    column = 3 if loss == "train" else 4
    for place, line in enumerate(lines):
        heights: list[float] = []
        for cell in line.rule.cells:
            name = batch_name(cell.batch_size)
            for curve in cell.curves:
                points = [point for point in curve.points if point[column] is not None and point[column] > 0]
                if not points:
                    continue
                losses = [point[column] for point in points]
                heights += losses
                text = [f"<b>{name}</b>, seed {curve.seed}<br>{LOSSES[loss]} {value:.4g}" for value in losses]
                style: Chart = {"mode": "lines+markers", "line": {"width": 1.4}, "marker": {"size": 3.5}}
                style["yaxis"] = plotting.axis("y", place)
                for key, at in (("updates", 0), ("samples", 1), ("seconds", 2)):
                    xs[key].append([point[at] for point in points])
                traces.append(plotting.trace(name, xs["samples"][-1], losses, text) | style)
        target = line.to(loss).target
        if target is not None and target.loss > 0:
            heights.append(target.loss)
            layout["shapes"].append(level(target.loss, plotting.axis("y", place)))
        layout[plotting.axis("yaxis", place)] |= axis_of(heights)
    axes = {key: axis_of([x for values in found for x in values if x > 0]) for key, found in xs.items()}
    return {"traces": traces, "layout": layout, "xs": xs, "xaxes": axes, "apart": True}


CHARTS: Final[Mapping[str, Callable[[Sequence[Line], str], Chart]]] = {
    "updates": updates,
    "speedup": speedup,
    "cost": cost,
    "seconds": seconds,
    "trade": trade,
    "curves": curves,
}


# The axis of batch sizes.


def span(lines: Sequence[Line], loss: str) -> tuple[float, float]:
    """The batch sizes from which to which the main chart goes: those measured, and borders and limits not far above."""
    sizes = _sizes(lines, loss)
    low, high = float(min(sizes, default=1)), float(max(sizes, default=1))
    ends: list[float] = []
    for line in lines:
        found = line.to(loss).fits
        if found is not None:
            ends += [value for key in _BORDERS for value in _ends(getattr(believed(found), key))]
        if line.machine is not None:
            ends += [line.machine.fast or 0.0, line.machine.full or 0.0]
    return low, max([high, *(value for value in ends if value <= high * _BEYOND)])


def _ends(value: Estimate) -> list[float]:
    return [end for end in (value.estimate, value.low, value.high) if end]


def _sizes(lines: Iterable[Line], loss: str) -> list[int]:
    return sorted({row.batch_size for line in lines for row in line.to(loss).to_target})


def size_axis(lines: Sequence[Line], loss: str, low: float, high: float) -> Chart:
    """An axis of batch sizes from `low` to `high`."""
    sizes = _sizes(lines, loss) or [1]
    further = [2**power for power in range(31) if low <= 2**power <= high and not sizes[0] <= 2**power <= sizes[-1]]
    axis = plotting.sizes_axis(sorted([*sizes, *further]), most=12)
    room = 0.04 * (math.log10(high) - math.log10(low)) or 0.3
    return axis | {"range": [math.log10(low) - room, math.log10(high) + room]}


# Traces.


def _against_size(
    lines: Sequence[Line],
    loss: str,
    value: Callable[[ToTarget], Estimate],
    unit: str,
    ideal: Callable[[float, ToTarget], float | None] | None,
) -> Chart:
    """An estimate against batch size."""
    drawn = [line for line in lines if line.to(loss).to_target]
    sizes = _sizes(lines, loss) or [1]
    traces = [] if ideal is None else ideals(drawn, loss, ideal, (sizes[0], sizes[-1]))
    heights: list[float] = [y for trace in traces for y in trace["y"]]
    for line in drawn:
        found = _estimates(line, lines.index(line), loss, value, unit, joined=True)
        heights += reached_by(found)
        traces += found
    layout = plotting.layout("batch size")
    layout["xaxis"] |= size_axis(lines, loss, sizes[0], sizes[-1])
    layout["yaxis"] |= axis_of(heights)
    return {"traces": traces, "layout": layout}


def ideals(
    lines: Sequence[Line],
    loss: str,
    value: Callable[[float, ToTarget], float | None],
    ends: tuple[float, float],
) -> list[Chart]:
    """The ideal line of each network and folder: of its first LR rule whose smallest batch size arrived."""
    made: dict[tuple[str, ...], Chart] = {}
    for line in lines:
        first = line.to(loss).to_target[0]
        at = [value(batch, first) for batch in ends]
        heights = [y for y in at if y is not None and math.isfinite(y)]
        if len(heights) == len(ends) and first.updates.estimate:
            style: Chart = {"mode": "lines", "line": {"width": 1.5, "dash": "dash"}}
            made.setdefault(line.parts[:3], plotting.trace(IDEAL, list(ends), heights) | style)
    return list(made.values())


def _over(first: ToTarget, batch: float) -> float:
    """Updates at a batch size if they fall in proportion."""
    return (first.updates.estimate or math.nan) * first.batch_size / batch


def _estimates(
    line: Line,
    place: int,
    loss: str,
    value: Callable[[ToTarget], Estimate],
    unit: str,
    *,
    joined: bool = False,
) -> list[Chart]:
    """Marks at the estimates of a line, or at their bounds."""
    found = [(row.batch_size, value(row)) for row in line.to(loss).to_target]
    points = [(size, one, f"<b>{line.name}</b><br>batch {size:,}<br>{told(one)} {unit}") for size, one in found]
    return marked(line.name, place, points, joined=joined)


def marked(
    name: str, place: int, points: Sequence[tuple[float, Estimate, str]], *, joined: bool = False
) -> list[Chart]:
    """Marks at estimates with their intervals, and open ones with an arrow at bounds.

    Args:
        name: of the line.
        place: of the line among all, which gives its symbol.
        points: for each a place on the x axis, a value and a text for the pointer.
        joined: whether a line joins the estimates.
    """
    known = [(x, found, text) for x, found, text in points if found.estimate]
    style: Chart = {
        "mode": "lines+markers" if joined else "markers",
        "marker": {"size": 9, "symbol": look.symbol(place)},
        "line": {"width": 2},
        "cliponaxis": False,
        "error_y": {
            "low": [found.low or None for _, found, _ in known],
            "high": [found.high for _, found, _ in known],
        },
    }
    xs, ys = [x for x, _, _ in known], [found.estimate for _, found, _ in known]
    made = [plotting.trace(name, xs, ys, [text for _, _, text in known]) | style]
    unknown = [(x, found, text) for x, found, text in points if not found.estimate]
    bounds = {
        "up": [(x, found.low, text) for x, found, text in unknown if found.high is None and found.low],
        "down": [(x, found.high, text) for x, found, text in unknown if found.high],
    }
    for arrow, ends in bounds.items():
        if ends:
            marker = {"size": 11, "symbol": f"bound-{arrow}-open", "line": {"width": 1.8}}
            style = {"mode": "markers", "marker": marker, "cliponaxis": False}
            xs, heights = [x for x, _, _ in ends], [at for _, at, _ in ends]
            made.append(plotting.trace(name, xs, heights, [text for _, _, text in ends]) | style)
    return made


def _seeds(line: Line, loss: str) -> list[Chart]:
    """A dot for each run that arrived; of the others an open mark with an arrow."""
    kinds: Mapping[str, Any] = {
        "": {"size": 4, "symbol": "circle", "opacity": 0.55},
        LATER: {"size": 7, "symbol": "bound-up-open", "line": {"width": 1.2}, "opacity": 0.7},
        EARLIER: {"size": 7, "symbol": "bound-down-open", "line": {"width": 1.2}, "opacity": 0.7},
    }
    made = []
    for censored, marker in kinds.items():
        runs = [
            (row.batch_size * (1 if censored else _ASIDE), run.updates)
            for row in line.to(loss).to_target
            for run in row.runs
            if run.censored == censored
        ]
        if runs:
            style = {"mode": "markers", "marker": marker, "cliponaxis": False}
            made.append(plotting.trace(line.name, [size for size, _ in runs], [at for _, at in runs]) | style)
    return made


def _curves(line: Line, loss: str) -> list[tuple[Fit, Chart]]:
    """The fits of a line with their style; the one to believe is drawn stronger."""
    found = line.to(loss).fits
    if found is None:
        return []
    return [
        (fit, {"mode": "lines", "line": {"width": 2 if fit is believed(found) else 1.2, "dash": dash}})
        for fit, dash in ((found.form_1, "solid"), (found.form_2, "dot"))
        if fit.middle_updates is not None
    ]


def _fits(line: Line, loss: str, low: float, high: float) -> list[Chart]:
    """The fitted curves of both forms."""
    batches = spaced(low, high)
    return [
        plotting.trace(line.name, batches, [fit.updates(batch) for batch in batches]) | style
        for fit, style in _curves(line, loss)
    ]


def spaced(low: float, high: float) -> list[float]:
    """Batch sizes from `low` to `high`, the same ratio apart."""
    return [low * math.pow(high / low, step / _STEPS) for step in range(_STEPS + 1)]


def _border_marks(line: Line, loss: str, low: float, high: float) -> list[Chart]:
    """The borders of a line with their intervals, cut at the ends of the axis; those beyond are arrows at its ends."""
    found = line.to(loss).fits
    if found is None:
        return []
    fit, made = believed(found), []
    for key, symbol in _BORDERS.items():
        value: Estimate = getattr(fit, key)
        middle = value.estimate
        if middle is None:
            continue
        at = min(max(middle, low), high)
        arrow = "right" if middle > high else "left" if middle < low else ""
        words = "perfect scaling ends" if symbol == "circle" else "stagnation begins"
        ends = [min(max(end, low), high) for end in (value.low, high if value.high is None else value.high)]
        style: Chart = {
            "mode": "markers",
            "marker": {"size": 11 if arrow else 9, "symbol": f"arrow-{arrow}" if arrow else symbol},
            "cliponaxis": False,
            "error_x": {"array": [ends[1] - at], "arrayminus": [at - ends[0]], "thickness": 2, "width": 5},
        }
        text = [f"<b>{line.name}</b><br>{words} at batch {told(value)}"]
        made.append(plotting.trace(line.name, [at], [line.name], text) | style)
    return made


def _machine_marks(lines: Iterable[Line], low: float, high: float) -> list[Chart]:
    """The limits of machines, each on a line of its own; those beyond the axis, and those not found, are left out."""
    found = {f"{line.study.task}, {line.panel.model}": line.machine for line in lines if line.machine is not None}
    made = []
    for name, machine in found.items():
        row = "machine" if len(found) == 1 else f"machine, {name}"
        words = {"triangle-up": f"95 % of the highest throughput at batch {machine.speed}"}
        places: dict[str, float] = {} if machine.fast is None else {"triangle-up": machine.fast}
        if machine.full is not None:
            places["x"] = math.sqrt(machine.largest * machine.full)
            words["x"] = f"memory is full at batch {machine.memory}"
        for symbol, at in places.items():
            if low <= at <= high:
                style: Chart = {"mode": "markers", "marker": {"size": 9, "symbol": symbol}, "cliponaxis": False}
                made.append(plotting.trace(IDEAL, [at], [row], [f"<b>{row}</b><br>{words[symbol]}"]) | style)
    return made


def reached_by(traces: Iterable[Chart]) -> list[float]:
    """The values that an axis must hold: marks, and intervals that do not reach far from them."""
    found: list[float] = []
    for trace in traces:
        found += trace["y"]
        for ends in (trace.get("error_y") or {}).values():
            found += [end for end, y in zip(ends, trace["y"], strict=True) if end and y / 10 < end < 10 * y]
    return found


# Layout.


def stacked(title: str, panels: Sequence[str]) -> Chart:
    """A layout with a titled panel for each name, one below the other; `title` is that of the x axis."""
    layout, count = plotting.layout(title, top=30), len(panels)
    layout |= {"height": _MARGINS + 18 + _PANEL * count, "annotations": [], "shapes": []}
    gap = _GAP / (_PANEL * count)
    for place, name in enumerate(panels):
        top = 1 - place / count
        bottom = top - 1 / count + gap if place < count - 1 else 0.0
        layout[plotting.axis("yaxis", place)] = {"domain": [bottom, top]}
        layout["annotations"].append(_title(f"<b>{name}</b>", top))
    return layout


def axis_of(values: Sequence[float]) -> Chart:
    """A log axis for values above 0."""
    kept = [value for value in values if value and value > 0]
    return plotting.log_axis(kept, room=0.07, form=_tick) if kept else {}


def _tick(value: float) -> str:
    return look.short(value) if value >= 1000 else number(value)


def _title(text: str, top: float) -> Chart:
    """A title above a panel."""
    place = {"xref": "paper", "yref": "paper", "x": 0, "y": top, "yshift": 4}
    return {"text": text, "font": {"size": 13}, **place}


def _measured(size: float) -> Chart:
    """A line at the largest batch size that was measured."""
    return plotting.vertical(size, "dot")


def level(value: float, axis: str) -> Chart:
    """A dotted line at a value of an axis such as `"y2"`."""
    line = {"width": 1.2, "dash": "dot"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": value, "y1": value, "line": line}


def sizes_of(lines: Iterable[Line]) -> list[int]:
    """All batch sizes of lines, growing."""
    return sorted({cell.batch_size for line in lines for cell in line.rule.cells})
