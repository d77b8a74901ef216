"""How arms, lines and axes look on pages and in pictures.

Each arm has a colour, a dash and a symbol, so that ten can be told apart. Ticks stand at round values or batch sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

# Okabe and Ito's colours differ for every common colour blindness; the dashes differ in grey.
COLOURS: Final = {"fixed-small": "#0072B2", "adaptive": "#D55E00", "uncoupled": "#CC79A7", "fixed-large": "#009E73"}
_DASHES: Final = {"uncoupled": "dash", "fixed-large": "dot"}
# For a user's own arms: as far from those and from each other as a white ground allows.
_OWN: Final = ("#000000", "#9806F9", "#741B11", "#977EFC", "#161698", "#500B50")
_OWN_DASHES: Final = ("solid", "dash", "dashdot", "dot", "longdash")
# For values in an order, such as batch sizes: from dark to light, all to be seen on a white ground.
_RAMP: Final = (
    "#1A1042", "#36106B", "#52137C", "#6E1E81", "#8B2981", "#A6317D", "#C43C75", "#DF4A68", "#F2625D", "#FB835F",
)  # fmt: skip
# The colours that replace them on a dark ground.
ON_DARK: Final = {
    "#0072B2": "#3A86D8",
    "#D55E00": "#F2722B",
    "#CC79A7": "#E59ACB",
    "#009E73": "#3CCB7F",
    "#000000": "#E8EBEE",
    "#9806F9": "#8756FB",
    "#741B11": "#916B46",
    "#977EFC": "#E9DC67",
    "#161698": "#B0F906",
    "#500B50": "#C6399C",
    **dict(
        zip(
            _RAMP,
            (
                "#A1307E",
                "#B83779",
                "#D0416F",
                "#E55064",
                "#F4675C",
                "#FB835F",
                "#FE9D6C",
                "#FEB97F",
                "#FED597",
                "#FCF0B2",
            ),
            strict=True,
        )
    ),
}
_SYMBOLS: Final = (
    "circle", "diamond", "square", "triangle-up", "cross", "star", "triangle-down", "x", "pentagon", "hourglass",
)  # fmt: skip


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each arm, on a light ground; the first ten differ.

    A standard arm has its own. The others take, in order, those for own arms, then those of absent standard arms.
    """
    names = list(names)
    free = [*_OWN, *(colour for name, colour in COLOURS.items() if name not in names)]
    own = _own(names)
    return {name: COLOURS.get(name) or free[own.index(name) % len(free)] for name in names}


def palette(names: Iterable[str]) -> dict[str, str]:
    """A colour for each line that is no arm, on a light ground; any ten in a row differ."""
    found = (*COLOURS.values(), *_OWN)
    return {name: found[place % len(found)] for place, name in enumerate(names)}


def ramp(names: Iterable[str]) -> dict[str, str]:
    """Colours in an order, from dark to light, on a light ground; up to ten differ."""
    names = list(names)
    last = len(_RAMP) - 1
    return {name: _RAMP[round(place * last / max(len(names) - 1, 1))] for place, name in enumerate(names)}


def dash(name: str, names: Iterable[str] = ()) -> str:
    """The dash of an arm's lines: `"solid"`, `"dash"`, `"dot"`, `"dashdot"` or `"longdash"`."""
    own = _own(names)
    if name not in own:
        return _DASHES.get(name, "solid")
    place = own.index(name)
    return _OWN_DASHES[(place + place // 10) % len(_OWN_DASHES)]


def symbol(place: int) -> str:
    """The symbol of the arm at `place`; the first ten differ."""
    return _SYMBOLS[place % len(_SYMBOLS)]


def _own(names: Iterable[str]) -> Sequence[str]:
    return [name for name in names if name not in COLOURS]


def size_ticks(found: Iterable[int], most: int) -> list[int]:
    """At most `most` ticks of a log axis: the batch sizes on it, or powers of two if there are too many."""
    distinct = sorted(set(found))
    if len(distinct) <= most:
        return distinct
    low, high = distinct[0], distinct[-1]
    powers = [2**power for power in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    kept = powers[:: math.ceil(len(powers) / most) or 1]
    return kept if len(kept) > 1 else [int(tick) for tick in log_ticks(low, high, most)]


def log_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """From two to `most` ticks of a log axis; one if `low` and `high` are equal.

    They are powers of ten and some between; on an axis much shorter than a factor of ten they are evenly spaced.
    """
    if not high > low:
        return [low]
    ends = math.log10(low), math.log10(high)
    powers = range(max(math.floor(ends[0]), -300), min(math.ceil(ends[1]) + 1, 300))  # the range of floats
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = _between([digit * 10.0**power for power in powers for digit in digits], ends)
        if len(found) <= most:
            break
    stride = math.ceil(len(found) / most) or 1
    if len(found[::stride]) > 1:
        return found[::stride]
    choices = (_between(even_ticks(low, high, steps), ends) for steps in range(most - 1, 4 * most))
    return next((choice for choice in choices if len(choice) > 1), [low, high])


def even_ticks(low: float, high: float, most: int) -> list[float]:
    """Evenly spaced round values from `low` to `high`, in at most `most` steps."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= raw * (1 - 1e-9))
    return [count * step for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def floor(first: float, worst: float) -> float:
    """The lowest accuracy on an axis, in %: 15 points below the worst end, so that the ends can be told apart.

    It is a multiple of 5, and 0 where cutting the axis would gain little. `first` is the lowest first accuracy.
    """
    low = 5.0 * math.floor(max(first - 1, worst - 15, 0) / 5)
    return low if low >= 20 else 0.0


def short(value: float) -> str:
    """A number of samples, tokens or updates, short enough for an axis: 2M, 250k."""
    for power, sign in ((9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.5g}{sign}"
    return f"{value:.5g}"


def _between(values: Iterable[float], ends: tuple[float, float]) -> list[float]:
    return [value for value in values if value > 0 and ends[0] <= math.log10(value) <= ends[1]]
