"""Pictures of a comparison, of throughput and of a forecast: PNG files by matplotlib, without a display."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any, Final

from adabatch import _files
from adabatch.lab.comparison import Comparison
from adabatch.lab.report import headline, look
from adabatch.lab.report.folders import SavedRun, on_one_clock, read_finished

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

STYLES: Final[dict[str, Any]] = {
    "solid": "-",
    "dash": (0, (4, 1.5)),
    "dot": (0, (1.2, 1.2)),
    "dashdot": (0, (4, 1.2, 1, 1.2)),
    "longdash": (0, (8, 2)),
}
MARKERS: Final = dict(
    zip((look.symbol(place) for place in range(10)), ("o", "D", "s", "^", "P", "*", "v", "X", "p", "h"), strict=True)
)
GREY: Final = "#555555"
TITLE: Final[dict[str, Any]] = {"fontsize": 10, "loc": "left", "fontweight": "bold"}
_BEFORE: Final[dict[str, Any]] = {"color": "#0072B2", "linestyle": (0, (4, 1.5)), "linewidth": 1.6}
_MOST_LINES: Final = 5
_AFTER: Final[dict[str, Any]] = {"color": "#D55E00", "linestyle": "-", "linewidth": 1.8}
_LINE: Final = 118  # letters in a line of the title
_LETTERS: Final = 24  # in a line of a label
_LINE_INCHES: Final = 0.17  # height of a line of a label


def compare_picture(folder: Path, picture: Path) -> None:
    """Draws the comparison in a folder to a PNG file, which is replaced whole or not at all.

    It shows accuracy and batch size against samples, and accuracy against time: mean and spread over seeds.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or a run is not finished.
    """
    found = read_finished(folder)
    compare, runs = found.compare, on_one_clock(found.runs)
    ends = {key: {name: _end(seeds, key) for name, seeds in runs.items()} for key in ("samples", "seconds")}
    labels = {name: _label(name, accuracy) for name, (_, accuracy) in ends["samples"].items()}
    rows = sum(label.count("\n") + 1 for label in labels.values())
    figure = new_figure(9.6, max(4.9, rows * _LINE_INCHES / 0.77 + 0.3))
    grid = figure.add_gridspec(2, 2, height_ratios=(2.1, 1))
    figure.subplots_adjust(hspace=0.14)
    accuracy = figure.add_subplot(grid[0, 0])
    size = figure.add_subplot(grid[1, 0], sharex=accuracy)
    time = figure.add_subplot(grid[:, 1])
    styles = _styles(list(runs))
    steps = {name: _steps(seeds[0]) for name, seeds in runs.items()}
    for name, seeds in runs.items():
        style: dict[str, Any] = {key: styles[name][key] for key in ("color", "linestyle", "linewidth")}
        _accuracy(accuracy, seeds, "samples", style)
        _accuracy(time, seeds, "seconds", style)
        size.plot(*steps[name], **style)
    limits = _limits(runs)
    for axes in (accuracy, time):
        axes.set_ylim(*limits)
        axes.set_ylabel("test accuracy, %" + (", axis cut" if limits[0] > 0 else ""))
        if limits[0] > 0:
            mark_cut(axes)
    accuracy.tick_params(labelbottom=False)
    _powers(size, [value for _, sizes in steps.values() for value in sizes], 5)
    size.set_ylabel("batch size")
    size.set_xlabel("samples trained on")
    _count_axis(size, max(x for x, _ in ends["samples"].values()))
    time.set_xlabel("training time, seconds")
    time.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    time.locator_params(axis="x", nbins=5)
    named = _label_ends(figure, accuracy, ends["samples"], labels, styles, below=size)
    named += _label_ends(figure, time, ends["seconds"], labels, styles)
    _make_room(figure, named)
    accuracy.set_title("The same data ...", **TITLE)
    time.set_title("... in less time" if _faster(compare) else "... against time", **TITLE)
    n, time_is = len(compare.seeds), "by ratios paired by seed" if compare.against_fixed_small else "median"
    head = f"{compare.task}, {compare.model} on {compare.device}: "
    shape = "bar" if all(len(run.history) == 1 for seeds in runs.values() for run in seeds) else "band"
    head += f"mean of {n} seeds, {shape}: one standard deviation; time: {time_is}" if n > 1 else "1 seed"
    title, lost = headline.of_comparison(compare).title, headline.diverged(compare, runs)
    above = [*textwrap.wrap(title, _LINE), head, *([lost] if lost and lost not in title else [])]
    figure.suptitle("\n".join(above), x=0.01, y=0.935, ha="left", va="bottom", fontsize=9, color=GREY)
    save(figure, picture)


def probe_picture(probe: Mapping[str, Any], picture: Path) -> None:
    """Draws samples per second against batch size, with the range over repeats, from a `probe.json` to a PNG file."""
    sizes = [point["batch_size"] for point in probe["curve"]]
    rates = [point["samples_per_second"] for point in probe["curve"]]
    figure = new_figure(6.4, 3.6)
    axes = figure.add_subplot()
    medians = [rate["median"] for rate in rates]
    axes.fill_between(sizes, [r["min"] for r in rates], [r["max"] for r in rates], color="#0072B2", alpha=0.18, lw=0)
    axes.plot(sizes, medians, color="#0072B2", marker="o", markersize=4, linewidth=1.8)
    axes.axhline(medians[0], color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xscale("log", base=2)
    shown = look.size_ticks(sizes, 12)
    axes.set_xticks(shown, [f"{size:,}" for size in shown])
    axes.minorticks_off()
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("batch size")
    axes.set_ylabel("samples per second")
    repeats = f"{probe['repeats']} {'repeat' if probe['repeats'] == 1 else 'repeats'}"
    facts = f"{probe['task']}, {probe['model']} on {probe['device']}"
    axes.set_title(f"{facts}: median and range of {repeats}", **TITLE)
    save(figure, picture)


def plan_picture(forecast: Mapping[str, Any], picture: Path, *, title: str = "") -> None:
    """Draws a `plan.json` to a PNG file: constant and growing batch, with `title` before their numbers of updates."""
    end = forecast["dataset_size"] * forecast["epochs"]
    first = [forecast.get("batch_size", forecast["sizes"][0])] * len(forecast["sizes"])
    workers = forecast.get("workers")
    figure = new_figure(6.8, 5.6 if workers is None else 8.6)
    upper: Any = figure
    if workers is not None:
        both: Any = figure.subfigures(2, 1, height_ratios=(5.6, 3.0), hspace=0.02)
        upper = both[0]
        _workers(both[1].subplots(), workers)
    lr, size, noise = upper.subplots(3, 1, sharex=True, gridspec_kw={"hspace": 0.16})
    rows = ((lr, "lr_before", "lr"), (size, first, "sizes"), (noise, "noise_scale_before", "noise_scale"))
    for axes, before, after in rows:
        values = forecast[before] if isinstance(before, str) else before
        _stairs(axes, forecast["starts_samples"], forecast[after], end, {**_AFTER, "label": "growing batch"})
        _stairs(axes, forecast["starts_samples"], values, end, {**_BEFORE, "label": "constant batch"})
    _powers(size, forecast["sizes"], 6)
    for axes, name in ((lr, "LR in force"), (size, "batch size"), (noise, "noise scale")):
        axes.set_ylabel(name)
    lr.set_ylim(0, None)
    lr.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    high = max(forecast["noise_scale_before"])
    noise.set_yscale("log")
    limits = max(high / 2000, 0.7 * min(forecast["noise_scale"])), 1.5 * high
    noise.set_ylim(*limits)
    shown_noise = look.log_ticks(*limits)
    noise.set_yticks(shown_noise, [f"{tick:,.6g}" for tick in shown_noise])
    noise.minorticks_off()
    noise.set_xlabel("samples")
    noise.set_xlim(0, end)
    _count_axis(noise, end)
    lr.legend(frameon=False, fontsize=8.5, loc="best")
    before, after = forecast["updates_before"], forecast["updates_after"]
    same = "as many as with a constant batch"
    counts = f"{before:,} updates, {same}" if before == after else f"{before:,} updates become {after:,}"
    lr.set_title(f"{title}: {counts}" if title else counts, **TITLE)
    save(figure, picture)


def _workers(axes: Axes, workers: Mapping[str, Any]) -> None:
    """Efficiency of an update against workers, a line for each batch size, from the key `workers` of a `plan.json`."""
    sizes = workers["sizes"]
    shown = sizes if len(sizes) <= _MOST_LINES else [sizes[round(k * (len(sizes) - 1) / 4)] for k in range(5)]
    counts = [update["workers"] for update in sizes[0]["updates"]]
    for place, size in enumerate(shown):
        updates = size["updates"]
        alone = updates[0]["workers"] * updates[0]["seconds"]
        values = [100 * alone / (update["workers"] * update["seconds"]) for update in updates]
        shade = 0.25 + 0.75 * (place + 1) / len(shown)
        label = f"batch {size['batch_size']:,}"
        axes.plot(counts, values, color=_AFTER["color"], alpha=shade, marker="o", markersize=4, lw=1.8, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set_ylim(0, None)
    axes.set_xlabel("workers")
    axes.set_ylabel(f"% of the speed of {counts[0]:,} each")
    axes.set_title(f"Efficiency of an update over {workers['link']['name']}", **TITLE)
    axes.legend(frameon=False, fontsize=8.5, loc="best")


def _stairs(axes: Axes, starts: Sequence[int], values: Sequence[float], end: int, style: Mapping[str, Any]) -> None:
    axes.step([*starts, end], [*values, values[-1]], where="post", **style)


def new_figure(width: float, height: float, *, dpi: int = 160) -> Figure:
    """An empty figure that needs no display; its size is in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, picture: Path) -> None:
    """Writes a figure, with plain axes, to a PNG file, which is replaced whole or not at all."""
    plain_axes(figure)
    _files.write(picture, lambda file: figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.12))


