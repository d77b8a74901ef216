"""Charts of a page: the main one, throughput, every run, intervals of the gains over fixed-small, forecasts.

They are made of the traces, layouts and axes of `plotting`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Final

from adabatch.lab.comparison import Against, Comparison
from adabatch.lab.report import look, plotting, words
from adabatch.lab.report.folders import SavedRun
from adabatch.lab.report.plotting import Chart, Numbers
from adabatch.lab.report.thinning import thinned
from adabatch.lab.shapes import Json

AXES: Final = {"samples": "samples", "updates": "updates", "seconds": "seconds of training"}
TITLES: Final = {
    "accuracy": "<b>Test accuracy</b>, %",
    "loss": "<b>Loss</b> on the test set; dotted: in training",
    "batch": "<b>Batch size</b>, samples per update",
    "noise": "<b>Noise scale</b>, samples; band: 95 %",
    "lr": "<b>Learning rate</b> in force",
}
_SHARES: Final = {"accuracy": 3.0, "loss": 1.5, "batch": 1.15, "noise": 1.8, "lr": 1.15}
_GAP: Final = 0.075
_MOST: Final = 4000  # evaluations drawn, of all runs together
_BEYOND: Final = 1e30  # stands for an end of a band that lies out of the panel
_ABOVE: Final = 4.0  # how far an axis of noise follows the upper end of a band, over all estimates
_MARKED: Final = 60  # evaluations of a run, at most, that get a mark each

Places = dict[str, list[float]]  # the x values of a trace for each axis
Drawn = list[tuple[Chart, Places]]


def lines(
    runs: Mapping[str, Sequence[SavedRun]], panels: Sequence[str], paint: Mapping[str, str], *, target: float | None
) -> Chart:
    """The main chart of a page: panels one below the other, with lines against samples, updates or time.

    Args:
        runs: for each arm its runs, one per seed.
        panels: among `"accuracy"`, `"loss"`, `"batch"`, `"noise"` and `"lr"`, from the top.
        paint: the colour of each arm.
        target: test accuracy, a fraction, drawn as a line; None for no line.

    Returns:
        The chart, with the x values of its traces for each of `AXES` under `xs`.
    """
    drawn_runs = sum(len(seeds) if _differ(seeds) else 1 for seeds in runs.values())
    most = max(min(1000, _MOST // drawn_runs), 60)
    keys = ["test_accuracy"]
    keys += ["test_loss", "train_loss"] if "loss" in panels else []
    keys += ["noise_scale"] if "noise" in panels else []
    few = {name: thinned(seeds, most, keys) for name, seeds in runs.items()}
    traces: list[Chart] = []
    xs: dict[str, list[list[float]]] = {key: [] for key in AXES}
    for place, panel in enumerate(panels):
        for name, seeds in few.items():
            line = {"dash": look.dash(name, paint), "width": 2.4 if place == 0 else 2}
            for trace, places in _PANELS[panel](name, seeds, line):
                if "marker" in trace:
                    trace["marker"] = {"symbol": look.symbol(list(paint).index(name)), **trace["marker"]}
                traces.append(trace | {"xaxis": "x", "yaxis": plotting.axis("y", place)})
                for key in AXES:
                    xs[key].append(places[key])
    if _once(runs):
        _tell_ends(traces, runs)
    layout = _stacked(panels)
    for place, panel in enumerate(panels):
        axis = layout[plotting.axis("yaxis", place)]
        axis |= _scale(panel, runs, target)
        if axis.get("cut"):
            layout["annotations"][place]["text"] += f" (axis cut at {axis['range'][0]:.3g})"
    if target is not None:
        _draw_target(layout, 100 * target)
    return {"traces": traces, "layout": layout, "xs": xs}


def spread_words(runs: Mapping[str, Sequence[SavedRun]], over: str = "seeds") -> str:
    """A sentence that explains the lines and bands of several seeds; the mean is `over` them."""
    return f"Mean over {over}{' ±' if _once(runs) else '; the band is'} one standard deviation."


def _once(runs: Mapping[str, Sequence[SavedRun]]) -> bool:
    """Whether every run was evaluated only once, so that there are no lines."""
    return all(len(run.history) == 1 for seeds in runs.values() for run in seeds)


def _differ(runs: Sequence[SavedRun]) -> bool:
    """Whether runs were evaluated at different samples."""
    return len({tuple(found["samples"] for found in run.history) for run in runs}) > 1


def _accuracy(name: str, runs: Sequence[SavedRun], line: Chart) -> Drawn:
    """Mean and band of one standard deviation; a line per run if runs were evaluated at different samples."""
    if _differ(runs):
        return [found for run in runs for found in _accuracy(name, [run], {**line, "width": 1.2})]
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
        drawn.append((plotting.trace(name, around["samples"], low + high[::-1]) | band, around))
    short = [f"<b>{name}</b> {_told(value, point[0])}" for value, point in zip(values, points, strict=True)]
    drawn.append((plotting.trace(name, places["samples"], means, short) | {"mode": "lines", "line": line}, places))
    end = {key: xs[-1:] for key, xs in places.items()}
    dot: Chart = {"mode": "markers", "marker": {"size": 9}, "cliponaxis": False}
    return [*drawn, (plotting.trace(name, end["samples"], means[-1:]) | dot, end)]


def _tell_ends(traces: Sequence[Chart], runs: Mapping[str, Sequence[SavedRun]]) -> None:
    """Adds names and figures to the marks of runs that were evaluated once, which have no line."""
    for trace in traces:
        if trace["yaxis"] == "y" and trace.get("mode") == "markers":
            name = trace["name"]
            values = [100 * run.history[0]["test_accuracy"] for run in runs[name]]
            figure = f"{trace['y'][0]:.1f}"
            if len(values) > 1 and not _differ(runs[name]):
                figure += f" ± {stdev(values):.1f}"
            text = f"{name} {figure} %" if len(runs) > 1 else f"{figure} %"
            trace |= {"texttemplate": text, "textposition": "side"}


def _loss(name: str, runs: Sequence[SavedRun], line: Chart) -> Drawn:
    """The first run's loss on the test set and, dotted or hollow, in training."""
    drawn: Drawn = []
    for key, dash in (("test_loss", "solid"), ("train_loss", "dot")):
        points = [found for found in runs[0].history if found.get(key) is not None]
        short = [f"<b>{key.replace('_', ' ')}</b> {found[key]:.4g}" for found in points]
        style: Chart = {"mode": "lines", "line": {**line, "dash": dash}}
        if len(points) == 1:
            style = {"mode": "markers", "marker": {"size": 8} | ({"symbol": "circle-open"} if dash == "dot" else {})}
        drawn += _drawn(name, points, [found[key] for found in points], short, style)
    return drawn


