"""Durations: lengths of training in epochs, samples, updates or tokens.

A `Duration` stays symbolic ("20 epochs") until a `Plan` resolves it, so the same schedule serves every data set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from adabatch import _checks
from adabatch._errors import ArgumentError

UNITS: Final = ("epochs", "samples", "updates", "tokens")
_MULTIPLES: Final = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_TEXT: Final = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]{1,3})?)\s*([KMBT]|[kmbt](?![a-z])|)\s*([a-z]*)\s*")


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of training, not yet tied to a data set.

    Args:
        count: the number of units, finite and at least 0. Only epochs and tokens may be fractional.
        unit: `"epochs"`, `"samples"`, `"updates"` or `"tokens"`.

    Raises:
        ValueError: if `count` is negative, not finite or fractional where it must be whole, or `unit` is unknown.
        TypeError: if `count` is not a number.
    """

    count: int | float
    unit: str

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ArgumentError(
                "unit", f"must be one of {', '.join(UNITS)}", value=self.unit, remedy="write for example `epochs(20)`"
            )
        number = _checks.finite("count", self.count, minimum=0, remedy="durations run forward")
        if self.unit in ("samples", "updates") and int(number) != number:
            raise ArgumentError(
                "count", f"of {self.unit} must be a whole number", value=self.count, remedy="use `epochs` for fractions"
            )
        object.__setattr__(self, "count", int(number) if int(number) == number else number)

    @property
    def exact(self) -> Fraction:
        """The count as an exact fraction; a float counts as the decimal that it prints as (0.1 is 1/10)."""
        return Fraction(repr(self.count)) if isinstance(self.count, float) else Fraction(self.count)

    def __str__(self) -> str:
        count = f"{self.count:,}" if isinstance(self.count, int) else f"{self.count:g}"
        return f"{count} {self.unit[:-1] if self.count == 1 else self.unit}"


def epochs(count: int | float) -> Duration:
    """`count` passes over the data set; may be fractional."""
    return Duration(count, "epochs")


def samples(count: int) -> Duration:
    """`count` samples."""
    return Duration(count, "samples")


def updates(count: int) -> Duration:
    """`count` optimizer updates."""
    return Duration(count, "updates")


def tokens(count: int | float) -> Duration:
    """`count` tokens; needs `tokens_per_sample` when a plan is made."""
    return Duration(count, "tokens")


def count(text: str, *, name: str = "count") -> Fraction:
    """The number in text such as `"250B"` (K, M, B, T: thousand, million, billion, trillion).

    Args:
        text: a non-negative decimal number with an optional multiple.
        name: the argument to name in an error.

    Raises:
        ValueError: if the text is not such a number.
    """
    match = _TEXT.fullmatch(text)
    if match is None or match[3]:
        raise ArgumentError(name, "must be a number such as 768 or 250B", value=text)
    return _number(match, name=name, text=text)


def duration(text: str, *, unit: str = "epochs", name: str = "duration") -> Duration:
    """Reads a duration from text: `"20"` (in `unit`), `"20 epochs"`, `"500 updates"`, `"250B tokens"`.

    Args:
        text: a number, an optional K, M, B or T, and an optional unit.
        unit: the unit of a bare number.
        name: the argument to name in an error.

    Raises:
        ValueError: if the text has no number or an unknown unit.

    Example:
        >>> str(duration("250B tokens"))
        '250,000,000,000 tokens'
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        rule = "must be a number and a unit, such as '20 epochs', '500 updates' or '2M samples' (K, M, B, T)"
        raise ArgumentError(name, rule, value=text)
    found = match[3] or unit
    named = {short: full for full in UNITS for short in (full, full[:-1])}
    if found not in named:
        raise ArgumentError(name, f"must be in {', '.join(UNITS)}", got=f"{found!r} in {text!r}")
    number = _number(match, name=name, text=text)
    return Duration(number.numerator if number.denominator == 1 else float(number), named[found])


def _number(match: re.Match[str], *, name: str, text: str) -> Fraction:
    try:
        return Fraction(match[1]) * _MULTIPLES[match[2].upper()]
    except ValueError:
        raise ArgumentError(name, "must be a number such as 768 or 250B", value=text) from None
