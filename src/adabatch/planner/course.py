"""The LR that a schedule asks for, against the clock."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from adabatch import _checks
from adabatch.units import Duration


@dataclass(frozen=True)
class Course:
    """An LR against the clock, constant from each change to the next.

    Attributes:
        starts_samples: clocks from which each LR holds; first 0, then increasing.
        lrs: the LR from each of them on.
    """

    starts_samples: tuple[int, ...]
    lrs: tuple[float, ...]

    def __post_init__(self) -> None:
        starts = self.starts_samples
        if not starts or starts[0] != 0 or any(after <= before for before, after in pairwise(starts)):
            raise ValueError(f"`starts_samples` must be 0 and then increasing, got {starts[:6]}")
        if len(starts) != len(self.lrs):
            raise ValueError(f"`lrs` must be one per start, got {len(self.lrs)} for {len(starts)}")

    @classmethod
    def of_table(cls, table: Iterable[tuple[Duration | int, float]], dataset_size: int) -> Course:
        """The course of a table such as `lr_clock.curve` gives, with its epochs counted in samples.

        Args:
            table: thresholds (Durations in epochs or samples, or bare samples) and the LR from each of them on.
            dataset_size: samples in an epoch.

        Example:
            >>> from adabatch import epochs
            >>> Course.of_table([(0, 0.1), (epochs(2), 0.02)], dataset_size=100).starts_samples
            (0, 200)
        """
        per = {"epochs": dataset_size, "samples": 1}
        starts, lrs = [], []
        for at, lr in table:
            if isinstance(at, Duration):
                at = math.ceil(at.exact * per[_checks.one_of("table", at.unit, per)])
            starts.append(at)
            lrs.append(lr)
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
