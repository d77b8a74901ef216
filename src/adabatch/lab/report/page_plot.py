"""What the charts of a page share: traces, layouts and ticks.

A chart is `{"traces": [...], "layout": {...}}` in the words of plotly's JSON, of which `page_assets/draw.js` knows what
the charts here use and nothing else. Every trace carries its arm in `meta`: one legend on the page shows and hides it
in all charts, and the page's style gives it its colour, for a light and for a dark ground.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adabatch.lab.report import look, ticks

Chart = dict[str, Any]
Numbers = Sequence[float]


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each arm on a light ground, the same as in the PNG picture; see `look`."""
    return look.colours(names)


def dash(name: str, names: Iterable[str] = ()) -> str:
    """The dash of an arm's lines among those arms; see `look`."""
    return look.dash(name, names)


def symbol(place: int) -> str:
    """The mark of the arm at that place; see `look`."""
    return look.symbol(place)


def trace(name: str, xs: Numbers, ys: Sequence[Any], text: Sequence[str] | None = None) -> Chart:
    """A trace of an arm.

    Args:
        name: of the arm.
        xs: where its points lie.
        ys: their heights.
        text: what each point answers to the pointer; of markup `<b>` and `<br>` count. None: nothing.
    """
    made: Chart = {"type": "scatter", "name": name, "meta": {"arm": name}, "x": list(xs), "y": list(ys)}
    return made if text is None else made | {"text": list(text)}


def layout(title: str, *, left: int = 52, right: int = 14, top: int = 12, bottom: int = 44) -> Chart:
    """A layout with one pair of axes.

    Args:
        title: of the x axis.
        left: margin in pixels; it grows with the texts of the ticks.
        right: margin in pixels.
        top: margin in pixels.
        bottom: margin in pixels.
    """
    return {
        "margin": {"l": left, "r": right, "t": top, "b": bottom},
        "xaxis": {"title": {"text": title}},
        "yaxis": {},
    }


def vertical(x: float, style: str) -> Chart:
    """A line across the whole height."""
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 1.2, "dash": style}}


def sizes_axis(sizes: Sequence[int], *, most: int = 8, margin: float = 0.06) -> Chart:
    """A log axis with ticks at batch sizes.

    Args:
        sizes: that occur; ticks stand at them, or at powers of two where there are too many.
        most: ticks at the most.
        margin: at both ends, as a share of the length.
    """
    kept = ticks.sizes(sizes, most)
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    room = margin * (high - low) or 0.3
    return {
        "type": "log",
        "range": [low - room, high + room],
        "tickvals": kept,
        "ticktext": [f"{size:,}" for size in kept],
    }


def log_axis(values: Numbers, *, suffix: str = "", room: float = 0.06) -> Chart:
    """A log axis with ticks at round values.

    Args:
        values: that it holds, above 0.
        suffix: behind the text of each tick.
        room: at both ends, as a share of the length.
    """
    low, high = min(values), max(values)
    length = math.log10(high) - math.log10(low)
    margin = room * length if length > 1e-6 else 0.3
    ends = [math.log10(low) - margin, math.log10(high) + margin]
    low, high = (10 ** min(max(end, -300.0), 300.0) for end in ends) if length > 1e-6 else (low, low)  # of floats
    found = ticks.logarithmic(low, high)
    text = [f"{tick:.3g}{suffix}" for tick in found]
    return {"type": "log", "range": ends, "tickvals": found, "ticktext": text}


def mark(value: Mapping[str, Any], **changes: Any) -> Chart:
    """A copy of a part of a trace with changes."""
    return {**value, **changes}
