"""Absolute batch sizes from given thresholds on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from adabatch import _checks, units
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.schedules._base import Context, Schedule, Stage
from adabatch.units import Duration


@dataclass(frozen=True, init=False)
class steps(Schedule):  # noqa: N801
    """Set the batch size at given thresholds, up or down.

    Args:
        changes: the thresholds and the size in samples from each of them on, as a mapping, as pairs, or as text such as
            `"0:768 250B:1536"` (K, M, B and T stand for thousand to trillion; spaces or commas between). A threshold is
            a Duration or a bare number in `unit`; the first is 0, and they increase.
        unit: the unit of bare thresholds: `"epochs"`, `"samples"`, `"updates"` or `"tokens"`.

    Raises:
        ValueError: if the text cannot be read, there is no threshold, the first is not 0, they do not increase
            (those of different units: when a plan is made), or a size is below 1.
        TypeError: if a threshold or a size is no number.

    Example:
        >>> from adabatch import epochs
        >>> steps({0: 128, epochs(60): 640, epochs(120): 3200}).plan(dataset_size=50_000, epochs=200).updates
        29480
        >>> steps("0:768 250B:1536", unit="tokens").plan(dataset_size=None, tokens_per_sample=4096).starts_samples
        (0, 61035157)

    Source:
        Folklore; the text form is that of Megatron-LM's option `--step-batch-size-schedule`.
    """

    changes: tuple[tuple[Duration, int], ...]

    def __init__(
        self, changes: str | Mapping[Duration | int, int] | Iterable[tuple[Duration | int, int]], unit: str = "samples"
    ) -> None:
        _checks.one_of("unit", unit, units.UNITS)
        if isinstance(changes, str):
            pairs = tuple(_read(item, unit) for item in re.split(r"[\s,]+", changes.strip(" \t\r\n,")) if item)
        else:
            pairs = tuple(_pair(item, unit) for item in (changes.items() if isinstance(changes, Mapping) else changes))
        if not pairs or pairs[0][0].count != 0:
            found = str(pairs[0][0]) if pairs else "nothing"
            raise ArgumentError(
                "changes", "must begin at threshold 0", got=found, remedy="write for example '0:128 50000:256'"
            )
        for (before, _), (after, _) in pairwise(pairs):
            if after.count == 0 or (before.unit == after.unit and after.exact <= before.exact):
                raise ArgumentError(
                    "changes", "must have increasing thresholds", got=f"{after} after {before}", remedy="give each once"
                )
        object.__setattr__(self, "changes", pairs)

    @property
    def initial(self) -> int:
        """The size that it starts with."""
        return self.changes[0][1]

    def stages(self, context: Context) -> Iterator[Stage]:
        """Yields one stage per threshold.

        Raises:
            ValueError: if thresholds of different units turn out not to increase.
        """
        last = None
        for threshold, size in self.changes:
            start = context.at(threshold) if threshold.count else context.origin
            if last is not None and start <= last[1]:
                raise ArgumentError(
                    "changes",
                    "must have increasing thresholds",
                    got=f"{threshold} (clock {float(start):,.10g}) after {last[0]} (clock {float(last[1]):,.10g})",
                )
            yield start, size
            last = threshold, start

    def describe(self) -> str:
        """The schedule in one line."""
        parts = [f"{size:,}" if not start.count else f"{size:,} from {start}" for start, size in self.changes]
        return ", ".join(parts if len(parts) <= 6 else [*parts[:5], "...", parts[-1]])


def _read(item: str, unit: str) -> tuple[Duration, int]:
    threshold, colon, size = item.partition(":")
    if not colon:
        raise ArgumentError(
            "changes", "must be thresholds and sizes such as '0:768 250B:1536'", value=item, remedy="begin with '0:'"
        )
    number = units.count(size, name="changes")
    if number.denominator != 1:
        raise ArgumentError("changes", "must have whole batch sizes", value=size)
    return units.duration(threshold, unit=unit, name="changes"), _checks.whole("changes", number.numerator)


def _pair(item: Any, unit: str) -> tuple[Duration, int]:
    try:
        threshold, size = item
    except (TypeError, ValueError):
        raise ArgumentTypeError("changes", "must be pairs of a threshold and a size", value=item) from None
    if not isinstance(threshold, Duration):
        threshold = Duration(threshold, unit)
    return threshold, _checks.whole("changes", size, remedy="batch sizes count samples")
