"""What a probe found: seconds and bytes against micro-batch size, and what follows from them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from adabatch import _checks
from adabatch._errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Point:
    """One micro-batch size.

    Attributes:
        micro_batch_size: samples in one forward and backward pass on one rank.
        seconds: of that pass, on the slowest rank.
        peak_bytes: that the pass takes at its peak, beyond what stays between updates; on the rank that takes most.
            None where it cannot be measured.
    """

    micro_batch_size: int
    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds and peak bytes by micro-batch size, measured on a real step.

    Attributes:
        points: what was measured, by growing size.
        update_seconds: of one optimizer step.
        ranks: that share a batch.
        memory_budget: bytes that a pass may take; None where it is not known.
        stopped: why no larger size was measured.
        no_peak: why there are no peak bytes; empty if there are.
    """

    points: tuple[Point, ...]
    update_seconds: float
    ranks: int
    memory_budget: int | None
    stopped: str
    no_peak: str = ""

    @property
    def fastest(self) -> int:
        """The micro-batch size with the most samples per second; the smaller one of equals."""
        return max(self.points, key=lambda point: point.micro_batch_size / point.seconds).micro_batch_size

    @property
    def largest(self) -> int:
        """The largest micro-batch size that was measured within the memory budget."""
        return self.points[-1].micro_batch_size

    def seconds(self, size: int) -> float:
        """Of one pass over `size` samples on one rank, between measured sizes in proportion, in the best cut.

        Args:
            size: samples on one rank, at least 1.

        Example:
            >>> curve = Curve((Point(1, 1.0, None), Point(2, 1.5, None), Point(4, 4.0, None)), 0.5, 1, None, "maximum")
            >>> [curve.seconds(size) for size in (1, 2, 3, 4)]  # 2 + 1 and 2 + 2 are faster than 3 and 4 at once
            [1.0, 1.5, 2.5, 3.0]
        """
        size = _checks.whole("size", size)
        counts = {-(-size // point.micro_batch_size) for point in self.points}
        return min(self._cut(size, count) for count in counts)

    def _cut(self, size: int, count: int) -> float:
        """Seconds of `count` passes that share `size` samples as evenly as they can."""
        small, more = divmod(size, count)
        return more * self._pass(small + 1) + (count - more) * self._pass(small)

    def _pass(self, size: int) -> float:
        sizes = [point.micro_batch_size for point in self.points]
        index = bisect_left(sizes, size)
        if index == len(sizes) or sizes[index] == size or index == 0:
            point = self.points[min(index, len(sizes) - 1)]
            return point.seconds * (max(size / point.micro_batch_size, 1) if index else 1)
        low, high = self.points[index - 1], self.points[index]
        share = (size - low.micro_batch_size) / (high.micro_batch_size - low.micro_batch_size)
        return low.seconds + share * (high.seconds - low.seconds)

    def speedup(self, batch_sizes: Iterable[int]) -> dict[int, float]:
        """Samples per second at each batch size, against the first one; optimizer steps count, reductions do not.

        Args:
            batch_sizes: over all ranks; each runs in its fastest micro-batches.

        Returns:
            By batch size, how many times as fast as at the first one.

        Raises:
            ValueError: if there is none.

        Example:
            >>> curve = Curve((Point(1, 1.0, None), Point(2, 1.5, None)), 0.5, 1, None, "maximum")
            >>> curve.speedup([1, 2, 4])
            {1: 1.0, 2: 1.5, 4: 1.7142857142857142}
        """
        sizes = [_checks.whole("batch_sizes", size) for size in batch_sizes]
        if not sizes:
            raise ArgumentError(
                "batch_sizes", "must name at least one batch size", got="none", remedy="the first is compared with"
            )
        rates = {size: size / (self.seconds(-(-size // self.ranks)) + self.update_seconds) for size in sizes}
        return {size: rate / rates[sizes[0]] for size, rate in rates.items()}

    def to_json(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self) | {"points": [asdict(point) for point in self.points]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Curve:
        """From what `to_json` gave."""
        return cls(**data | {"points": tuple(Point(**point) for point in data["points"])})