def _batch(name: str, runs: Sequence[SavedRun], line: Chart) -> Drawn:
    """The batch size as a staircase, with points at evaluations for the pointer; a policy's changes are marked."""
    run = runs[0]
    ends = [found["samples"] for found in run.history]
    clocks = sorted({0, *ends, *(clock for clock, _, _ in run.staircase() if clock < ends[-1])})
    points = _middles(runs, clocks)
    sizes = [run.size_at(clock) for clock in clocks]
    sizes[-1] = run.size_at(max(clocks[-1] - 1, 0))
    short = [f"<b>{name}</b> batch {words.whole(size)}" for size in sizes]
    style = {"mode": "lines", "line": {**line, "shape": "hv"}}
    drawn = _drawn(name, points, sizes, short, style)
    if decided := [found for found in run.decided() if found["clock"] < ends[-1]]:
        told = [f"<b>{name}</b> {found.get('reason', '')}" for found in decided]
        points = _middles(runs, [found["clock"] for found in decided])
        marks: Chart = {"mode": "markers", "marker": {"size": 8}, "cliponaxis": False}
        drawn += _drawn(name, points, [found["batch_size"] for found in decided], told, marks)
    return drawn


def _noise(name: str, runs: Sequence[SavedRun], line: Chart) -> Drawn:
    """The first run's noise scale with its interval as a band, which leaves the panel where it has no end."""
    found = runs[0].noise()
    if not found:
        return []
    points = _middles(runs, [clock for clock, *_ in found])
    lows = [low or 1 / _BEYOND for _, _, low, _ in found]
    highs = [_BEYOND if high is None else high for *_, high in found]
    band = {"mode": "lines", "fill": "toself"}
    scales = [scale if scale is not None and scale > 0 else None for _, scale, _, _ in found]
    short = [
        f"<b>{name}</b> noise scale {'not told from inf' if scale is None else f'{scale:,.3g}'}<br>"
        f"95 %: {low:,.3g} to {'inf' if high is None else f'{high:,.3g}'}"
        for scale, (_, _, low, high) in zip(scales, found, strict=True)
    ]
    mode = "lines+markers" if len(points) <= _MARKED else "lines"
    style = {"mode": mode, "line": line, "marker": {"size": 5}}
    around = [*points, *reversed(points)]
    ends = [*lows, *reversed(highs)]
    bands = _drawn(name, around, ends, None, band) if len(points) > 1 else []
    return [*bands, *_drawn(name, points, scales, short, style)]


