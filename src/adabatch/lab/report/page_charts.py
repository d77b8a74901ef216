"""The small charts of a page: throughput, every run, and what was gained over fixed-small with its intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from adabatch.lab.report import page_plot as plot
from adabatch.lab.report import page_words as words
from adabatch.lab.report import paired_times
from adabatch.lab.report.page_data import Comparison, Json
from adabatch.lab.report.page_plot import Chart


def throughput(rates: Mapping[str, Mapping[str, float]], names: Iterable[str]) -> Chart:
    """Samples per second against batch size.

    Args:
        rates: for each arm samples per second by batch size.
        names: of all arms on the page.
    """
    traces, names = [], list(names)
    for name, found in rates.items():
        sizes = sorted(int(size) for size in found)
        speeds = [found[str(size)] for size in sizes]
        text = [
            f"<b>{name}</b><br>{words.whole(speed)} samples/s<br>at batch {words.whole(size)}"
            for size, speed in zip(sizes, speeds, strict=True)
        ]
        line = {"width": 2, "dash": plot.dash(name, names)}
        marker = {"size": 9, "symbol": plot.symbol(names.index(name))}
        style = {"mode": "lines+markers", "line": line, "marker": marker}
        traces.append(plot.trace(name, sizes, speeds, text) | style)
    layout = plot.layout("batch size")
    layout["xaxis"] |= plot.sizes_axis([int(size) for found in rates.values() for size in found], most=6)
    layout["yaxis"] |= {"rangemode": "tozero"}
    return {"traces": traces, "layout": layout}


def differ_in_size(rates: Iterable[Mapping[str, float]]) -> bool:
    """Whether there is more than one batch size: of one the tables tell all.

    Args:
        rates: samples per second by batch size, of each arm.
    """
    return len({size for found in rates for size in found}) > 1


def probed(name: str, points: Sequence[Json]) -> Chart:
    """Samples per second against batch size with their range over turns.

    Args:
        name: what was probed.
        points: the curve of a `probe.json`.
    """
    sizes, rates = [point["batch_size"] for point in points], [point["samples_per_second"] for point in points]
    chart = throughput({name: {str(size): rate["median"] for size, rate in zip(sizes, rates, strict=True)}}, [name])
    around = [rate["min"] for rate in rates] + [rate["max"] for rate in reversed(rates)]
    band = plot.trace(name, sizes + sizes[::-1], around) | {"mode": "lines", "fill": "toself"}
    chart["traces"].insert(0, band)
    chart["layout"]["xaxis"] |= plot.sizes_axis(sizes, most=12)
    return chart


def every_run(comparison: Comparison, paint: Mapping[str, str]) -> Chart:
    """Test accuracy against training time, a dot for each run and a ring at each arm's middle."""
    compare = comparison.compare
    traces = []
    for arm in compare["arms"]:
        name, shape = arm["name"], plot.symbol(list(paint).index(arm["name"]))
        seconds = arm["train_seconds"]["values"]
        accuracies = [100 * value for value in arm["test_accuracy"]["values"]]
        text = [
            f"<b>{name}</b>, seed {seed}<br>{value:.2f} %<br>{words.seconds(time)} s"
            for seed, value, time in zip(compare["seeds"], accuracies, seconds, strict=True)
        ]
        dots = {"size": 9, "symbol": shape, "opacity": 0.55}
        traces.append(
            plot.trace(name, seconds, accuracies, text) | {"mode": "markers", "marker": dots, "cliponaxis": False}
        )
        if len(seconds) > 1:
            ring = {"symbol": f"{shape}-open"}
            traces.append(_middle(arm, paired_times.seconds(compare, arm), ring))
    layout = plot.layout("seconds of training")
    layout["xaxis"] |= {"rangemode": "tozero"}
    layout["yaxis"] |= {"ticksuffix": " %"}
    return {"traces": traces, "layout": layout}


def _middle(arm: Json, seconds: float, marker: Chart) -> Chart:
    name, mean = arm["name"], 100 * arm["test_accuracy"]["mean"]
    text = f"<b>{name}</b><br>mean {mean:.2f} %<br>{words.seconds(seconds)} s"
    ring = marker | {"size": 17, "line": {"width": 2.5}}
    return plot.trace(name, [seconds], [mean], [text]) | {"mode": "markers", "marker": ring, "cliponaxis": False}


def accuracy_intervals(compare: Json, paint: Mapping[str, str]) -> Chart:
    """Test accuracy minus fixed-small's in points with its interval, an arm to a line, and the margin."""
    margin = -100 * compare["margin"]
    found = {name: arm["accuracy_difference"] for name, arm in compare["against_fixed_small"].items()}
    points = {
        name: {key: None if value is None else 100 * value for key, value in values.items()}
        for name, values in found.items()
    }
    text = {name: f"{words.difference(values)}" for name, values in found.items()}
    chart = _forest({name: (value["mean"], value["low"], value["high"]) for name, value in points.items()}, text, paint)
    ends = [0.0, margin, *(value for values in points.values() for value in values.values() if value is not None)]
    room = 0.25 * (max(ends) - min(ends))
    axis = {"title": {"text": "points of test accuracy"}, "range": [min(ends) - room, max(ends) + room]}
    chart["layout"]["xaxis"] |= axis
    chart["layout"]["shapes"] = [plot.vertical(0, "solid"), plot.vertical(margin, "dash")]
    return chart


def time_intervals(compare: Json, paint: Mapping[str, str]) -> Chart:
    """Fixed-small's training time divided by the arm's with its interval, an arm to a line; right is faster."""
    found = {name: arm["seconds_ratio"] for name, arm in compare["against_fixed_small"].items()}
    found = {name: ratio for name, ratio in found.items() if ratio["median"] is not None}
    text = {name: words.ratio_cell(ratio) for name, ratio in found.items()}
    chart = _forest(
        {name: (value["median"], value["low"], value["high"]) for name, value in found.items()}, text, paint
    )
    ends = [1.0, *(value for ratio in found.values() for value in ratio.values() if value)]
    axis = plot.log_axis(ends, suffix=words.TIMES, room=0.25)
    chart["layout"]["xaxis"] |= {"title": {"text": f"{words.TIMES} as fast as fixed-small"}, **axis}
    chart["layout"]["shapes"] = [plot.vertical(1, "solid")]
    return chart


def _forest(found: Mapping[str, Sequence[float | None]], text: Mapping[str, str], paint: Mapping[str, str]) -> Chart:
    """A dot and its interval for each arm, one below the other, the text above it."""
    traces = []
    for name, (centre, low, high) in found.items():
        style: Chart = {
            "mode": "markers+text",
            "texttemplate": text[name],
            "cliponaxis": False,
            "marker": {"size": 11, "symbol": plot.symbol(list(paint).index(name))},
        }
        if centre is not None and low is not None and high is not None:
            style["error_x"] = {"array": [high - centre], "arrayminus": [centre - low], "thickness": 2.4, "width": 6}
        traces.append(plot.trace(name, [centre or 0.0], [name], [f"<b>{name}</b><br>{text[name]}"]) | style)
    layout = plot.layout("", top=18)
    layout["xaxis"] |= {"showgrid": True}
    rows = len(found)
    layout["yaxis"] |= {"type": "category", "range": [rows - 0.5, -0.75], "showgrid": False}
    layout["height"] = 70 + 45 * rows
    return {"traces": traces, "layout": layout}
