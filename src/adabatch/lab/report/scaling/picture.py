"""The charts of a study as PNG files: a row for each network and share of the data, a column for each loss."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from adabatch.lab.report import look
from adabatch.lab.report.picture import GREY, MARKERS, STYLES, new_figure, save
from adabatch.lab.report.plotting import Chart
from adabatch.lab.report.scaling import charts
from adabatch.lab.report.scaling.lines import LOSSES, NO_MACHINES, View, network, paint, views
from adabatch.lab.report.scaling.machine import Machines
from adabatch.lab.report.scaling.words import believed, number
from adabatch.lab.scaling import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES: Final = {"updates": "study.png"} | {
    name: f"study-{name}.png" for name in ("speedup", "cost", "seconds", "trade", "curves")
}
_WIDE: Final = 5.2  # inches of a chart
_DEEP: Final = 3.7  # inches of a chart, of learning curves for each line
_HEAD: Final = 0.4  # inches above all charts
_POINTS: Final = 0.75  # in a pixel of a page
_SHAPES: Final[dict[str, Any]] = {"": "default", "hv": "steps-post", "vh": "steps-pre"}
_Y_TITLES: Final = {
    "updates": "updates to target",
    "speedup": "times fewer updates",
    "cost": "samples to target",
    "seconds": "seconds to target",
    "trade": "samples to target",
    "curves": "loss",
}


def draw(study: Study, name: str, picture: Path, *, machines: Machines = NO_MACHINES) -> None:
    """Draws one of `NAMES` to a PNG file, which is replaced whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    rows = [view for view in views({"": study}, machines) if not view.key.startswith("rule")]
    colours = paint(rows)
    if name == "curves":
        colours = look.ramp(charts.batch_name(size) for size in charts.sizes_of(rows[0].lines))
    deep = sum(_depth(view, name) for view in rows)
    figure = new_figure(_WIDE * len(LOSSES), _HEAD + deep, dpi=130)
    top = 1.0 - _HEAD / (_HEAD + deep)
    for view in rows:
        bottom = top - _depth(view, name) / (_HEAD + deep)
        for place, loss in enumerate(LOSSES):
            box = (place / len(LOSSES), bottom, 1 / len(LOSSES), top - bottom)
            chart(
                figure,
                charts.CHARTS[name](view.lines, loss),
                colours,
                box,
                (_Y_TITLES[name], _head(view, loss, borders=name == "updates")),
            )
        top = bottom
    _legend(figure, rows, colours, curves=name == "curves")
    title = f"{study.task}: {charts.TITLES[name][0].lower()}{charts.TITLES[name][1:]}"
    figure.text(0.012, 1 - 0.12 / (_HEAD + deep), title, va="top", fontsize=12, fontweight="bold")
    save(figure, picture)


def _depth(view: View, name: str) -> float:
    if name == "curves":
        return 0.9 + 1.7 * len(view.lines)
    return _DEEP + (0.25 + 0.2 * len(view.lines) if name == "updates" else 0)


def _head(view: View, loss: str, *, borders: bool) -> str:
    """The title of a chart: network, target and, with `borders`, where perfect scaling ends."""
    line = view.lines[0]
    target = line.to(loss).target
    told = f"to {LOSSES[loss]} {target.loss:.4g}" if target is not None else f"no target {LOSSES[loss]}"
    ends = []
    for each in view.lines if borders else ():
        fits = each.to(loss).fits
        end = None if fits is None else believed(fits).batch_at_20_percent_more_samples.estimate
        if end is not None:
            ends.append(f"{number(end)} (LR {each.rule.rule})")
    scaling = f"perfect scaling ends at {', '.join(ends)}" if ends else ""
    names = network(line.panel) if len({network(each.panel) for each in view.lines}) == 1 else ""
    return "\n".join(textwrap.wrap("; ".join(part for part in (f"{names} {told}".strip(), scaling) if part), 72))


def _legend(figure: Figure, rows: list[View], colours: Mapping[str, str], *, curves: bool) -> None:
    from matplotlib.lines import Line2D

    symbols = {line.name: look.symbol(place) for view in rows for place, line in enumerate(view.lines)}
    handles: list[Any] = [
        Line2D([], [], color=colour, marker=None if curves else MARKERS[symbols[name]], label=name)
        for name, colour in colours.items()
    ]
    if not curves:
        handles.append(Line2D([], [], color=GREY, linestyle=STYLES["dash"], label="ideal"))
    right = figure.legend(handles=handles, loc="upper right", ncols=min(len(handles), 8), frameon=False, fontsize=8.5)
    right.set_in_layout(False)


