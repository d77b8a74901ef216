"""Bounds on another schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

from adabatch._errors import ArgumentError
from adabatch.schedules._base import Context, Schedule, Stage, check_schedule


@dataclass(frozen=True)
class clamp(Schedule):  # noqa: N801
    """Keep another schedule's batch sizes within bounds.

    Lengths in updates inside `schedule` count the bounded batches.

    Args:
        schedule: the schedule.
        minimum: the smallest size in samples, at least 1; None for no bound.
        maximum: the largest size in samples, at least `minimum`; None for no bound.

    Raises:
        ValueError: if no bound is given, one is out of range, or one would change the size that training starts with
            (then, or when a plan is made).
        TypeError: if a bound is not a whole number, or `schedule` is not a schedule.

    Example:
        >>> from adabatch import updates
        >>> from adabatch.schedules import geometric
        >>> growth = clamp(geometric(2, every=updates(500)), maximum=256)
        >>> growth.plan(dataset_size=50_000, batch_size=64).starts_samples
        (0, 32000, 95952)
    """

    schedule: Schedule
    _: KW_ONLY
    minimum: int | None = None
    maximum: int | None = None

    def __post_init__(self) -> None:
        check_schedule("schedule", self.schedule)
        if self.minimum is None and self.maximum is None:
            raise ArgumentError(
                "maximum", "or `minimum` must be given", got="None for both", remedy="or leave `clamp` out"
            )
        self._make_whole("minimum", "maximum")
        if self.minimum is not None and self.maximum is not None and self.maximum < self.minimum:
            raise ArgumentError("maximum", f"must be at least `minimum` = {self.minimum}", value=self.maximum)
        if self.initial is not None:
            self._check_start(self.initial)

    @property
    def finite(self) -> bool:
        """Whether the size stops changing at some point."""
        return self.maximum is not None or self.schedule.finite

    def stages(self, context: Context) -> Iterator[Stage]:
        """Yields the stages of the schedule, their sizes within the bounds.

        Raises:
            ValueError: if the bounds change the size that training starts with.
        """
        ceilings = [bound for bound in (self.maximum, context.ceiling) if bound is not None]
        for start, size in self.schedule.stages(context.below(min(ceilings, default=None))):
            if start == 0:
                self._check_start(size)
            yield start, self._bounded(size)

    def describe(self) -> str:
        """The schedule in one line."""
        bounds = [
            f"{word} {bound:,}"
            for word, bound in (("at least", self.minimum), ("at most", self.maximum))
            if bound is not None
        ]
        return f"({self.schedule.describe()}), {' and '.join(bounds)}"

    def _bounded(self, size: int) -> int:
        size = size if self.minimum is None else max(size, self.minimum)
        return size if self.maximum is None else min(size, self.maximum)

    def _check_start(self, size: int) -> None:
        if self._bounded(size) != size:
            name = "maximum" if self.maximum is not None and size > self.maximum else "minimum"
            raise ArgumentError(
                name,
                f"must leave the batch size that training starts with, {size}, as it is",
                value=getattr(self, name),
                remedy=f"start with {self._bounded(size)} instead",
            )
