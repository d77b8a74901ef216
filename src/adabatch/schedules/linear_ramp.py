"""A batch size that changes evenly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction

from adabatch._errors import ArgumentError
from adabatch.schedules._base import Context, Schedule, Stage, check_length, from_start
from adabatch.units import Duration


@dataclass(frozen=True)
class linear_ramp(Schedule):  # noqa: N801
    """Change the batch size in equal increments at equal intervals, up or down, then hold it.

    When `t` has passed, the size is `start + increment * floor(t / over * (end - start) / increment)` on the way up:
    the k-th of n increments comes at `over * k / n`, the last at `over`. On the way down it is the mirror image.

    Args:
        end: the last size in samples, at least 1.
        over: the length of the ramp, longer than 0.
        start: the first size in samples, at least 1; None for the loader's batch size.
        increment: samples per change, at least 1; divides the way from `start` to `end`.

    Raises:
        ValueError: if a number is out of range or the increments do not end at `end`.
        TypeError: if a number is not whole, or `over` is not a Duration.

    Example:
        >>> from adabatch import samples
        >>> linear_ramp(64, over=samples(3000), start=16, increment=16).plan(dataset_size=None).starts_samples
        (0, 1000, 2000, 3000)

    Source:
        Folklore; the same ramp as Megatron-LM's option `--rampup-batch-size`, which counts samples.
    """

    end: int
    over: Duration
    _: KW_ONLY
    start: int | None = None
    increment: int = 1

    def __post_init__(self) -> None:
        self._make_whole("end", "start", "increment")
        check_length("over", self.over)
        if self.start is not None:
            self._count(self.start)

    def stages(self, context: Context) -> Iterator[Stage]:
        """Yields one stage per increment."""
        start = context.batch_size if self.start is None else self.start
        count = self._count(start)
        change = self.increment if self.end > start else -self.increment
        yield context.origin, start
        for index in range(1, count + 1):
            yield context.at(self.over, Fraction(index, count)), start + change * index

    def describe(self) -> str:
        """The schedule in one line."""
        return f"{from_start(self.start)} to {self.end:,} in increments of {self.increment:,} over {self.over}"

    def _count(self, start: int) -> int:
        count, rest = divmod(abs(self.end - start), self.increment)
        if rest:
            raise ArgumentError(
                "increment",
                f"must divide the way from {start} to {self.end}, {abs(self.end - start)}",
                value=self.increment,
                remedy="choose a divisor, or use increment=1 with `round_to`",
            )
        return count
