"""How arms look on pages and in pictures: a colour, a dash and a mark for each, so that ten can be told apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

# Okabe and Ito's colours, told apart with every common colour blindness; dashes tell them apart in grey.
COLOURS: Final = {"fixed-small": "#0072B2", "adaptive": "#D55E00", "uncoupled": "#CC79A7", "fixed-large": "#009E73"}
_DASHES: Final = {"uncoupled": "dash", "fixed-large": "dot"}
# More of them for a user's own arms, as far from those and from each other as a white ground allows.
_OWN: Final = ("#000000", "#9806F9", "#741B11", "#977EFC", "#161698", "#500B50")
_OWN_DASHES: Final = ("solid", "dash", "dashdot", "dot", "longdash")
# Their places are taken by these where the ground is dark.
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
}
_SYMBOLS: Final = (
    "circle",
    "diamond",
    "square",
    "triangle-up",
    "cross",
    "star",
    "triangle-down",
    "x",
    "pentagon",
    "hourglass",
)


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each arm, on a light ground; the first ten differ.

    A standard arm has its own; the others take, in their order, what no standard arm among them has.

    Args:
        names: of the arms.
    """
    names = list(names)
    free = [*_OWN, *(colour for name, colour in COLOURS.items() if name not in names)]
    own = _own(names)
    return {name: COLOURS.get(name) or free[own.index(name) % len(free)] for name in names}


def dash(name: str, names: Iterable[str] = ()) -> str:
    """The dash of an arm's lines.

    Args:
        name: of the arm.
        names: of all arms beside it; own arms take turns.

    Returns:
        `"solid"`, `"dash"`, `"dot"`, `"dashdot"` or `"longdash"`.
    """
    own = _own(names)
    if name not in own:
        return _DASHES.get(name, "solid")
    place = own.index(name)
    return _OWN_DASHES[(place + place // 10) % len(_OWN_DASHES)]


def symbol(place: int) -> str:
    """The mark of the arm at that place; the first ten differ."""
    return _SYMBOLS[place % len(_SYMBOLS)]


def _own(names: Iterable[str]) -> Sequence[str]:
    return [name for name in names if name not in COLOURS]
