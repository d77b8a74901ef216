"""Pictures of the recipes, PNG files by matplotlib, drawn from the result files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from adabatch.lab.report.picture import GREY, mark_cut, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours differ for every common colour blindness; the line styles differ in grey.
_STYLES: Final[dict[str, dict[str, Any]]] = {
    "decay": {"color": "#0072B2", "linestyle": "-"},
    "hybrid": {"color": "#009E73", "linestyle": (0, (5, 1.5))},
    "increase": {"color": "#D55E00", "linestyle": (0, (1.5, 1.2))},
    "small": {"color": "#0072B2", "linestyle": "-"},
    "ramp": {"color": "#D55E00", "linestyle": "-"},
    "large": {"color": "#009E73", "linestyle": (0, (1.5, 1.2))},
    "by-updates": {"color": "#CC79A7", "linestyle": (0, (4, 1.2, 1, 1.2))},
    "lr": {"color": "#009E73", "linestyle": (0, (5, 1.5))},
    "momentum": {"color": "#CC79A7", "linestyle": (0, (4, 1.2, 1, 1.2))},
    "uncoupled": {"color": "#CC79A7", "linestyle": (0, (4, 1.2, 1, 1.2))},
}


def dont_decay_picture(found: Mapping[str, Any], picture: Path) -> None:
    """Draws training loss and test accuracy against epochs, and training loss against updates, for each optimizer."""
    optimizers = found["optimizers"]
    figure = new_figure(2.75 * len(optimizers) + 0.6, 8.6, dpi=140)
    grid = figure.subplots(4, len(optimizers), squeeze=False, sharey="row")
    for column, (name, optimizer) in enumerate(optimizers.items()):
        loss, accuracy, loss_by_updates, accuracy_by_updates = grid[:, column]
        for arm, of in optimizer["arms"].items():
            updates, curves = of["updates_by_epoch"], of["curves"]
            epochs = range(1, len(updates) + 1)
            _line(loss, epochs, curves["train_loss"], arm)
            _line(accuracy, epochs, curves["test_accuracy"], arm, scale=100)
            _line(loss_by_updates, updates, curves["train_loss"], arm)
            _line(accuracy_by_updates, updates, curves["test_accuracy"], arm, scale=100)
        loss.set_title(name, fontsize=10, fontweight="bold", loc="left")
        for upper, lower in ((loss, accuracy), (loss_by_updates, accuracy_by_updates)):
            lower.sharex(upper)
            upper.tick_params(labelbottom=False)
        accuracy.set_xlabel("epochs")
        accuracy_by_updates.set_xlabel("updates")
        accuracy_by_updates.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        accuracy_by_updates.locator_params(axis="x", nbins=4)
    for row, axes in enumerate(grid[:, 0]):
        axes.set_ylabel("test accuracy, %, axis cut" if row % 2 else "training loss")
    for axes in grid[1::2].flat:
        mark_cut(axes, top=0.055)
    n = found["seeds"]
    _legend(figure, grid[0, 0], f"Fashion-MNIST in small: mean of {n} seeds, band: one standard deviation")
    _save(figure, picture)


def scaled_start_picture(found: Mapping[str, Any], picture: Path) -> None:
    """Draws training loss against epochs and updates, and test accuracy against updates, for each start."""
    figure = new_figure(9.6, 3.6, dpi=140)
    loss, by_updates, accuracy = figure.subplots(1, 3)
    for arm, of in found["arms"].items():
        _line(loss, range(1, len(of["updates_by_epoch"]) + 1), of["curves"]["train_loss"], arm)
        _line(by_updates, of["updates_by_epoch"], of["curves"]["train_loss"], arm)
        _line(accuracy, of["updates_by_epoch"], of["curves"]["test_accuracy"], arm, scale=100)
    loss.set_xlabel("epochs")
    loss.set_ylabel("training loss")
    accuracy.set_ylabel("test accuracy, %, axis cut")
    for axes in (by_updates, accuracy):
        axes.set_xscale("log")
        axes.set_xlabel("updates")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    by_updates.sharey(loss)
    mark_cut(accuracy, top=0.055)
    n = found["seeds"]
    _legend(figure, loss, f"Larger starts, Fashion-MNIST in small: mean of {n} seeds, band: one standard deviation")
    _save(figure, picture)


def gpt_ramp_picture(found: Mapping[str, Any], picture: Path) -> None:
    """Draws test loss against tokens and CPU time, and batch size and LR against tokens."""
    figure = new_figure(9.6, 5.2, dpi=140)
    grid = figure.subplots(2, 2, height_ratios=(2.2, 1))
    (by_tokens, by_time), (size, lr) = grid
    for arm, of in found["arms"].items():
        _line(by_tokens, of["tokens"], of["curves"]["test_loss"], arm)
        _line(by_time, of["curves"]["cpu_seconds"]["mean"], of["curves"]["test_loss"], arm)
        sizes = [of["batch_sizes"][0], *of["batch_sizes"]]
        size.step([0, *of["tokens"]], sizes, where="pre", linewidth=1.5, **_STYLES[arm])
        lr.plot(*_with_jumps(of["tokens"], of["lr_in_force"], of["batch_sizes"]), linewidth=1.5, **_STYLES[arm])
    ends = [of["curves"]["test_loss"]["mean"] for of in found["arms"].values()]
    middles = [curve[len(curve) // 4] for curve in ends]
    by_tokens.set_ylim(min(min(curve) for curve in ends) - 0.03, max(middles))
    by_time.sharey(by_tokens)
    by_tokens.set_ylabel("test loss, nats per character")
    by_time.set_xlabel("CPU seconds of one thread")
    every = sorted({size for of in found["arms"].values() for size in of["batch_sizes"]})
    if len(every) <= 6:
        size.set_yticks(every)
    size.set_ylabel("batch size, sequences")
    lr.set_ylabel("LR in force")
    for axes in (by_tokens, size, lr):
        axes.set_xlabel("tokens")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=5)
    n = found["seeds"]
    _legend(figure, by_tokens, f"A small GPT on tiny Shakespeare: mean of {n} seeds, band: one standard deviation")
    _save(figure, picture)


def _with_jumps(xs: Sequence[float], values: Sequence[float], sizes: Sequence[int]) -> tuple[list[float], list[float]]:
    """Values at evaluations as a line that jumps right after an evaluation if the batch grew before the next."""
    places, heights = [xs[0]], [values[0]]
    for before, place in pairwise(range(len(xs))):
        if sizes[place] != sizes[before]:
            places.append(xs[before])
            heights.append(values[place])
        places.append(xs[place])
        heights.append(values[place])
    return places, heights


def _line(axes: Axes, xs: Any, curve: Mapping[str, list[float]], arm: str, *, scale: float = 1.0) -> None:
    style = _STYLES[arm]
    mean = [scale * value for value in curve["mean"]]
    low = [scale * (value - std) for value, std in zip(curve["mean"], curve["std"], strict=True)]
    high = [scale * (value + std) for value, std in zip(curve["mean"], curve["std"], strict=True)]
    axes.fill_between(xs, low, high, color=style["color"], alpha=0.13, linewidth=0)
    axes.plot(xs, mean, label=arm, linewidth=1.7, **style)


def _legend(figure: Figure, axes: Axes, title: str) -> None:
    """Names the lines in a row above the plots, below the title."""
    handles, labels = axes.get_legend_handles_labels()
    height = figure.get_figheight()
    figure.text(0.01, 1 - 0.06 / height, title, ha="left", va="top", fontsize=9, color=GREY)
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - 0.2 / height),
        ncols=len(labels),
        frameon=False,
        fontsize=9,
        handlelength=3.2,
    )


def _save(figure: Figure, picture: Path) -> None:
    plain_axes(figure)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.45 / figure.get_figheight()))
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
