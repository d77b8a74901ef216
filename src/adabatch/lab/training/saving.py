"""Intervals of evaluations and checkpoints: durations of training, or times."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import Final

from adabatch import units
from adabatch._errors import ArgumentError, ArgumentTypeError

_TIME: Final = re.compile(r"\s*([0-9.]+)\s*(s|sec|seconds?|min|minutes?|h|hours?)\s*")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_UNCLEAR: Final = re.compile(r"\s*[0-9.]+\s*[mM]\s*")


def interval(text: str) -> float | units.Duration:
    """Reads the setting `save_every`: a time, in seconds, or a duration.

    Args:
        text: `"5 min"`, `"90 s"`, `"2 h"`, or a duration such as `"2 epochs"`.

    Raises:
        ValueError: if it is neither, or not longer than 0.
        TypeError: if it is no text.

    Example:
        >>> interval("5min"), str(interval("500 updates"))
        (300.0, '500 updates')
    """
    name, remedy = "save_every", "write a time such as '5 min', or a duration such as '2 epochs' or '500 updates'"
    if not isinstance(text, str):
        raise ArgumentTypeError(name, "must be text", value=text, remedy=remedy)
    if _UNCLEAR.fullmatch(text):  # K, M, B and T are multiples
        raise ArgumentError(name, f"must say what {text.strip()!r} is, minutes or millions", remedy=remedy)
    try:
        found = seconds if (seconds := time_of(text)) is not None else units.duration(text, name=name)
    except ValueError:
        raise ArgumentError(name, "must be a time or a duration", value=text, remedy=remedy) from None
    if not (found.count if isinstance(found, units.Duration) else found):
        raise ArgumentError(name, "must be longer than 0", value=text)
    return found


def time_of(text: str) -> float | None:
    """Reads a time such as `"5 min"`, `"90 s"` or `"2h"`, in seconds; None if it is none.

    Raises:
        ValueError: if the number in it is none.

    Example:
        >>> time_of("1.5h"), time_of("2 epochs")
        (5400.0, None)
    """
    match = _TIME.fullmatch(text)
    return float(match[1]) * _SECONDS[match[2][0]] if match else None


def next_clock(
    every: units.Duration,
    clock_of: Callable[[int], int],
    *,
    clock: int,
    updates: int,
    dataset_size: int,
    tokens_per_sample: int | None,
) -> int:
    """The clock of the next evaluation or checkpoint.

    Args:
        every: the interval, counted from the start of the training.
        clock_of: gives the clock where an update starts.
        clock: that of the last one.
        updates: the updates up to the last one.
        dataset_size: samples in an epoch.
        tokens_per_sample: None if there are no tokens.

    Returns:
        Position in the data in samples.
    """
    if every.unit == "updates":
        return clock_of((updates // int(every.count) + 1) * int(every.count))
    length = every.exact
    if every.unit == "epochs":
        length *= dataset_size
    elif every.unit == "tokens":
        length /= tokens_per_sample or 1
    return math.ceil((clock // length + 1) * length)


class Timer:
    """Tells when a time is over; `seconds` of None never are."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Starts the time anew."""
        self._end = None if self._seconds is None else time.monotonic() + self._seconds

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return self._end is not None and time.monotonic() >= self._end