def plain_axes(figure: Figure) -> None:
    """Gives all axes light horizontal lines, small grey figures and no frame at the top and right."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8, colors=GREY)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The colour, line and end mark of each arm."""
    colours = look.colours(names)
    return {
        name: {
            "color": colours[name],
            "linestyle": STYLES[look.dash(name, names)],
            "linewidth": 1.8,
            "marker": MARKERS[look.symbol(place)],
        }
        for place, name in enumerate(names)
    }


def _accuracy(axes: Axes, runs: Sequence[SavedRun], key: str, style: dict[str, Any]) -> None:
    """Draws mean and band at each evaluation, at the median over runs of its samples or seconds."""
    points = list(zip(*(run.history for run in runs), strict=False))  # a run that diverged may have been stopped
    xs = [median(found[key] for found in point) for point in points]
    values = [[100 * found["test_accuracy"] for found in point] for point in points]
    means = [fmean(value) for value in values]
    axes.plot(xs, means, **style)
    if len(runs) > 1:
        bands = [(mean, stdev(value)) for mean, value in zip(means, values, strict=True)]
        lows, highs = [mean - std for mean, std in bands], [min(mean + std, 100) for mean, std in bands]
        axes.fill_between(xs, lows, highs, color=style["color"], alpha=0.15, linewidth=0)
        if len(xs) == 1:  # of one evaluation a band has no width
            axes.vlines(xs, lows, highs, color=style["color"], alpha=0.5, linewidth=2.5)


