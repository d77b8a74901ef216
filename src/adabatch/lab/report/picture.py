"""Pictures of a comparison and of a throughput curve, as PNG files by matplotlib, without a display."""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from adabatch.lab.report import headline, look, paired_times, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

_STYLES: Final[dict[str, Any]] = {
    "solid": "-",
    "dash": (0, (4, 1.5)),
    "dot": (0, (1.2, 1.2)),
    "dashdot": (0, (4, 1.2, 1, 1.2)),
    "longdash": (0, (8, 2)),
}
_MARKERS: Final = dict(
    zip((look.symbol(place) for place in range(10)), ("o", "D", "s", "^", "P", "*", "v", "X", "p", "h"), strict=True)
)
_GREY: Final = "#555555"
_LINE: Final = 118  # letters of a title beside each other
_LETTERS: Final = 24  # of a label on a line
_LINE_INCHES: Final = 0.17  # a line of a label


def compare_picture(folder: Path, picture: Path) -> None:
    """Draws a comparison: accuracy and batch size against samples, accuracy against time; mean and spread over seeds.

    Args:
        folder: holds `compare.json` and `runs/ARM/seed-K/result.json`.
        picture: the PNG file to write; replaced whole or not at all.

    Raises:
        FileNotFoundError: if a file is missing.
    """
    compare = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    runs = {arm["name"]: _runs(folder, arm["name"], compare["seeds"]) for arm in compare["arms"]}
    times = paired_times.on_one_clock({name: [run["history"] for run in records] for name, records in runs.items()})
    for name, records in runs.items():
        runs[name] = [run | {"history": history} for run, history in zip(records, times[name], strict=True)]
    ends = {key: {name: _end(records, key) for name, records in runs.items()} for key in ("samples", "seconds")}
    labels = {name: _label(name, accuracy) for name, (_, accuracy) in ends["samples"].items()}
    rows = sum(label.count("\n") + 1 for label in labels.values())
    figure = _figure(9.6, max(4.9, rows * _LINE_INCHES / 0.77 + 0.3))
    grid = figure.add_gridspec(2, 2, height_ratios=(2.1, 1))
    figure.subplots_adjust(hspace=0.14)
    accuracy = figure.add_subplot(grid[0, 0])
    size = figure.add_subplot(grid[1, 0], sharex=accuracy)
    time = figure.add_subplot(grid[:, 1])
    styles = _styles(list(runs))
    for name, records in runs.items():
        style: dict[str, Any] = {key: styles[name][key] for key in ("color", "linestyle", "linewidth")}
        _accuracy(accuracy, records, "samples", style)
        _accuracy(time, records, "seconds", style)
        size.plot(*_steps(records[0]), **style)
    limits = _limits(runs)
    for axes in (accuracy, time):
        axes.set_ylim(*limits)
        axes.set_ylabel("test accuracy, %" + (", axis cut" if limits[0] > 0 else ""))
        if limits[0] > 0:
            mark_cut(axes)
    accuracy.tick_params(labelbottom=False)
    size.set_yscale("log", base=2)
    _powers(size, [value for records in runs.values() for value in _steps(records[0])[1]])
    size.set_ylabel("batch size")
    size.set_xlabel("samples trained on")
    _count_axis(size, max(x for x, _ in ends["samples"].values()))
    time.set_xlabel("training time, seconds")
    time.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    time.locator_params(axis="x", nbins=5)
    named = _label_ends(figure, accuracy, ends["samples"], labels, styles, below=size)
    named += _label_ends(figure, time, ends["seconds"], labels, styles)
    _make_room(figure, named)
    accuracy.set_title("The same data ...", **_title())
    time.set_title("... in less time", **_title()) if _faster(compare) else time.set_title(
        "... against time", **_title()
    )
    n = len(compare["seeds"])
    head = f"{compare['task']}, {compare['model']} on {compare['device']}: "
    time_is = "by ratios paired by seed" if compare["against_fixed_small"] else "median"
    mark = "bar" if all(len(run["history"]) == 1 for records in runs.values() for run in records) else "band"
    head += f"mean of {n} seeds, {mark}: one standard deviation; time: {time_is}" if n > 1 else "1 seed"
    title, lost = headline.of_comparison(compare).title, headline.diverged(compare, runs)
    above = [*textwrap.wrap(title, _LINE), head, *([lost] if lost and lost not in title else [])]
    figure.suptitle("\n".join(above), x=0.01, y=0.935, ha="left", va="bottom", fontsize=9, color=_GREY)
    _save(figure, picture)