def _lr(name: str, runs: Sequence[SavedRun], line: Chart) -> Drawn:
    """The first run's LR in force at each evaluation; a change is drawn right after the evaluation before it."""
    points = _middles(runs, [found["samples"] for found in runs[0].history])
    rates = [found["lr"] for found in runs[0].history]
    short = [f"<b>{name}</b> LR {rate:.4g}" for rate in rates]
    mode = "lines+markers" if len(points) <= _MARKED else "lines"
    style = {"mode": mode, "line": {**line, "shape": "vh"}, "marker": {"size": 5}}
    return _drawn(name, points, rates, short, style)


_PANELS: Final[dict[str, Callable[[str, Sequence[SavedRun], Chart], Drawn]]] = {
    "accuracy": _accuracy,
    "loss": _loss,
    "batch": _batch,
    "noise": _noise,
    "lr": _lr,
}


def _drawn(
    name: str, points: Sequence[Json], ys: Sequence[float | None], text: Sequence[str] | None, style: Chart
) -> Drawn:
    places = {key: [point[key] for point in points] for key in AXES}
    return [(plotting.trace(name, places["samples"], ys, text) | style, places)]


def _middles(runs: Sequence[SavedRun], clocks: Sequence[int]) -> list[Json]:
    """The clocks on each axis: means over runs if they share a batch size schedule, else the first run's."""
    alike = all(run.staircase() == runs[0].staircase() for run in runs)
    found = [[run.at(clock) for run in (runs if alike else runs[:1])] for clock in clocks]
    return [{key: _mean(place[key] for place in places) for key in AXES} for places in found]


def _told(values: Sequence[float], found: Json) -> str:
    """Accuracy over seeds, batch size and LR at an evaluation, for the pointer."""
    accuracy = f"{fmean(values):.2f}{f' ± {stdev(values):.2f}' if len(values) > 1 else ''} %"
    return f"{accuracy}<br>batch {words.whole(found['batch_size'])}, LR {found['lr']:.4g}"


def _mean(values: Iterable[float]) -> float:
    """The mean; equal whole numbers stay whole."""
    found = list(values)
    return found[0] if len(set(found)) == 1 else fmean(found)


