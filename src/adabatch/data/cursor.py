"""Where a loader stands: the clock, the batch size in force, who drives it, and the batch that is out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Self

from adabatch import _checks
from adabatch._errors import ArgumentError, UsageError
from adabatch.data.order import items_of
from adabatch.types import Batch, Driver, Part


class Demand:
    """The batch size that is asked for; all cursors of a loader share one.

    Attributes:
        batch_size: that was assigned.
        postponed: the size that holds after the next batch; None if that is the same.
        assigned: how often one was assigned.
        driver: gives the size in place of what was assigned; None for nobody.
    """

    __slots__ = ("assigned", "batch_size", "driver", "postponed")

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.assigned = 0
        self.driver: Driver | None = None
        self.postponed: int | None = None


class Cursor:
    """Cuts the data into batches, one at a time.

    The position moves when a batch commits: with a driver at `commit()`, without one when it is handed out. What
    `drop_last` drops is passed when the next batch is asked for, at the batch size that is in force then.

    Args:
        size: samples in an epoch.
        batch_size: samples in a batch over all ranks.
        drop_last: whether a last batch that would be short is dropped.
        run_on: whether a batch runs on into the next epoch.

    Attributes:
        begun: the epoch of which something was trained on, or handed out where nobody drives; None after a resume.
        part: the micro-batch handed out last; None in a plain loop.
        left: the batch that was passed last though nobody trained on it.
        open: the epoch of which all was handed out and whose end is still to be told; None for none.
    """

    base = 0  # the clock at which item 0 lies
    known = True  # whether it is known without reading how far the data reach
    __slots__ = (
        "begun",
        "current",
        "demand",
        "drop_last",
        "first",
        "last",
        "left",
        "open",
        "part",
        "position",
        "rank",
        "run_on",
        "size",
        "world",
    )

    def __init__(self, size: int, *, batch_size: int, drop_last: bool, run_on: bool) -> None:
        self.size, self.drop_last, self.run_on = size, drop_last, run_on
        self.position = 0
        self.current: Batch | None = None
        self.rank, self.world = 0, 1
        self.first = self.last = 0  # the items of this rank in the batch handed out last
        self.part: Part | None = None
        self.left: Batch | None = None
        self.begun: int | None = None
        self.open: int | None = None
        self.demand = Demand(self.checked(batch_size))

    def fork(self) -> Self:
        """Another cursor that stands here, with nothing out."""
        twin = copy.copy(self)
        twin.current = twin.part = twin.left = None
        return twin

    @property
    def driver(self) -> Driver | None:
        """Who gives the batch size; None for nobody."""
        return self.demand.driver

    def checked(self, batch_size: int) -> int:
        """`batch_size` if batches of that size can be had.

        Raises:
            TypeError: if it is not a whole number.
            ValueError: if it is below 1 or above the data set.
        """
        value = _checks.whole("batch_size", batch_size, remedy="it counts the samples of one update, over all ranks")
        if value > self.size:
            raise ArgumentError(
                "batch_size", f"must be at most the data set's {self.size} samples", value=value, remedy="use less"
            )
        return value

    @property
    def batch_size(self) -> int:
        """The size of the batch that is out; if none is, of the next one."""
        if self.driver is None:
            return self.demand.batch_size
        return self.current.requested if self.current is not None else self.following()[1]

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        if self.driver is not None:
            raise ArgumentError(
                "batch_size",
                "must not be set while a schedule drives this loader",
                value=value,
                remedy="change the schedule, or call `close()` on its `BatchSizeScheduler` first",
            )
        demand = self.demand
        demand.batch_size, demand.postponed = self.checked(value), None
        demand.assigned += 1

    @property
    def sizes(self) -> tuple[int, int | None]:
        """Size of the batch that is out or else the next one, and the one behind it if that was assigned meanwhile."""
        out = self.current
        if self.driver is None and out is not None and out.requested != self.demand.batch_size:
            return out.requested, self.demand.batch_size
        return self.batch_size, self.demand.postponed

    @property
    def clock(self) -> int:
        """Where the batch that is out starts; if none is, where the next one does."""
        if self.current is not None:
            return self.current.clock
        return self.following()[0] if self.drop_last else self.position

    def requested(self, clock: int) -> int:
        """The batch size of a batch that starts at `clock`."""
        driver = self.demand.driver
        if driver is None:
            return self.demand.batch_size
        size = driver.batch_size_at(clock)
        return size if type(size) is int and 0 < size <= self.size else self.checked(size)

    def following(self, position: int | None = None) -> tuple[int, int]:
        """Clock and requested size of the batch that follows on `position` (default: where the cursor stands)."""
        clock = self.position if position is None else position
        requested = self.requested(clock)
        if self.drop_last and (left := -clock % self.size) and left < requested:
            clock += left
            requested = self.requested(clock)
        return clock, requested

    def advance(self, epoch: int) -> Batch | None:
        """The next batch of `epoch`, now current; None at the epoch's end, which then counts as passed.

        What was out before must be committed.
        """
        clock, requested, size = self.cut(self.position, epoch)
        if size == 0:
            self.pass_epoch(clock, epoch)
            return None
        demand = self.demand
        if demand.postponed is not None:
            demand.batch_size, demand.postponed = demand.postponed, None
        end = clock + size
        if self.world == 1:
            first, last = clock - self.base, end - self.base
        else:
            first, last = items_of(clock - self.base, size, self.rank, self.world)
        self.first, self.last = first, last
        self.current = batch = Batch(
            clock, self.following(end)[0] if self.drop_last else end, epoch, requested, size, last - first
        )
        return batch

    def cut(self, position: int, _epoch: int) -> tuple[int, int, int]:
        """Clock, requested size and size of the batch of `epoch` that follows on `position`; size 0 at the end."""
        clock, requested = self.following(position)
        left = (_epoch + 1) * self.size - clock
        if left <= 0:
            return clock, requested, 0
        if not self.run_on:
            return clock, requested, min(requested, left)
        end = self._budget  # the budget cuts the last batch
        return clock, requested, requested if end is None or clock >= end else min(requested, end - clock)

    @property
    def _budget(self) -> int | None:
        """Where training ends, if the driver knows; None else."""
        end: int | None = getattr(getattr(self.driver, "plan", None), "end_samples", None)
        return end

    @property
    def after(self) -> int:
        """The clock behind the batch that was handed out last."""
        return self.position if self.current is None else self.current.clock + self.current.size

    def predicted(self, position: int, _epoch: int) -> Iterator[tuple[int, int]]:
        """Clock and size of the batches of `epoch` that follow on `position`, if no size is assigned."""
        while True:
            clock, _, size = self.cut(position, _epoch)
            if size == 0:
                return
            yield clock, size
            position = clock + size

    def ends_at(self, position: int, epoch: int) -> bool:
        """Whether no batch of `epoch` follows on `position`, if that is known without reading."""
        return self.cut(position, epoch)[2] == 0

    def pass_current(self) -> None:
        """Commits the batch that is out, if one is; raises when it was trained on and its `step()` is missing."""
        if self.current is not None:
            if self.driver is not None:
                self.driver.check_next()
                self.left = self.current
            self.commit()

    def commit(self) -> None:
        """Moves behind the batch that is out."""
        batch = self.current
        if batch is None:
            raise UsageError(
                "commit", "needs a batch that was handed out and is not committed", remedy="commit each batch once"
            )
        self.position = batch.clock + batch.size if self.demand.driver is None else batch.end
        self.current = None

    def repeat(self, batch: Batch) -> None:
        """Has `batch` out again, which is not committed or was only just."""
        self.position, self.current = batch.clock, batch

    def resize(self, size: int, epoch: int) -> None:
        """Stands at the start of `epoch` of a data set that has another size now."""
        self.size, self.begun = size, None
        self.move_to(epoch)

    def restore(self, position: int, batch_size: int, postponed: int | None) -> None:
        """Stands at `position` with nothing out; `postponed`: the size that holds behind the next batch."""
        self.position, self.current, self.begun, self.open = position, None, None, None
        self.demand.batch_size, self.demand.postponed = batch_size, postponed

    def epoch_of(self, clock: int) -> int:
        """The epoch in which `clock` lies."""
        return clock // self.size

    def start_of(self, epoch: int) -> int:
        """Where an iteration through `epoch` that begins now starts."""
        return max(self.clock, epoch * self.size)

    def move_to(self, epoch: int) -> None:
        """Stands at the start of `epoch`."""
        self.position = epoch * self.size

    def pass_epoch(self, clock: int, _epoch: int) -> None:
        """Has come to the end of an epoch, at `clock`."""
        self.position = clock

    def skip_epoch(self, epoch: int) -> None:
        """Passes what is left of `epoch`."""
        self.position = max(self.position, (epoch + 1) * self.size)

    def count(self, start: int, epoch: int) -> int:
        """Batches that start from `start` to the end of `epoch`, if one starts at `start` and the size stays."""
        stop = (epoch + 1) * self.size
        if start >= stop:
            return 0
        if self.driver is not None:
            return self.driver.batches_between(start, stop)
        whole, rest = divmod(stop - start, self.demand.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def count_whole(self, epoch: int) -> int:
        """Batches that start in `epoch`, if the size stays."""
        return self.count(self.first_of(epoch), epoch)

    def first_of(self, epoch: int) -> int:
        """Where the first batch that starts in `epoch` starts, if the size stays."""
        start = epoch * self.size
        if not self.run_on:
            return start
        plan = getattr(self.driver, "plan", None)
        if plan is not None and (plan.end_samples is None or start < plan.end_samples):
            return int(plan.clock_of(plan.update_at(start)))
        behind = self.position - start
        return start if behind < 0 else self.position - behind // self.demand.batch_size * self.demand.batch_size

    def attach(self, driver: Driver) -> None:
        """See `DrivenLoader.attach`."""
        if self.driver is not None:
            raise ArgumentError(
                "loader", "must not be driven by another scheduler", remedy="call `close()` on that one first"
            )
        self.demand.driver = driver

    def detach(self) -> None:
        """See `DrivenLoader.detach`."""
        if self.driver is not None:
            self.demand.batch_size = self.batch_size
            if self.current is not None:
                self.commit()
            self.demand.driver = None

    def check_shares(self, start: int, epoch: int) -> None:
        """Raises if a plain loop from `start` on would give ranks shares of different size, as far as is known."""
        if self.world == 1:
            return
        plan = getattr(self.driver, "plan", None)
        sizes = set(getattr(plan, "sizes", ()))
        if not sizes:
            sizes = {self.requested(start)}
        tails = set(getattr(plan, "tails", ()))
        if not tails and self.driver is None and not (self.drop_last or self.run_on):
            tails = {((epoch + 1) * self.size - start) % self.demand.batch_size}
        for size in sorted(sizes):
            check_share(size, self.world)
        for size in sorted(tails):
            check_share(size, self.world, tail=True)


def check_share(size: int, world: int, *, tail: bool = False) -> None:
    """Raises if a batch of `size` cannot be cut into `world` equal shares."""
    if size % world:
        what = f"the last batch of an epoch, of {size} samples," if tail else f"a batch of {size} samples"
        multiples, ends = f"use multiples of {world} (`schedules.round_to`)", "`drop_last=True` or `run_on=True`"
        remedy = f"set {ends}, and {multiples}" if tail else f"{multiples}, and for the ends of epochs {ends}"
        raise ArgumentError(
            "batch_size",
            f"must be shared evenly in a plain loop: {what} does not divide over {world} ranks",
            remedy=(
                f"{remedy}, or iterate with `adabatch.accumulate(loader, model)`, which weights uneven shares exactly"
            ),
        )