def probe_picture(probe: Mapping[str, Any], picture: Path) -> None:
    """Draws samples per second against batch size, with the range over repeats.

    Args:
        probe: the content of a `probe.json`.
        picture: the PNG file to write; replaced whole or not at all.
    """
    sizes = [point["batch_size"] for point in probe["curve"]]
    rates = [point["samples_per_second"] for point in probe["curve"]]
    figure = _figure(6.4, 3.6)
    axes = figure.add_subplot()
    medians = [rate["median"] for rate in rates]
    axes.fill_between(sizes, [r["min"] for r in rates], [r["max"] for r in rates], color="#0072B2", alpha=0.18, lw=0)
    axes.plot(sizes, medians, color="#0072B2", marker="o", markersize=4, linewidth=1.8)
    axes.axhline(medians[0], color=_GREY, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xscale("log", base=2)
    shown = ticks.sizes(sizes, 12)
    axes.set_xticks(shown, [f"{size:,}" for size in shown])
    axes.minorticks_off()
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("batch size")
    axes.set_ylabel("samples per second")
    repeats = f"{probe['repeats']} {'repeat' if probe['repeats'] == 1 else 'repeats'}"
    axes.set_title(
        f"{probe['task']}, {probe['model']} on {probe['device']}: median and range of {repeats}",
        **_title(),
    )
    _save(figure, picture)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, picture: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8, colors=_GREY)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
    part = picture.with_name(f".{picture.name}.part")
    try:
        figure.savefig(part, format="png", bbox_inches="tight", pad_inches=0.12)
        os.replace(part, picture)
    finally:
        part.unlink(missing_ok=True)


