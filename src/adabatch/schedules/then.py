"""One schedule after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adabatch.schedules._base import Context, Schedule, Stage, check_length, check_schedule
from adabatch.units import Duration


@dataclass(frozen=True)
class then(Schedule):  # noqa: N801
    """Follow one schedule for a while, then another, whose clock starts at 0 there.

    A second schedule without a start of its own begins with the size then in force.

    Args:
        first: the schedule at the start.
        second: the schedule that takes over.
        after: when it does, longer than 0; updates are counted on the batches of `first`.

    Raises:
        ValueError: if `after` is 0.
        TypeError: if an argument is not a schedule or not a Duration.

    Example:
        >>> from adabatch import epochs
        >>> from adabatch.schedules import constant, geometric
        >>> growth = then(constant(), geometric(2, every=epochs(20)), after=epochs(5))
        >>> growth.plan(dataset_size=1000, epochs=50, batch_size=16).starts_samples
        (0, 25000, 45000)
    """

    first: Schedule
    second: Schedule
    after: Duration

    def __post_init__(self) -> None:
        check_schedule("first", self.first)
        check_schedule("second", self.second)
        check_length("after", self.after)

    def stages(self, context: Context) -> Iterator[Stage]:
        """Yields the stages of the first schedule up to the change, then those of the second."""
        # No ceiling: the second schedule may begin with the size in force and shrink it. `after` ends the first.
        stages = self.first.stages(context.below(None))
        start, in_force = next(stages)
        yield start, in_force
        for start, size in stages:
            if context.at(self.after) <= start:
                break
            yield start, size
            in_force = size
        yield from self.second.stages(context.moved(context.at(self.after), in_force))

    def describe(self) -> str:
        """The schedule in one line."""
        return f"({self.first.describe()}), then after {self.after} ({self.second.describe()})"
