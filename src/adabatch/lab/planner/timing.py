"""Seconds per update from what `adabatch probe` measured."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adabatch._errors import ArgumentError
from adabatch.schedules import Plan


@dataclass(frozen=True)
class Timing:
    """Seconds per update against batch size.

    Between measured sizes an update's seconds go in a straight line; below the smallest it takes as long as that one,
    above the largest the samples per second stay as they are there.

    Attributes:
        batch_sizes: measured, increasing.
        seconds: per update, at each of them.
    """

    batch_sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @classmethod
    def of_probe(cls, probe: Mapping[str, Any]) -> Timing:
        """Reads the content of a `probe.json`.

        Args:
            probe: with `curve`, a list of `batch_size` and `samples_per_second` (a number, or with a `median`).

        Raises:
            ValueError: if it is no such content.
        """
        try:
            points = sorted(
                (int(point["batch_size"]), float(_median(point["samples_per_second"]))) for point in probe["curve"]
            )
            seconds = tuple(size / rate for size, rate in points)
        except (ArithmeticError, KeyError, TypeError, ValueError):
            points, seconds = [], ()
        if not points or points[0][0] < 1 or not all(0 < value < math.inf for value in seconds):
            raise ArgumentError(
                "probe",
                "must be what `adabatch probe` wrote: a curve of batch sizes and samples per second",
                remedy="run: adabatch probe TASK --out DIR",
            )
        return cls(tuple(size for size, _ in points), seconds)

    def update_seconds(self, batch_size: int) -> float:
        """Seconds of one update.

        Example:
            >>> timing = Timing((10, 20), (1.0, 1.5))
            >>> [timing.update_seconds(size) for size in (5, 10, 16, 20, 40)]
            [1.0, 1.0, 1.3, 1.5, 3.0]
        """
        sizes, seconds = self.batch_sizes, self.seconds
        if batch_size <= sizes[0]:
            return seconds[0]
        if batch_size >= sizes[-1]:
            return seconds[-1] * batch_size / sizes[-1]
        index = bisect_right(sizes, batch_size)
        share = (batch_size - sizes[index - 1]) / (sizes[index] - sizes[index - 1])
        return seconds[index - 1] + share * (seconds[index] - seconds[index - 1])

    def plan_seconds(self, plan: Plan) -> float:
        """Seconds of training by a plan, evaluation apart; takes the same time however long the training is."""
        return sum(count * self.update_seconds(size) for size, count in plan.batch_counts().items())


def _median(rate: Any) -> Any:
    return rate["median"] if isinstance(rate, Mapping) else rate