def chart(
    figure: Figure,
    found: Chart,
    colours: Mapping[str, str],
    box: tuple[float, float, float, float],
    told: tuple[str, str],
) -> None:
    """Draws a chart of a page in a part of a figure.

    Args:
        figure: to draw to.
        found: as a page has it.
        colours: of its lines; others are grey.
        box: left, bottom, width and height, as shares of the figure.
        told: the title of the y axes, and a text above.
    """
    wide, deep = figure.get_size_inches()
    layout = found["layout"]
    rows = sorted(key for key in layout if key.startswith("yaxis"))
    left, right = box[0] + 0.85 / wide, box[0] + box[2] - 0.2 / wide
    bottom, top = box[1] + 0.55 / deep, box[1] + box[3] - 0.5 / deep
    for key in rows:
        low, high = layout[key].get("domain", [0, 1])
        place = (left, bottom + low * (top - bottom), right - left, (high - low) * (top - bottom))
        axes = figure.add_axes(place)
        mine = [trace for trace in found["traces"] if f"yaxis{trace.get('yaxis', 'y')[1:]}" == key]
        xaxis = layout["xaxis"] | found.get("xaxes", {}).get("samples", {})
        _axes(axes, xaxis, layout[key], mine)
        for trace in mine:
            _trace(axes, trace, colours.get(trace["name"], GREY))
        for line in layout.get("shapes", []):
            style = {"color": GREY, "linewidth": 0.9, "linestyle": STYLES["dot"]}
            if line["yref"] == "paper":
                axes.axvline(line["x0"], **style)
            elif f"yaxis{line['yref'][1:]}" == key:
                axes.axhline(line["y0"], **style)
        if low > 0:
            axes.tick_params(labelbottom=False)
        else:
            axes.set_xlabel(layout["xaxis"]["title"]["text"])
        if layout[key].get("type") != "category":
            axes.set_ylabel(told[0])
    for note in layout.get("annotations", []):
        text = note["text"].replace("<b>", "").replace("</b>", "")
        at = bottom + note["y"] * (top - bottom) + 0.04 / deep
        figure.text(left, at, text, fontsize=8, color=GREY, parse_math=False)
    above = 0.24 if any(note["y"] == 1 for note in layout.get("annotations", [])) else 0.1
    figure.text(left, top + above / deep, told[1], fontsize=8.5, va="bottom", parse_math=False)


def _axes(axes: Axes, x: Chart, y: Chart, traces: list[Chart]) -> None:
    scale = x.get("type", "linear")
    axes.set_xscale(scale)
    if "range" in x:
        axes.set_xlim(*(10**end if scale == "log" else end for end in x["range"]))
        axes.set_xticks(x["tickvals"], x["ticktext"])
    if y.get("type") == "category":
        names = list(dict.fromkeys(trace["y"][0] for trace in traces))
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(*y["range"])
    else:
        axes.set_yscale("log")
        if "range" in y:
            axes.set_ylim(*(10**end for end in y["range"]))
            axes.set_yticks(y["tickvals"], y["ticktext"])
    axes.minorticks_off()


def _trace(axes: Axes, trace: Chart, colour: str) -> None:
    xs, ys = trace["x"], [math.nan if y is None else y for y in trace["y"]]
    mode, marker = trace["mode"], trace.get("marker", {})
    if "lines" in mode:
        line = trace.get("line", {})
        style = {"linestyle": STYLES[line.get("dash", "solid")], "linewidth": _POINTS * line.get("width", 2)}
        shape = _SHAPES[line.get("shape", "")]
        axes.plot(xs, ys, color=colour, drawstyle=shape, **style)
    if "error_y" in trace:
        for x, y, low, high in zip(xs, ys, trace["error_y"]["low"], trace["error_y"]["high"], strict=True):
            axes.plot([x, x], [low or y, high or y], color=colour, linewidth=1.2, marker="_", markersize=5)
    if "error_x" in trace:
        ends = [xs[0] - trace["error_x"]["arrayminus"][0], xs[0] + trace["error_x"]["array"][0]]
        axes.plot(ends, [ys[0], ys[0]], color=colour, linewidth=1.4, marker="|", markersize=6)
    if "markers" in mode:
        symbol = marker.get("symbol", "circle")
        is_open = symbol.endswith("-open")
        axes.plot(
            xs,
            ys,
            linestyle="none",
            marker=_marker(symbol.removesuffix("-open")),
            markersize=_POINTS * marker.get("size", 6) * (2.2 if symbol.startswith("bound") else 1),
            markerfacecolor="none" if is_open else colour,
            markeredgecolor=colour,
            markeredgewidth=1.1 if is_open else 0,
            alpha=marker.get("opacity", 1),
            clip_on=False,
        )


def _marker(symbol: str) -> Any:
    """Matplotlib's mark for a symbol of the page."""
    from matplotlib.path import Path as Shape

    arrows = {"arrow-right": ">", "arrow-left": "<"}
    if not symbol.startswith("bound"):
        return arrows.get(symbol) or MARKERS[symbol]
    up = 1.0 if symbol == "bound-up" else -1.0
    ring = Shape.unit_circle().transformed(_scaled(0.3))
    lines = [((0.0, 0.3), (0.0, 1.1)), ((-0.3, 0.8), (0.0, 1.1)), ((0.3, 0.8), (0.0, 1.1))]
    strokes = [Shape([(x, up * y) for x, y in line]) for line in lines]
    return Shape.make_compound_path(ring, *strokes)


def _scaled(factor: float) -> Any:
    from matplotlib.transforms import Affine2D

    return Affine2D().scale(factor)
