"""Another schedule in multiples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.schedules._base import Context, Schedule, Stage, check_schedule


@dataclass(frozen=True)
class round_to(Schedule):  # noqa: N801
    """Round another schedule's batch sizes to the nearest multiple, so that ranks and micro-batches share them evenly.

    Ties go up, and a size is at least one multiple. Lengths in updates inside `schedule` count the rounded batches.

    Args:
        schedule: the schedule.
        multiple: in samples, at least 1.

    Raises:
        ValueError: if `multiple` is below 1 or would change the size that training starts with (then, or when a plan
            is made).
        TypeError: if `multiple` is not a whole number, or `schedule` is not a schedule.

    Example:
        >>> from adabatch import epochs
        >>> from adabatch.schedules import geometric
        >>> growth = round_to(geometric(1.5, every=epochs(1)), 64)
        >>> growth.plan(dataset_size=50_000, epochs=5, batch_size=128).batch_sizes
        (128, 192, 320, 448, 640)
    """

    schedule: Schedule
    multiple: int

    def __post_init__(self) -> None:
        check_schedule("schedule", self.schedule)
        multiple = _checks.whole("multiple", self.multiple, remedy="for example the number of ranks")
        object.__setattr__(self, "multiple", multiple)
        if self.initial is not None:
            self._check_start(self.initial)

    def stages(self, context: Context) -> Iterator[Stage]:
        """Yields the stages of the schedule, their sizes rounded.

        Raises:
            ValueError: if rounding changes the size that training starts with.
        """
        # Rounding may take up to a multiple off, so a size counts as above the ceiling only from there on.
        ceiling = None if context.ceiling is None else context.ceiling + self.multiple
        for start, size in self.schedule.stages(context.below(ceiling)):
            if start == 0:
                self._check_start(size)
            yield start, self._rounded(size)

    def describe(self) -> str:
        """The schedule in one line."""
        return f"({self.schedule.describe()}), in multiples of {self.multiple:,}"

    def _rounded(self, size: int) -> int:
        return max((2 * size + self.multiple) // (2 * self.multiple), 1) * self.multiple

    def _check_start(self, size: int) -> None:
        if self._rounded(size) != size:
            raise ArgumentError(
                "multiple",
                f"must divide the batch size that training starts with, {size}",
                value=self.multiple,
                remedy=f"start with {self._rounded(size)} instead",
            )
