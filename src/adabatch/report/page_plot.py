"""What the charts of a page share: colours, traces, layouts and ticks, as plotly's plain JSON.

Every trace carries its arm in `meta`, so that one legend on the page shows and hides it in all charts. Colours of
text and grid belong to the theme; the page adds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from adabatch.report import picture

Chart = dict[str, Any]
Numbers = Sequence[float]

INK: Final = "#000000"  # the page replaces it by the colour of its text
_DASHES: Final = {"uncoupled": "dash", "fixed-large": "dot"}
_SYMBOLS: Final = ("circle", "diamond", "square", "triangle-up", "cross", "star")
_BAND: Final = 0.16


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each arm: the same as in the PNG picture, told apart with every common colour blindness."""
    return picture._colours(names)


def dash(name: str) -> str:
    """The line style of an arm, so that lines differ in grey too."""
    return _DASHES.get(name, "solid")


def symbol(place: int) -> str:
    """The mark of the arm at that place."""
    return _SYMBOLS[place % len(_SYMBOLS)]


def faint(colour: str) -> str:
    """A colour as it fills a band."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{_BAND})"


def trace(name: str, xs: Numbers, ys: Sequence[Any], text: Sequence[str] | None = None) -> Chart:
    """A trace of an arm.

    Args:
        name: of the arm.
        xs: where its points lie.
        ys: their heights.
        text: what each point answers to the pointer; None: nothing.
    """
    made: Chart = {"type": "scatter", "name": name, "meta": {"arm": name}, "x": list(xs), "y": list(ys)}
    made["showlegend"] = False
    if text is None:
        return made | {"hoverinfo": "skip"}
    return made | {"text": list(text), "hovertemplate": "%{text}<extra></extra>"}


def layout(title: str, *, left: int = 52, right: int = 14, top: int = 12, bottom: int = 44) -> Chart:
    """A layout with one pair of axes.

    Args:
        title: of the x axis.
        left: margin in pixels.
        right: margin in pixels.
        top: margin in pixels.
        bottom: margin in pixels.
    """
    return {
        "margin": {"l": left, "r": right, "t": top, "b": bottom},
        "hovermode": "closest",
        "showlegend": False,
        "xaxis": {"title": {"text": title, "standoff": 8}, "zeroline": False, "showgrid": False, "showline": True},
        "yaxis": {"zeroline": False, "showline": False, "automargin": True},
    }


def vertical(x: float, style: str) -> Chart:
    """A line across the whole height."""
    line = {"color": "rgba(128,128,128,.75)", "width": 1.2, "dash": style}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line, "layer": "below"}


def sizes_axis(sizes: Sequence[int], *, most: int = 8, margin: float = 0.06) -> Chart:
    """A log axis with ticks at batch sizes.

    Args:
        sizes: that occur; ticks stand at them.
        most: ticks at the most.
        margin: at both ends, as a share of the length.
    """
    kept = sorted(set(sizes))
    while len(kept) > most:
        kept = [*kept[:-1:2], kept[-1]] if len(kept) % 2 == 0 else kept[::2]
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    room = margin * (high - low) or 0.3
    ticks = {"tickmode": "array", "tickvals": kept, "ticktext": [f"{size:,}" for size in kept]}
    return {"type": "log", "range": [low - room, high + room], **ticks}


def log_axis(values: Numbers, *, suffix: str = "", room: float = 0.06) -> Chart:
    """A log axis with ticks at 1, 2 and 5 times powers of ten, fewer of them where there are many.

    Args:
        values: that it holds, above 0.
        suffix: behind the text of each tick.
        room: at both ends, as a share of the length.
    """
    low, high = min(values), max(values)
    margin = room * (math.log10(high) - math.log10(low)) or 0.3
    ends = [math.log10(low) - margin, math.log10(high) + margin]
    powers = range(max(math.floor(ends[0]), -300), min(math.ceil(ends[1]) + 1, 300))  # that floats can hold
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        ticks = [tick for tick in ticks if ends[0] <= math.log10(tick) <= ends[1]]
        if len(ticks) <= 5:
            break
    ticks = ticks if len(ticks) > 1 else sorted({low, high})
    text = [f"{tick:.3g}{suffix}" for tick in ticks]
    return {"type": "log", "range": ends, "tickmode": "array", "tickvals": ticks, "ticktext": text}


def mark(value: Mapping[str, Any], **changes: Any) -> Chart:
    """A copy of a part of a trace with changes."""
    return {**value, **changes}
