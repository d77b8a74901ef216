"""LRs against the clock, as users give them: read and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from itertools import pairwise
from numbers import Integral
from typing import Any

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.units import Duration

LRFunction = Callable[[int], float]
LRTable = Mapping[Duration | int, float] | Iterable[tuple[Duration | int, float]]


def read_table(lr: Any) -> list[tuple[Duration | int, float]]:
    """The pairs of an LR table: a threshold, and the LR from there on.

    Args:
        lr: an `LRTable`.

    Raises:
        ValueError: if an LR is negative or not finite, or thresholds do not begin at 0 and increase.
        TypeError: if it is no table.
    """
    if isinstance(lr, str) or not isinstance(lr, Iterable):
        rule = "must be a function of samples or a table such as {0: 0.1, 5000: 0.02}"
        raise ArgumentTypeError("lr", rule, value=lr)
    pairs = [_pair(item) for item in (lr.items() if isinstance(lr, Mapping) else lr)]
    if not pairs or _count(pairs[0][0]) != 0:
        raise ArgumentError("lr", "must begin at threshold 0", got=str(pairs[0][0]) if pairs else "nothing")
    for (before, _), (after, _) in pairwise(pairs):
        if _count(after) == 0 or (_unit(before) == _unit(after) and _count(after) <= _count(before)):
            raise ArgumentError("lr", "must have increasing thresholds", got=f"{after} after {before}")
    return pairs


def checked_lr(lr: Any, where: str) -> float:
    """An LR as a float.

    Raises:
        ValueError: if it is negative or not finite.
        TypeError: if it is no number.
    """
    return float(_checks.finite("lr", lr, minimum=0, remedy=f"found at {where}"))


def check_peak(peak: float) -> None:
    """Checks that the highest LR is above 0.

    Raises:
        ValueError: if it is 0.
    """
    if peak == 0:
        raise ArgumentError(
            "lr", "must be above 0 somewhere", got="0 throughout", remedy="there is no LR to exchange for batch size"
        )


def _pair(item: Any) -> tuple[Duration | int, float]:
    try:
        at, lr = item
    except (TypeError, ValueError):
        raise ArgumentTypeError("lr", "must be pairs of a threshold and an LR", value=item) from None
    if isinstance(at, Duration):
        if at.unit == "updates":
            raise ArgumentError(
                "lr",
                "must have thresholds in epochs, samples or tokens",
                got=f"{at}: the number of updates is what this schedule changes",
                remedy="give samples, or a torch LR scheduler that counts updates, with `counts`",
            )
    elif isinstance(at, bool) or not isinstance(at, Integral) or at < 0:
        raise ArgumentTypeError("lr", "must have whole numbers of samples or Durations as thresholds", value=at)
    return at, checked_lr(lr, str(at))


def _count(at: Duration | int) -> Fraction | int:
    return at.exact if isinstance(at, Duration) else at


def _unit(at: Duration | int) -> str:
    return at.unit if isinstance(at, Duration) else "samples"
