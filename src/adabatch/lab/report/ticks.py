"""Where ticks stand on axes of pages and pictures: at round values, or at batch sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable


def sizes(found: Iterable[int], most: int) -> list[int]:
    """Ticks of a log axis of batch sizes: the sizes themselves, or powers of two where there are too many.

    Args:
        found: the sizes on the axis.
        most: ticks at the most; at least 2.
    """
    distinct = sorted(set(found))
    if len(distinct) <= most:
        return distinct
    low, high = distinct[0], distinct[-1]
    powers = [2**power for power in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    kept = powers[:: math.ceil(len(powers) / most) or 1]
    return kept if len(kept) > 1 else [int(tick) for tick in logarithmic(low, high, most)]


def logarithmic(low: float, high: float, most: int = 5) -> list[float]:
    """Ticks of a log axis: powers of ten or some between them, and evenly apart within less than a factor of ten.

    Args:
        low: of the axis, above 0.
        high: of the axis.
        most: ticks at the most.

    Returns:
        At least two, but for an axis without a length.
    """
    if not high > low:
        return [low]
    ends = math.log10(low), math.log10(high)
    powers = range(max(math.floor(ends[0]), -300), min(math.ceil(ends[1]) + 1, 300))  # that floats can hold
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = _between([digit * 10.0**power for power in powers for digit in digits], ends)
        if len(found) <= most:
            break
    stride = math.ceil(len(found) / most) or 1
    if len(found[::stride]) > 1:
        return found[::stride]
    choices = (_between(even(low, high, steps), ends) for steps in range(most - 1, 4 * most))
    return next((choice for choice in choices if len(choice) > 1), [low, high])


def even(low: float, high: float, most: int) -> list[float]:
    """Round values evenly apart, from one end to the other.

    Args:
        low: of the axis.
        high: of the axis.
        most: steps at the most.
    """
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= raw * (1 - 1e-9))
    return [count * step for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def floor(first: float, worst: float) -> float:
    """The lowest accuracy on an axis, in %: 15 points below the worst end, so that the ends can be told apart.

    Args:
        first: the lowest accuracy at the first evaluation.
        worst: the lowest accuracy at the end.

    Returns:
        A multiple of 5; 0 where cutting the axis would gain little.
    """
    low = 5.0 * math.floor(max(first - 1, worst - 15, 0) / 5)
    return low if low >= 20 else 0.0


def short(value: float) -> str:
    """A number of samples, tokens or updates as an axis has room for it: 2M, 250k."""
    for power, sign in ((9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.5g}{sign}"
    return f"{value:.5g}"


def _between(values: Iterable[float], ends: tuple[float, float]) -> list[float]:
    return [value for value in values if value > 0 and ends[0] <= math.log10(value) <= ends[1]]
