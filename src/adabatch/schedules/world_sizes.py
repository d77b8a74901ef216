"""Another schedule with the numbers of ranks that it wants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from adabatch._errors import ArgumentError, naming
from adabatch.schedules._base import Context, Schedule, Stage, check_schedule
from adabatch.schedules.steps import steps


@dataclass(frozen=True, init=False)
class world_sizes(Schedule):  # noqa: N801
    """Name the number of ranks that another schedule wants, by batch size.

    No batch size changes and no process starts or ends: the plan and the decisions tell the number, and whoever starts
    the processes acts on it, for example under an elastic torchrun.

    Args:
        schedule: the schedule.
        table: batch sizes in samples and the number of ranks wanted from each of them on, as a mapping, as pairs, or as
            text such as `"0:1 2048:4"`; batch sizes begin at 0 and increase.

    Raises:
        ValueError: if the text cannot be read, the first batch size is not 0, they do not increase, a number of ranks
            is below 1, or `schedule` names numbers of ranks already.
        TypeError: if a batch size or a number is not whole, or `schedule` is not a schedule.

    Example:
        >>> from adabatch import epochs
        >>> from adabatch.schedules import geometric
        >>> growth = world_sizes(geometric(2, every=epochs(1)), {0: 1, 2048: 4})
        >>> plan = growth.plan(dataset_size=50_000, epochs=3, batch_size=1024)
        >>> [(plan.batch_size_at(clock), plan.world_size_at(clock)) for clock in plan.starts_samples]
        [(1024, 1), (2048, 4), (4096, 4)]
    """

    schedule: Schedule
    table: tuple[tuple[int, int], ...]

    def __init__(self, schedule: Schedule, table: str | Mapping[int, int] | Iterable[tuple[int, int]]) -> None:
        check_schedule("schedule", schedule)
        if schedule.world_sizes:
            rule, remedy = "must name its world sizes once", "name them around the whole schedule"
            raise ArgumentError("schedule", rule, got=schedule.describe(), remedy=remedy)
        with naming(changes="table"):
            pairs = steps(cast("Any", table)).changes  # batch sizes are samples
        for size, _ in pairs:
            if size.unit != "samples" or size.exact.denominator != 1:
                raise ArgumentError("table", "must have batch sizes in samples, whole numbers", got=str(size))
        object.__setattr__(self, "schedule", schedule)
        object.__setattr__(self, "table", tuple((int(size.exact), ranks) for size, ranks in pairs))

    @property
    def world_sizes(self) -> tuple[tuple[int, int], ...]:
        """The table."""
        return self.table

    def stages(self, context: Context) -> Iterator[Stage]:
        """Yields the stages of the schedule."""
        return self.schedule.stages(context)

    def describe(self) -> str:
        """The schedule in one line."""
        parts = [f"{ranks:,} from batch {size:,}" if size else f"{ranks:,}" for size, ranks in self.table]
        return f"({self.schedule.describe()}), ranks wanted: {', '.join(parts)}"
