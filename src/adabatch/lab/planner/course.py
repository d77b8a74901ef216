"""The LR that a schedule asks for, against the clock."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.units import Duration


@dataclass(frozen=True)
class Course:
    """An LR against the clock, constant from each change to the next.

    Attributes:
        starts_samples: clocks from which each LR holds; first 0, then increasing.
        lrs: the LR from each of them on, finite and at least 0.
    """

    starts_samples: tuple[int, ...]
    lrs: tuple[float, ...]

    def __post_init__(self) -> None:
        starts = self.starts_samples
        if not starts or starts[0] != 0 or any(after <= before for before, after in pairwise(starts)):
            raise ArgumentError("starts_samples", "must be 0 and then increasing", got=f"{starts[:6]}")
        if len(starts) != len(self.lrs):
            raise ArgumentError("lrs", "must be one per start", got=f"{len(self.lrs)} for {len(starts)}")
        for lr in self.lrs:
            _checks.finite("lrs", lr, minimum=0)

    @classmethod
    def of_table(
        cls, table: Mapping[Duration | int, float] | Iterable[tuple[Duration | int, float]], dataset_size: int | None
    ) -> Course:
        """The course of a table such as `lr_clock.table` gives, with its epochs counted in samples.

        Args:
            table: thresholds (Durations in epochs or samples, or bare samples) and the LR from each of them on, as a
                mapping or as pairs.
            dataset_size: samples in an epoch; None will do for a table without epochs.

        Raises:
            ValueError: if an LR is negative, NaN or infinite, thresholds do not begin at 0 and increase, or epochs are
                to be counted without `dataset_size`.
            TypeError: if an argument is of the wrong kind.

        Example:
            >>> from adabatch import epochs
            >>> Course.of_table([(0, 0.1), (epochs(2), 0.02)], dataset_size=100).starts_samples
            (0, 200)
        """
        starts, lrs = [], []
        for at, lr in _pairs(table):
            starts.append(_samples(at, dataset_size))
            lrs.append(float(_checks.finite("table", lr, minimum=0, remedy=f"it is the LR from {at} on")))
        return cls(tuple(starts), tuple(lrs))

    @classmethod
    def of_function(cls, lr: Callable[[int], float], end: int, points: int = 1000) -> Course:
        """The course of a function of samples, for pictures: its values at evenly spaced clocks.

        Args:
            lr: gives the LR at a clock in samples.
            end: samples up to which it is asked.
            points: how often.
        """
        starts = sorted({end * index // points for index in range(points)})
        return cls(tuple(starts), tuple(float(lr(start)) for start in starts))

    def lr_at(self, clock: int) -> float:
        """The LR at a clock."""
        return self.lrs[bisect_right(self.starts_samples, clock) - 1]


def _pairs(table: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(table, str) or not isinstance(table, Iterable):
        raise ArgumentTypeError("table", "must be a mapping or pairs such as {0: 0.1, 5000: 0.02}", value=table)
    for item in table.items() if isinstance(table, Mapping) else table:
        try:
            at, lr = item
        except (TypeError, ValueError):
            raise ArgumentTypeError("table", "must be pairs of a threshold and an LR", value=item) from None
        yield at, lr


def _samples(at: Any, dataset_size: int | None) -> int:
    """A threshold in samples, rounded up."""
    if not isinstance(at, Duration):
        if isinstance(at, bool) or not isinstance(at, Integral):
            raise ArgumentTypeError("table", "must have whole numbers of samples or Durations as thresholds", value=at)
        return int(at)
    if _checks.one_of("table", at.unit, ("epochs", "samples")) == "samples":
        return math.ceil(at.exact)
    if dataset_size is None:
        raise ArgumentError("dataset_size", f"must be given to count {at}", value=None, remedy="or use `samples`")
    return math.ceil(at.exact * _checks.whole("dataset_size", dataset_size))