def _stacked(panels: Sequence[str]) -> Chart:
    """A layout with a titled panel for each name and one x axis below all."""
    layout = plotting.layout(AXES["samples"], top=30)
    gaps = _GAP * (len(panels) - 1)
    unit = (1 - gaps) / sum(_SHARES[panel] for panel in panels)
    top = 1.0
    layout["annotations"] = []
    for place, panel in enumerate(panels):
        bottom = max(top - unit * _SHARES[panel], 0.0)
        layout[plotting.axis("yaxis", place)] = {"domain": [bottom, top]}
        title = {"text": TITLES[panel], "xref": "paper"}
        layout["annotations"].append(title | {"yref": "paper", "x": 0, "y": top, "yshift": 4, "font": {"size": 13}})
        top = bottom - _GAP
    layout["xaxis"] |= {"rangemode": "tozero"}
    return layout


def _scale(panel: str, runs: Mapping[str, Sequence[SavedRun]], target: float | None) -> Chart:
    """The y axis of a panel; it reaches a target that lies a little above all lines."""
    if panel == "accuracy":
        every = [found for seeds in runs.values() for run in seeds for found in run.history]
        high, low = max(100 * found["test_accuracy"] for found in every), _floor(runs)
        if target is not None and high < 100 * target < high + 0.3 * (high - low):
            high = 100 * target
        return {"range": [low, high + 0.04 * (high - low) + 0.2], "cut": low > 0}
    firsts = [seeds[0] for seeds in runs.values()]
    if panel == "batch":
        return plotting.sizes_axis([size for run in firsts for _, size, _ in run.staircase()], most=5, margin=0.1)
    if panel == "noise":
        return _noise_axis([found for run in firsts for found in run.noise()])
    keys = ("lr",) if panel == "lr" else ("test_loss", "train_loss")
    values: list[float] = [found.get(key) or 0.0 for run in firsts for found in run.history for key in keys]
    values = [value for value in values if 0 < value < math.inf]
    return plotting.log_axis(values, room=0.1) if values else {}


def _noise_axis(found: Sequence[tuple[int, float | None, float, float | None]]) -> Chart:
    """The axis of noise scales: all estimates and lower ends, and upper ends that are not far above."""
    inner = [value for _, scale, low, _ in found for value in (scale, low) if value is not None and value > 0]
    if not inner:
        return {}
    most = _ABOVE * max(inner)
    return plotting.log_axis(
        [*inner, *(most if high is None else min(high, most) for *_, high in found)], room=0.1, form="{:,.4g}".format
    )


def _floor(runs: Mapping[str, Sequence[SavedRun]]) -> float:
    """The lowest accuracy shown."""
    if _once(runs):
        return 0.0  # without lines, figures tell the ends apart
    worst = min(fmean(100 * run.history[-1]["test_accuracy"] for run in seeds) for seeds in runs.values())
    first = min(100 * float(run.history[0]["test_accuracy"]) for seeds in runs.values() for run in seeds)
    return look.floor(first, worst)


def _draw_target(layout: Chart, target: float) -> None:
    line = {"width": 1.2, "dash": "dot"}
    layout["shapes"] = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": target, "y1": target, "line": line}
    ]
    note = {"text": f"target {target:g} %", "xref": "paper", "x": 0.004}
    layout["annotations"].append(note | {"yref": "y", "y": target, "font": {"size": 11}})


def throughput(rates: Mapping[str, Mapping[str, float]], names: Iterable[str]) -> Chart:
    """Samples per second against batch size for each arm; `names` are all arms on the page."""
    traces, names = [], list(names)
    for name, found in rates.items():
        sizes = sorted(int(size) for size in found)
        speeds = [found[str(size)] for size in sizes]
        text = [
            f"<b>{name}</b><br>{words.whole(speed)} samples/s<br>at batch {words.whole(size)}"
            for size, speed in zip(sizes, speeds, strict=True)
        ]
        line = {"width": 2, "dash": look.dash(name, names)}
        marker = {"size": 9, "symbol": look.symbol(names.index(name))}
        style = {"mode": "lines+markers", "line": line, "marker": marker}
        traces.append(plotting.trace(name, sizes, speeds, text) | style)
    layout = plotting.layout("batch size")
    layout["xaxis"] |= plotting.sizes_axis([int(size) for found in rates.values() for size in found], most=6)
    layout["yaxis"] |= {"rangemode": "tozero"}
    return {"traces": traces, "layout": layout}