def _steps(run: SavedRun) -> tuple[list[float], list[int]]:
    """The batch size as a staircase over the samples trained on."""
    stairs = run.staircase()
    xs = [clock for clock, _, _ in stairs for _ in range(2)][1:]
    end = (run.result or {}).get("samples", run.history[-1]["samples"])
    return [*xs, end], [size for _, size, _ in stairs for _ in range(2)]


def _powers(axes: Axes, sizes: Sequence[int], most: int) -> None:
    """Puts ticks of a vertical axis at batch sizes, or at powers of two where there are many."""
    axes.set_yscale("log", base=2)
    shown = look.size_ticks(sizes, most)
    axes.set_yticks(shown, [f"{tick:,}" for tick in shown])
    axes.minorticks_off()


def _end(runs: Sequence[SavedRun], key: str) -> tuple[float, float]:
    lasts = [run.history[-1] for run in runs]
    return median(last[key] for last in lasts), fmean(100 * last["test_accuracy"] for last in lasts)


def _limits(runs: Mapping[str, Sequence[SavedRun]]) -> tuple[float, float]:
    """The range of accuracies shown: from `look.floor` to a little above the best."""
    every = [run for seeds in runs.values() for run in seeds]
    worst = min(_end(seeds, "samples")[1] for seeds in runs.values())
    seen = [100 * found["test_accuracy"] for run in every for found in run.history]
    floor = look.floor(min(100 * run.history[0]["test_accuracy"] for run in every), worst)
    return floor, min(101.0, max(seen) + 0.08 * (max(seen) - floor) + 0.5)


def _faster(compare: Comparison) -> bool:
    """Whether the headline's arm is shown to be as accurate and faster."""
    name = headline.hero(compare)
    if name is None or headline.standing(compare, name) != "good":
        return False
    low = compare.against_fixed_small[name].seconds_ratio.low
    return low is not None and low > 1


def mark_cut(axes: Axes, *, top: float = 0.05) -> None:
    """Draws two slanted strokes at the foot of a vertical axis that does not begin at 0, the upper one at `top`."""
    strokes = [(-1, -0.5), (1, 0.5)]
    axes.plot(
        (0, 0), (0.025, top), transform=axes.transAxes, marker=strokes, markersize=9, linestyle="none",
        color="#000000", clip_on=False,
    )  # fmt: skip


def _count_axis(axes: Axes, high: float) -> None:
    """Labels a horizontal axis of samples with figures that do not run into each other."""
    axes.xaxis.set_major_formatter(lambda value, _: look.short(value) if high >= 1e6 else f"{value:,.0f}")
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
    """Names each line right of the plot, at the height of its end; names that would overlap move apart.

    They may also stand beside the plot `below`.
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
        if low <= ends[name][1] <= high:  # an arm that diverged may end below a cut axis
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
    """Middles of labels that do not overlap and stand above `low`, as near to the wanted ones as possible."""
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
    """Makes room for the lines' names between the two columns of plots and at the right."""
    widest = max(label.get_window_extent().width for label in named) / figure.dpi
    left, plot, gap, right = 0.8, 2.95, 0.9 + widest, 0.25 + widest
    width = left + 2 * plot + gap + right
    figure.set_size_inches(width, figure.get_size_inches()[1])
    figure.subplots_adjust(left=left / width, right=1 - right / width, wspace=gap / plot)
