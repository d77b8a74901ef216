"""Traces, layouts and axes of charts: the subset of plotly's JSON that `page_assets/draw.js` draws.

A chart is `{"traces": [...], "layout": {...}}`. Every trace has its arm in `meta`: one legend on the page shows and
hides it in all charts, and the page's style sheet colours it, on light and dark grounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from adabatch.lab.report import look

Chart = dict[str, Any]
Numbers = Sequence[float]


def trace(name: str, xs: Numbers, ys: Sequence[Any], text: Sequence[str] | None = None) -> Chart:
    """A trace of an arm; `text`, with `<b>` and `<br>`, is shown when the pointer is at a point."""
    made: Chart = {"type": "scatter", "name": name, "meta": {"arm": name}, "x": list(xs), "y": list(ys)}
    return made if text is None else made | {"text": list(text)}


def layout(title: str, *, left: int = 52, right: int = 14, top: int = 12, bottom: int = 44) -> Chart:
    """A layout with one pair of axes; `title` is the x axis's, and margins are in pixels."""
    margin = {"l": left, "r": right, "t": top, "b": bottom}
    return {"margin": margin, "xaxis": {"title": {"text": title}}, "yaxis": {}}


def vertical(x: float, style: str) -> Chart:
    """A vertical line across the whole height."""
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 1.2, "dash": style}}


def sizes_axis(sizes: Sequence[int], *, most: int = 8, margin: float = 0.06) -> Chart:
    """A log axis with ticks at batch sizes, or at powers of two if there are too many."""
    kept = look.size_ticks(sizes, most)
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    room = margin * (high - low) or 0.3
    text = [f"{size:,}" for size in kept]
    return {"type": "log", "range": [low - room, high + room], "tickvals": kept, "ticktext": text}


def log_axis(
    values: Numbers, *, suffix: str = "", room: float = 0.06, form: Callable[[float], str] = "{:.3g}".format
) -> Chart:
    """A log axis for values above 0, with ticks at round ones; `room` at each end is a share of its length."""
    low, high = min(values), max(values)
    length = math.log10(high) - math.log10(low)
    margin = room * length if length > 1e-6 else 0.3
    ends = [math.log10(low) - margin, math.log10(high) + margin]
    low, high = (10 ** min(max(end, -300.0), 300.0) for end in ends) if length > 1e-6 else (low, low)  # of floats
    found = look.log_ticks(low, high)
    text = [f"{form(tick)}{suffix}" for tick in found]
    return {"type": "log", "range": ends, "tickvals": found, "ticktext": text}


def axis(kind: str, place: int) -> str:
    """The name of an axis of a kind such as `"yaxis"`, as a layout and traces have it; the first has no number."""
    return kind if place == 0 else f"{kind}{place + 1}"