def differ_in_size(rates: Iterable[Mapping[str, float]]) -> bool:
    """Whether arms ran at more than one batch size; for one, the tables are enough."""
    return len({size for found in rates for size in found}) > 1


def probed(name: str, points: Sequence[Json]) -> Chart:
    """Samples per second against batch size, with the range over turns, from the points of a `probe.json`."""
    sizes, rates = [point["batch_size"] for point in points], [point["samples_per_second"] for point in points]
    chart = throughput({name: {str(size): rate["median"] for size, rate in zip(sizes, rates, strict=True)}}, [name])
    around = [rate["min"] for rate in rates] + [rate["max"] for rate in reversed(rates)]
    band = plotting.trace(name, sizes + sizes[::-1], around) | {"mode": "lines", "fill": "toself"}
    chart["traces"].insert(0, band)
    chart["layout"]["xaxis"] |= plotting.sizes_axis(sizes, most=12)
    return chart


def every_run(compare: Comparison, paint: Mapping[str, str]) -> Chart:
    """Test accuracy against training time: a dot for each run and a ring at each arm's middle."""
    traces = []
    for arm in compare.arms:
        name, shape = arm.name, look.symbol(list(paint).index(arm.name))
        seconds, accuracies = list(arm.train_seconds.values), [100 * value for value in arm.test_accuracy.values]
        text = [
            f"<b>{name}</b>, seed {seed}<br>{value:.2f} %<br>{words.seconds(time)} s"
            for seed, value, time in zip(compare.seeds, accuracies, seconds, strict=True)
        ]
        dots = {"size": 9, "symbol": shape, "opacity": 0.55}
        style: Chart = {"mode": "markers", "marker": dots, "cliponaxis": False}
        traces.append(plotting.trace(name, seconds, accuracies, text) | style)
        if len(seconds) > 1:
            at, mean = compare.seconds(arm), 100 * arm.test_accuracy.mean
            told = f"<b>{name}</b><br>mean {mean:.2f} %<br>{words.seconds(at)} s"
            ring = {"symbol": f"{shape}-open", "size": 17, "line": {"width": 2.5}}
            traces.append(plotting.trace(name, [at], [mean], [told]) | style | {"marker": ring})
    layout = plotting.layout("seconds of training")
    layout["xaxis"] |= {"rangemode": "tozero"}
    layout["yaxis"] |= {"ticksuffix": " %"}
    return {"traces": traces, "layout": layout}


def accuracy_intervals(against: Mapping[str, Against], margin: float, paint: Mapping[str, str]) -> Chart:
    """Test accuracy minus fixed-small's in points with its interval, a line per arm, and the margin."""
    found = {name: arm.accuracy_difference for name, arm in against.items()}
    points = {
        name: [None if value is None else 100 * value for value in (one.mean, one.low, one.high)]
        for name, one in found.items()
    }
    chart = _forest(points, {name: words.difference(one) for name, one in found.items()}, paint)
    ends = [0.0, -100 * margin, *(value for values in points.values() for value in values if value is not None)]
    room = 0.25 * (max(ends) - min(ends))
    axis = {"title": {"text": "points of test accuracy"}, "range": [min(ends) - room, max(ends) + room]}
    chart["layout"]["xaxis"] |= axis
    chart["layout"]["shapes"] = [plotting.vertical(0, "solid"), plotting.vertical(-100 * margin, "dash")]
    return chart


