"""The main chart of a page: curves against samples, updates or time, one panel below the other on one axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Final

from adabatch.lab.report import page_plot as plot
from adabatch.lab.report import page_words as words
from adabatch.lab.report import ticks
from adabatch.lab.report.page_data import Json, Run
from adabatch.lab.report.page_plot import Chart
from adabatch.lab.report.thinning import thinned

AXES: Final = {"samples": "samples", "updates": "updates", "seconds": "seconds of training"}
TITLES: Final = {
    "accuracy": "<b>Test accuracy</b>, %",
    "loss": "<b>Loss</b> on the test set; dotted: in training",
    "batch": "<b>Batch size</b>, samples per update",
    "lr": "<b>Learning rate</b> in force",
}
_SHARES: Final = {"accuracy": 3.0, "loss": 1.5, "batch": 1.15, "lr": 1.15}
_GAP: Final = 0.075
_MOST: Final = 4000  # evaluations drawn, of all runs together
_MARKED: Final = 60  # evaluations of a run that have room for a mark each

Places = dict[str, list[float]]  # for each axis the x values of a trace
Drawn = list[tuple[Chart, Places]]


def course(
    runs: Mapping[str, Sequence[Run]], panels: Sequence[str], paint: Mapping[str, str], *, target: float | None
) -> Chart:
    """Curves against samples, updates or time.

    Args:
        runs: for each arm its runs, one per seed.
        panels: among `"accuracy"`, `"loss"`, `"batch"` and `"lr"`, from the top.
        paint: the colour of each arm.
        target: test accuracy, a fraction, drawn as a line; None for none.

    Returns:
        The chart; under `xs` the x values of all its traces for each of `AXES`.
    """
    drawn_runs = sum(len(seeds) if _differ(seeds) else 1 for seeds in runs.values())
    most = max(min(1000, _MOST // drawn_runs), 60)
    keys = ("test_accuracy", "test_loss", "train_loss") if "loss" in panels else ("test_accuracy",)
    few = {name: thinned(seeds, most, keys) for name, seeds in runs.items()}
    traces: list[Chart] = []
    xs: dict[str, list[list[float]]] = {key: [] for key in AXES}
    for place, panel in enumerate(panels):
        for name, seeds in few.items():
            line = {"dash": plot.dash(name, paint), "width": 2.4 if place == 0 else 2}
            for trace, places in _PANELS[panel](name, seeds, line):
                if "marker" in trace:
                    trace["marker"] = {"symbol": plot.symbol(list(paint).index(name)), **trace["marker"]}
                traces.append(trace | {"xaxis": "x", "yaxis": _axis("y", place)})
                for key in AXES:
                    xs[key].append(places[key])
    if _once(runs):
        _tell_ends(traces, runs)
    layout = _stacked(panels)
    for place, panel in enumerate(panels):
        layout[_axis("yaxis", place)] |= _scale(panel, runs, target)
        if layout[_axis("yaxis", place)].get("cut"):
            layout["annotations"][place]["text"] += f" (axis cut at {layout[_axis('yaxis', place)]['range'][0]:.3g})"
    if target is not None:
        _draw_target(layout, 100 * target)
    return {"traces": traces, "layout": layout, "xs": xs}


def spread_words(runs: Mapping[str, Sequence[Run]], over: str = "seeds") -> str:
    """What is drawn of several seeds, in a sentence.

    Args:
        runs: for each arm its runs, one per seed.
        over: what the mean is over.
    """
    if _once(runs):
        return f"Mean over {over} ± one standard deviation."
    return f"Mean over {over}; the band is one standard deviation."


def _once(runs: Mapping[str, Sequence[Run]]) -> bool:
    """Whether every run was evaluated once, so that there are no curves."""
    return all(len(run.history) == 1 for seeds in runs.values() for run in seeds)


def _differ(runs: Sequence[Run]) -> bool:
    """Whether runs were evaluated at different samples."""
    return len({tuple(found["samples"] for found in run.history) for run in runs}) > 1


def _accuracy(name: str, runs: Sequence[Run], line: Chart) -> Drawn:
    """Mean and band of one standard deviation; a line per run where runs were evaluated at different samples."""
    if _differ(runs):
        return [found for run in runs for found in _accuracy(name, [run], plot.mark(line, width=1.2))]
    points = list(zip(*(run.history for run in runs), strict=True))
    places = {key: [_mean(found[key] for found in point) for point in points] for key in AXES}
    values = [[100 * found["test_accuracy"] for found in point] for point in points]
    means = [fmean(value) for value in values]
    drawn: Drawn = []
    if len(runs) > 1:
        spreads = [stdev(value) for value in values]
        low = [mean - std for mean, std in zip(means, spreads, strict=True)]
        high = [min(mean + std, 100) for mean, std in zip(means, spreads, strict=True)]
        band = {"mode": "lines", "fill": "toself"}
        around = {key: xs + xs[::-1] for key, xs in places.items()}
        drawn.append((plot.trace(name, around["samples"], low + high[::-1]) | band, around))
    short = [f"<b>{name}</b> {_told(value, point[0])}" for value, point in zip(values, points, strict=True)]
    drawn.append((plot.trace(name, places["samples"], means, short) | {"mode": "lines", "line": line}, places))
    end = {key: xs[-1:] for key, xs in places.items()}
    dot: Chart = {"mode": "markers", "marker": {"size": 9}, "cliponaxis": False}
    return [*drawn, (plot.trace(name, end["samples"], means[-1:]) | dot, end)]


def _tell_ends(traces: Sequence[Chart], runs: Mapping[str, Sequence[Run]]) -> None:
    """Names and figures beside the marks of runs that were evaluated once: a curve of one point is none."""
    for trace in traces:
        if trace["yaxis"] == "y" and trace.get("mode") == "markers":
            name = trace["name"]
            values = [100 * run.history[0]["test_accuracy"] for run in runs[name]]
            figure = f"{trace['y'][0]:.1f}"
            if len(values) > 1 and not _differ(runs[name]):
                figure += f" ± {stdev(values):.1f}"
            text = f"{name} {figure} %" if len(runs) > 1 else f"{figure} %"
            trace |= {"texttemplate": text, "textposition": "side"}


def _loss(name: str, runs: Sequence[Run], line: Chart) -> Drawn:
    """Loss of the first run on the test set and, dotted or hollow, on what was trained on."""
    drawn: Drawn = []
    for key, dash in (("test_loss", "solid"), ("train_loss", "dot")):
        points = [found for found in runs[0].history if found.get(key) is not None]
        short = [f"<b>{key.replace('_', ' ')}</b> {found[key]:.4g}" for found in points]
        style: Chart = {"mode": "lines", "line": plot.mark(line, dash=dash)}
        if len(points) == 1:
            style = {"mode": "markers", "marker": {"size": 8} | ({"symbol": "circle-open"} if dash == "dot" else {})}
        drawn.append((_hovered(name, points, [found[key] for found in points], short) | style, _places(points)))
    return drawn


def _batch(name: str, runs: Sequence[Run], line: Chart) -> Drawn:
    """The batch size as a staircase, with points at evaluations too, so that the pointer finds it there."""
    run = runs[0]
    marks = [found["samples"] for found in run.history]
    clocks = sorted({0, *marks, *(clock for clock, _, _ in run.staircase() if clock < marks[-1])})
    points = _middles(runs, clocks)
    sizes = [run.size_at(clock) for clock in clocks]
    sizes[-1] = run.size_at(max(clocks[-1] - 1, 0))
    short = [f"<b>{name}</b> batch {words.whole(size)}" for size in sizes]
    style = {"mode": "lines", "line": plot.mark(line, shape="hv")}
    return [(_hovered(name, points, sizes, short) | style, _places(points))]


def _lr(name: str, runs: Sequence[Run], line: Chart) -> Drawn:
    """The LR in force of the first run at each evaluation; it changes between them, mostly right after one."""
    points = _middles(runs, [found["samples"] for found in runs[0].history])
    rates = [found["lr"] for found in runs[0].history]
    short = [f"<b>{name}</b> LR {rate:.4g}" for rate in rates]
    mode = "lines+markers" if len(points) <= _MARKED else "lines"
    style = {"mode": mode, "line": plot.mark(line, shape="vh"), "marker": {"size": 5}}
    return [(_hovered(name, points, rates, short) | style, _places(points))]


_PANELS: Final[dict[str, Callable[[str, Sequence[Run], Chart], Drawn]]] = {
    "accuracy": _accuracy,
    "loss": _loss,
    "batch": _batch,
    "lr": _lr,
}


def _places(points: Sequence[Json]) -> Places:
    return {key: [point[key] for point in points] for key in AXES}


def _middles(runs: Sequence[Run], clocks: Sequence[int]) -> list[Json]:
    """Those places in the mean over runs of one batch size schedule, else in the first run."""
    alike = all(run.staircase() == runs[0].staircase() for run in runs)
    found = [[run.at(clock) for run in (runs if alike else runs[:1])] for clock in clocks]
    return [{key: _mean(place[key] for place in places) for key in AXES} for places in found]


def _hovered(name: str, points: Sequence[Json], ys: Sequence[float], text: Sequence[str]) -> Chart:
    return plot.trace(name, [point["samples"] for point in points], ys, text)


def _told(values: Sequence[float], found: Json) -> str:
    """The accuracy over seeds at an evaluation, and with what it was trained there."""
    accuracy = f"{fmean(values):.2f}{f' ± {stdev(values):.2f}' if len(values) > 1 else ''} %"
    return f"{accuracy}<br>batch {words.whole(found['batch_size'])}, LR {found['lr']:.4g}"


def _mean(values: Iterable[float]) -> float:
    """The mean; whole numbers that agree stay whole."""
    found = list(values)
    return found[0] if len(set(found)) == 1 else fmean(found)


def _axis(kind: str, place: int) -> str:
    return kind if place == 0 else f"{kind}{place + 1}"


def _stacked(panels: Sequence[str]) -> Chart:
    """A layout with a panel for each name, its title above it, and one x axis below all."""
    layout = plot.layout(AXES["samples"], top=30)
    gaps = _GAP * (len(panels) - 1)
    unit = (1 - gaps) / sum(_SHARES[panel] for panel in panels)
    top = 1.0
    layout["annotations"] = []
    for place, panel in enumerate(panels):
        bottom = max(top - unit * _SHARES[panel], 0.0)
        layout[_axis("yaxis", place)] = {"domain": [bottom, top]}
        title = {"text": TITLES[panel], "xref": "paper"}
        layout["annotations"].append(title | {"yref": "paper", "x": 0, "y": top, "yshift": 4, "font": {"size": 13}})
        top = bottom - _GAP
    layout["xaxis"] |= {"rangemode": "tozero"}
    return layout


def _scale(panel: str, runs: Mapping[str, Sequence[Run]], target: float | None) -> Chart:
    """The y axis of a panel; a target a little above all curves is on it."""
    if panel == "accuracy":
        every = [found for seeds in runs.values() for run in seeds for found in run.history]
        high, low = max(100 * found["test_accuracy"] for found in every), _floor(runs)
        if target is not None and high < 100 * target < high + 0.3 * (high - low):
            high = 100 * target
        return {"range": [low, high + 0.04 * (high - low) + 0.2], "cut": low > 0}
    firsts = [seeds[0] for seeds in runs.values()]
    if panel == "batch":
        return plot.sizes_axis([size for run in firsts for _, size, _ in run.staircase()], most=5, margin=0.1)
    keys = ("lr",) if panel == "lr" else ("test_loss", "train_loss")
    values: list[float] = [found.get(key) or 0.0 for run in firsts for found in run.history for key in keys]
    values = [value for value in values if 0 < value < math.inf]
    return plot.log_axis(values, room=0.1) if values else {}


def _floor(runs: Mapping[str, Sequence[Run]]) -> float:
    """The lowest accuracy shown."""
    if _once(runs):
        return 0.0  # ends without a curve are told by their figures
    worst = min(fmean(100 * run.history[-1]["test_accuracy"] for run in seeds) for seeds in runs.values())
    first = min(100 * float(run.history[0]["test_accuracy"]) for seeds in runs.values() for run in seeds)
    return ticks.floor(first, worst)


def _draw_target(layout: Chart, target: float) -> None:
    line = {"width": 1.2, "dash": "dot"}
    layout["shapes"] = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": target, "y1": target, "line": line}
    ]
    note = {"text": f"target {target:g} %", "xref": "paper", "x": 0.004}
    layout["annotations"].append(note | {"yref": "y", "y": target, "font": {"size": 11}})
