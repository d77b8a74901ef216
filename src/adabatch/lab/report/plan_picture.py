"""Picture of a forecast: LR, batch size and noise scale against samples, before and after, as a PNG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from adabatch.lab.report import ticks
from adabatch.lab.report.picture import _count_axis, _figure, _save, _title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BEFORE: Final[dict[str, Any]] = {"color": "#0072B2", "linestyle": (0, (4, 1.5)), "linewidth": 1.6}
_AFTER: Final[dict[str, Any]] = {"color": "#D55E00", "linestyle": "-", "linewidth": 1.8}


def plan_picture(forecast: Mapping[str, Any], picture: Path, *, title: str = "") -> None:
    """Draws what `adabatch plan --json` prints: the LR schedule at its constant batch, and what becomes of it.

    Args:
        forecast: with `starts_samples`, `sizes`, `lr`, `lr_before`, `noise_scale`, `noise_scale_before`,
            `updates_before`, `updates_after`, `dataset_size` and `epochs`.
        picture: the PNG file to write; replaced whole or not at all.
        title: in front of the counts of updates.
    """
    end = forecast["dataset_size"] * forecast["epochs"]
    first = [forecast["sizes"][0]] * len(forecast["sizes"])
    figure = _figure(6.8, 5.6)
    lr, size, noise = figure.subplots(3, 1, sharex=True, gridspec_kw={"hspace": 0.16})
    rows = ((lr, "lr_before", "lr"), (size, first, "sizes"), (noise, "noise_scale_before", "noise_scale"))
    for axes, before, after in rows:
        values = forecast[before] if isinstance(before, str) else before
        _stairs(axes, forecast["starts_samples"], forecast[after], end, {**_AFTER, "label": "growing batch"})
        _stairs(axes, forecast["starts_samples"], values, end, {**_BEFORE, "label": "constant batch"})
    size.set_yscale("log", base=2)
    shown = ticks.sizes(forecast["sizes"], 6)
    size.set_yticks(shown, [f"{tick:,}" for tick in shown])
    size.minorticks_off()
    for axes, name in ((lr, "LR in force"), (size, "batch size"), (noise, "noise scale")):
        axes.set_ylabel(name)
    lr.set_ylim(0, None)
    lr.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    high = max(forecast["noise_scale_before"])
    noise.set_yscale("log")
    limits = max(high / 2000, 0.7 * min(forecast["noise_scale"])), 1.5 * high
    noise.set_ylim(*limits)
    shown_noise = ticks.logarithmic(*limits)
    noise.set_yticks(shown_noise, [f"{tick:,.6g}" for tick in shown_noise])
    noise.minorticks_off()
    noise.set_xlabel("samples")
    noise.set_xlim(0, end)
    _count_axis(noise, end)
    lr.legend(frameon=False, fontsize=8.5, loc="best")
    before, after = forecast["updates_before"], forecast["updates_after"]
    same = "as many as with a constant batch"
    counts = f"{before:,} updates, {same}" if before == after else f"{before:,} updates become {after:,}"
    lr.set_title(f"{title}: {counts}" if title else counts, **_title())
    _save(figure, picture)


def _stairs(axes: Axes, starts: Sequence[int], values: Sequence[float], end: int, style: Mapping[str, Any]) -> None:
    axes.step([*starts, end], [*values, values[-1]], where="post", **style)