def time_intervals(against: Mapping[str, Against], paint: Mapping[str, str]) -> Chart:
    """Fixed-small's training time divided by the arm's with its interval, a line per arm; right is faster."""
    found = {name: arm.seconds_ratio for name, arm in against.items() if arm.seconds_ratio.median is not None}
    ratios = {name: [one.median, one.low, one.high] for name, one in found.items()}
    chart = _forest(ratios, {name: words.ratio_cell(one) for name, one in found.items()}, paint)
    ends = [1.0, *(value for values in ratios.values() for value in values if value)]
    axis = plotting.log_axis(ends, suffix=words.TIMES, room=0.25)
    chart["layout"]["xaxis"] |= {"title": {"text": f"{words.TIMES} as fast as fixed-small"}, **axis}
    chart["layout"]["shapes"] = [plotting.vertical(1, "solid")]
    return chart


def _forest(found: Mapping[str, Sequence[float | None]], text: Mapping[str, str], paint: Mapping[str, str]) -> Chart:
    """A dot, its interval and a text above for each arm, one below the other."""
    traces = []
    for name, (centre, low, high) in found.items():
        style: Chart = {
            "mode": "markers+text",
            "texttemplate": text[name],
            "cliponaxis": False,
            "marker": {"size": 11, "symbol": look.symbol(list(paint).index(name))},
        }
        if centre is not None and low is not None and high is not None:
            style["error_x"] = {"array": [high - centre], "arrayminus": [centre - low], "thickness": 2.4, "width": 6}
        traces.append(plotting.trace(name, [centre or 0.0], [name], [f"<b>{name}</b><br>{text[name]}"]) | style)
    layout = plotting.layout("", top=18)
    layout["xaxis"] |= {"showgrid": True}
    rows = len(found)
    layout["yaxis"] |= {"type": "category", "range": [rows - 0.5, -0.75], "showgrid": False}
    layout["height"] = 70 + 45 * rows
    return {"traces": traces, "layout": layout}


def forecast(values: Json, paint: Mapping[str, str]) -> dict[str, Chart]:
    """LR, batch size and noise scale of a `plan.json` against samples; `paint` names the growing batch first."""
    first = [values.get("batch_size", values["sizes"][0])] * len(values["sizes"])
    made = {
        "lr": _stairs(values, [values["lr"], values["lr_before"]], paint, "LR"),
        "batch": _stairs(values, [values["sizes"], first], paint, "batch"),
        "noise": _stairs(values, [values["noise_scale"], values["noise_scale_before"]], paint, "noise scale"),
    }
    made["lr"]["layout"]["yaxis"] |= {"rangemode": "tozero"}
    made["batch"]["layout"]["yaxis"] |= plotting.sizes_axis(values["sizes"], most=6, margin=0.1)
    scales = [value for value in (*values["noise_scale"], *values["noise_scale_before"]) if value > 0]
    made["noise"]["layout"]["yaxis"] |= plotting.log_axis(scales, room=0.1) if scales else {}
    return made


def _stairs(values: Json, every: Sequence[Numbers], paint: Mapping[str, str], what: str) -> Chart:
    """A line for each name in `paint`: the values that hold from each start on."""
    starts = [*values["starts_samples"], values["dataset_size"] * values["epochs"]]
    traces = []
    for name, heights in zip(paint, every, strict=True):
        ys = [*heights, heights[-1]]
        text = [
            f"<b>{name}</b> {what} {height:,.4g}<br>{words.whole(start)} samples<br>"
            f"epoch {start / values['dataset_size']:.4g}"
            for start, height in zip(starts, ys, strict=True)
        ]
        line = {"width": 2, "dash": look.dash(name, paint), "shape": "hv"}
        traces.append(plotting.trace(name, starts, ys, text) | {"mode": "lines", "line": line})
    layout = plotting.layout("samples")
    layout["xaxis"] |= {"rangemode": "tozero"}
    return {"traces": traces, "layout": layout}
