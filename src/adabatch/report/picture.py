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

from adabatch.report import headline, paired_times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with every common colour blindness; line styles tell them apart in grey.
COLOURS: Final = {"fixed-small": "#0072B2", "adaptive": "#D55E00", "uncoupled": "#CC79A7", "fixed-large": "#009E73"}
_MORE: Final = ("#000000", "#E69F00", "#56B4E9", "#8C6D31")
_STYLES: Final = {"fixed-small": "-", "adaptive": "-", "uncoupled": (0, (4, 1.5)), "fixed-large": (0, (1.2, 1.2))}
_GREY: Final = "#555555"
_LINE: Final = 118  # letters of a title beside each other


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
    figure = _figure(9.6, 4.9)
    grid = figure.add_gridspec(2, 2, height_ratios=(2.1, 1), width_ratios=(1, 1), hspace=0.14, wspace=0.52)
    accuracy = figure.add_subplot(grid[0, 0])
    size = figure.add_subplot(grid[1, 0], sharex=accuracy)
    time = figure.add_subplot(grid[:, 1])
    colours = _colours(list(runs))
    for name, records in runs.items():
        style: dict[str, Any] = {"color": colours[name], "linestyle": _STYLES.get(name, "-"), "linewidth": 1.8}
        _accuracy(accuracy, records, "samples", style)
        _accuracy(time, records, "seconds", style)
        size.plot(*_steps(records[0]), **style)
    limits = _limits(runs)
    for axes in (accuracy, time):
        axes.set_ylim(*limits)
        axes.set_ylabel("test accuracy, %")
    accuracy.tick_params(labelbottom=False)
    size.set_yscale("log", base=2)
    _powers(size, [value for records in runs.values() for value in _steps(records[0])[1]])
    size.set_ylabel("batch size")
    size.set_xlabel("samples trained on")
    size.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    time.set_xlabel("training time, seconds")
    for axes in (size, time):
        axes.locator_params(axis="x", nbins=5)
    _label_ends(accuracy, {name: _end(records, "samples") for name, records in runs.items()}, colours)
    _label_ends(time, {name: _end(records, "seconds") for name, records in runs.items()}, colours)
    accuracy.set_title("The same data ...", **_title())
    time.set_title("... in less time", **_title()) if _faster(compare) else time.set_title(
        "... against time", **_title()
    )
    n = len(compare["seeds"])
    head = f"{compare['task']}, {compare['model']} on {compare['device']}: "
    time_is = "by ratios paired by seed" if compare["against_fixed_small"] else "median"
    head += f"mean of {n} seeds, band: one standard deviation; time: {time_is}" if n > 1 else "1 seed"
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
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("batch size")
    axes.set_ylabel("samples per second")
    axes.set_title(
        f"{probe['task']}, {probe['model']} on {probe['device']}: median and range of {probe['repeats']} repeats",
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


def _colours(names: Sequence[str]) -> dict[str, str]:
    others = [name for name in names if name not in COLOURS]
    return {name: COLOURS.get(name) or _MORE[others.index(name) % len(_MORE)] for name in names}


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
    """Ticks at the smallest and the largest size and at every other power of two between."""
    ticks = sorted(set(sizes))
    ticks = ticks if len(ticks) <= 3 else [*ticks[:-1:2], *ticks[-1:]]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def _end(runs: Sequence[Mapping[str, Any]], key: str) -> tuple[float, float]:
    lasts = [run["history"][-1] for run in runs]
    return (
        median(last[key] for last in lasts),
        sum(100 * last["test_accuracy"] for last in lasts) / len(lasts),
    )


def _limits(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[float, float]:
    """The accuracies shown: up to the best, and down to 15 points below the worst arm's end, to tell ends apart."""
    worst = min(_end(records, "samples")[1] for records in runs.values())
    seen = [100 * entry["test_accuracy"] for records in runs.values() for run in records for entry in run["history"]]
    first = min(100 * run["history"][0]["test_accuracy"] for records in runs.values() for run in records)
    floor = float(max(first - 1, worst - 15, 0))
    return floor, min(101.0, max(seen) + 0.08 * (max(seen) - floor) + 0.5)


def _faster(compare: Mapping[str, Any]) -> bool:
    """Whether the arm of the headline is shown to be faster, and to be as accurate."""
    name = headline.hero(compare)
    if name is None or headline.standing(compare, name) != "good":
        return False
    low = compare["against_fixed_small"][name]["seconds_ratio"]["low"]
    return low is not None and low > 1


def _label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], colours: Mapping[str, str]) -> None:
    """Names each line right of the plot at the height of its end, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.04 / axes.get_position().height
    heights: dict[str, float] = {}
    top = math.inf
    for name, (_, accuracy) in sorted(ends.items(), key=lambda item: -item[1][1]):
        top = min(accuracy, top - gap)
        heights[name] = top
    right = max(x for x, _ in ends.values())
    for name, height in heights.items():
        axes.plot(*ends[name], marker="o", markersize=4, color=colours[name], clip_on=False)
        axes.annotate(
            f"{name} {ends[name][1]:.1f}",
            xy=ends[name],
            xytext=(right * 1.035, height),
            fontsize=8.5,
            color=colours[name],
            va="center",
            annotation_clip=False,
        )
    axes.set_xlim(0, right * 1.02)


def _title() -> dict[str, Any]:
    return {"fontsize": 10, "loc": "left", "fontweight": "bold"}