def _runs(folder: Path, arm: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    return [
        json.loads((folder / "runs" / arm / f"seed-{seed}" / "result.json").read_text(encoding="utf-8"))
        for seed in seeds
    ]


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How each arm is drawn: colour, line and the mark at its end."""
    colours = look.colours(names)
    return {
        name: {
            "color": colours[name],
            "linestyle": _STYLES[look.dash(name, names)],
            "linewidth": 1.8,
            "marker": _MARKERS[look.symbol(place)],
        }
        for place, name in enumerate(names)
    }


def _mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1))


def _accuracy(axes: Axes, runs: Sequence[Mapping[str, Any]], key: str, style: dict[str, Any]) -> None:
    """Mean and band at each evaluation, at the median of its times; its samples are the same in every run."""
    records = list(zip(*(run["history"] for run in runs), strict=False))  # one that diverged may have been stopped
    xs = [median(record[key] for record in point) for point in records]
    bands = [_mean_and_std([100 * record["test_accuracy"] for record in point]) for point in records]
    axes.plot(xs, [mean for mean, _ in bands], **style)
    if len(runs) > 1:
        lows, highs = [mean - std for mean, std in bands], [min(mean + std, 100) for mean, std in bands]
        axes.fill_between(xs, lows, highs, color=style["color"], alpha=0.15, linewidth=0)
        if len(xs) == 1:  # of one evaluation a band has no width
            axes.vlines(xs, lows, highs, color=style["color"], alpha=0.5, linewidth=2.5)


def _steps(run: Mapping[str, Any]) -> tuple[list[float], list[int]]:
    """The batch size as a staircase over samples, from the run's decisions."""
    xs: list[float] = [0]
    sizes = [int(run["batch_sizes"][0])]
    for decision in run["decisions"]:
        if decision["clock"]:
            xs += [decision["clock"]] * 2
            sizes += [sizes[-1], int(decision["batch_size"])]
    return [*xs, run["samples"]], [*sizes, sizes[-1]]


def _powers(axes: Axes, sizes: Sequence[int]) -> None:
    """Ticks at sizes, or at powers of two where there are many."""
    shown = ticks.sizes(sizes, 5)
    axes.set_yticks(shown, [f"{tick:,}" for tick in shown])
    axes.minorticks_off()


def _end(runs: Sequence[Mapping[str, Any]], key: str) -> tuple[float, float]:
    lasts = [run["history"][-1] for run in runs]
    return (
        median(last[key] for last in lasts),
        sum(100 * last["test_accuracy"] for last in lasts) / len(lasts),
    )


def _limits(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[float, float]:
    """The accuracies shown: up to the best, and down to where the ends can be told apart."""
    worst = min(_end(records, "samples")[1] for records in runs.values())
    seen = [100 * entry["test_accuracy"] for records in runs.values() for run in records for entry in run["history"]]
    first = min(100 * run["history"][0]["test_accuracy"] for records in runs.values() for run in records)
    floor = ticks.floor(first, worst)
    return floor, min(101.0, max(seen) + 0.08 * (max(seen) - floor) + 0.5)


def _faster(compare: Mapping[str, Any]) -> bool:
    """Whether the arm of the headline is shown to be faster, and to be as accurate."""
    name = headline.hero(compare)
    if name is None or headline.standing(compare, name) != "good":
        return False
    low = compare["against_fixed_small"][name]["seconds_ratio"]["low"]
    return low is not None and low > 1


def mark_cut(axes: Axes) -> None:
    """Two slanted strokes at the foot of a vertical axis that does not begin at 0."""
    strokes = [(-1, -0.5), (1, 0.5)]
    axes.plot(
        (0, 0), (0.025, 0.05), transform=axes.transAxes, marker=strokes, markersize=9, linestyle="none",
        color="#000000", clip_on=False,
    )  # fmt: skip


def _count_axis(axes: Axes, high: float) -> None:
    """Samples, tokens or updates along an axis, in figures that do not run into each other."""
    axes.xaxis.set_major_formatter(lambda value, _: ticks.short(value) if high >= 1e6 else f"{value:,.0f}")
    axes.locator_params(axis="x", nbins=5)


def _label(name: str, accuracy: float) -> str:
    """An arm and its accuracy, on as many lines as a long name takes."""
    return "\n".join(textwrap.wrap(f"{name} {accuracy:.1f}", _LETTERS))


def _label_ends(
    figure: Figure,
    axes: Axes,
    ends: Mapping[str, tuple[float, float]],
    labels: Mapping[str, str],
    styles: Mapping[str, Mapping[str, Any]],
    *,
    below: Axes | None = None,
) -> list[Annotation]:
    """Names each line right of the plot at the height of its end, moved apart where they would overlap.

    Args:
        figure: that holds them.
        axes: of the plot.
        ends: of the lines.
        labels: their names.
        styles: of the lines.
        below: a plot under it, beside which there is room too.
    """
    low, high = axes.get_ylim()
    tall = figure.get_figheight()
    inches = axes.get_position().height * tall
    free = (axes.get_position().y0 - below.get_position().y0) * tall if below else 0.0
    wanted = {name: (min(max(y, low), high) - low) / (high - low) * inches for name, (_, y) in ends.items()}
    heights = {name: _LINE_INCHES * (label.count("\n") + 1) for name, label in labels.items()}
    right = max(x for x, _ in ends.values())
    named = []
    for name, place in spread(wanted, heights, -free).items():
        colour = styles[name]["color"]
        if low <= ends[name][1] <= high:  # one that diverged may end below a cut axis
            axes.plot(*ends[name], marker=styles[name]["marker"], markersize=5, color=colour, clip_on=False)
        named.append(
            axes.annotate(
                labels[name],
                xy=(1, place / inches),
                xycoords="axes fraction",
                xytext=(9, 0),
                textcoords="offset points",
                fontsize=8.5,
                color=colour,
                va="center",
                annotation_clip=False,
                parse_math=False,
            )
        )
    axes.set_xlim(0, right * 1.02)
    return named


def spread(wanted: Mapping[str, float], heights: Mapping[str, float], low: float) -> dict[str, float]:
    """The middles of labels as near to what is wanted as they can stand without overlap.

    Args:
        wanted: the middle of each.
        heights: of each, in the same unit.
        low: that none goes below, as long as there is room above.
    """
    order = sorted(wanted, key=lambda name: -wanted[name])
    found: dict[str, float] = {}
    edge = math.inf
    for name in order:
        found[name] = min(wanted[name], edge - heights[name] / 2)
        edge = found[name] - heights[name] / 2
    edge = low
    for name in reversed(order):
        found[name] = max(found[name], edge + heights[name] / 2)
        edge = found[name] + heights[name] / 2
    return found


def _make_room(figure: Figure, named: Sequence[Annotation]) -> None:
    """Two columns of plots as far apart as the names of the lines between them take."""
    widest = max(label.get_window_extent().width for label in named) / figure.dpi
    left, plot, gap, right = 0.8, 2.95, 0.9 + widest, 0.25 + widest
    width = left + 2 * plot + gap + right
    figure.set_size_inches(width, figure.get_size_inches()[1])
    figure.subplots_adjust(left=left / width, right=1 - right / width, wspace=gap / plot)


def _title() -> dict[str, Any]:
    return {"fontsize": 10, "loc": "left", "fontweight": "bold"}
