"""Cutting the data into batches: the clock, the batch size that is asked for, and the batch that is out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol, Self

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.data.order import items_of
from adabatch.types import Batch, Driver, DrivingPlan, Part

_COUNTS: Final = "it counts the samples of one update, over all ranks"


class Demand:
    """The sizes that are asked for; all cursors of a loader share one.

    Args:
        batch_size: the first one, checked.
    """

    __slots__ = (
        "assigned",
        "batch_size",
        "driver",
        "micro_batch_size",
        "micro_settled",
        "postponed",
        "sharing_settled",
    )

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size  # the one assigned last
        self.postponed: int | None = None  # replaces it after the next batch
        self.assigned = 0  # how often one was assigned
        self.driver: Driver | None = None  # gives the size instead
        self.micro_batch_size: int | None = None
        self.micro_settled = False  # whether a loop used it, or was told that it does not
        self.sharing_settled = False  # whether it was asked if the batch size is one rank's

    def assign(self, batch_size: int, checked: Callable[[int], int]) -> None:
        """Asks for `batch_size` from now on, if `checked` returns it; raises if a driver decides the size."""
        if self.driver is not None:
            if self.driver.assign(checked(batch_size)):
                return
            raise ArgumentError(
                "batch_size",
                "must not be set while a schedule drives this loader",
                value=batch_size,
                remedy="change the schedule, or call `close()` on its `BatchSizeScheduler` first; one without a "
                "schedule takes the sizes that you set",
            )
        self.batch_size, self.postponed = checked(batch_size), None
        self.assigned += 1

    def attach(self, driver: Driver) -> None:
        """See `DrivenLoader.attach`."""
        if self.driver is not None:
            raise ArgumentError(
                "loader", "must not be driven by another scheduler", remedy="call `close()` on that one first"
            )
        self.driver = driver

    def begin_batch(self) -> None:
        """A batch begins: the postponed size holds for the next one."""
        if self.postponed is not None:
            self.batch_size, self.postponed = self.postponed, None

    def saved(self, batch_size: int, out: Batch | None) -> dict[str, int]:
        """The sizes in a state: that of the batch `out`, else `batch_size`; and the next batch's if it differs."""
        after = self.postponed
        if self.driver is None and out is not None and out.requested != batch_size:
            batch_size, after = out.requested, batch_size  # one was assigned meanwhile
        return {"batch_size": batch_size} | ({} if after is None else {"next_batch_size": after})

    def load(self, state: Mapping[str, Any], checked: Callable[[int], int]) -> None:
        """Asks for the sizes of a state, if `checked` returns them."""
        after = state.get("next_batch_size")
        self.batch_size, self.postponed = checked(state["batch_size"]), None if after is None else checked(after)


def checked_size(value: int, most: int | None, *, name: str = "batch_size", remedy: str = _COUNTS) -> int:
    """`value` if it is a whole number from 1 to `most`, the data set's size; None for no limit."""
    value = _checks.whole(name, value, remedy=remedy)
    if most is not None and value > most:
        rule, remedy = (
            f"must be at most the data set's {most} samples",
            f"`{name}={most}` takes all of them in one batch",
        )
        raise ArgumentError(name, rule, value=value, remedy=remedy)
    return value


def nothing_out() -> UsageError:
    """The error of a commit without a batch."""
    rule = "needs a batch that was handed out and is not committed"
    return UsageError("commit", rule, remedy="commit each batch once")


class Cursor:
    """Cuts the data into batches, one at a time.

    The position moves when a batch commits: with a driver at `commit()`, without one when it is handed out. Samples
    that `drop_last` drops are passed when the next batch is asked for, at the batch size in force then.

    Args:
        size: samples in an epoch.
        batch_size: samples in a batch over all ranks.
        drop_last: whether a last batch that would be short is dropped.
        run_on: whether a batch runs on into the next epoch.

    Attributes:
        begun: the epoch last trained in, or handed out from if there is no driver; None after a resume.
        part: the micro-batch handed out last; None in a plain loop.
        left: the last batch that was passed untrained.
        open: the epoch that was handed out whole but has not raised StopIteration yet; None for none.
    """

    base = 0  # the clock at which item 0 lies
    __slots__ = (
        "begun", "current", "demand", "drop_last", "first", "last", "left",
        "open", "part", "position", "rank", "run_on", "size", "world",
    )  # fmt: skip

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
        """Another cursor that stands here, with no batch out."""
        twin = copy.copy(self)
        twin.current = twin.part = twin.left = None
        return twin

    @property
    def dataset_size(self) -> int | None:
        """Samples in an epoch; None if that is not known."""
        return self.size

    @property
    def driver(self) -> Driver | None:
        """Gives the batch size; None for none."""
        return self.demand.driver

    def checked(self, batch_size: int) -> int:
        """`batch_size` if batches can have that size; raises if not."""
        return checked_size(batch_size, self.dataset_size)

    @property
    def batch_size(self) -> int:
        """The size of the batch that is out; if none is, the next one's."""
        if self.driver is None:
            return self.demand.batch_size
        return self.current.requested if self.current is not None else self.following()[1]

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self.demand.assign(value, self.checked)

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
        """Clock and requested size of the batch after `position` (default: where the cursor stands)."""
        clock = self.position if position is None else position
        requested = self.requested(clock)
        if self.drop_last and (left := -clock % self.size) and left < requested:
            clock += left
            requested = self.requested(clock)
        return clock, requested

    def advance(self, epoch: int) -> Batch | None:
        """The next batch of `epoch`, now current; None at the end, which is then passed. Commit the last one first."""
        clock, requested, size = self.cut(self.position, epoch)
        if size == 0:
            self.position = clock
            self.skip_epoch(epoch)
            return None
        self.demand.begin_batch()
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
        """Clock, requested size and size of the batch of `epoch` after `position`; size 0 at the end."""
        clock, requested = self.following(position)
        left = (_epoch + 1) * self.size - clock
        if left <= 0:
            return clock, requested, 0
        if not self.run_on:
            return clock, requested, min(requested, left)
        plan = self.plan
        end = None if plan is None else plan.end_samples  # the training's end cuts its last batch
        return clock, requested, requested if end is None or clock >= end else min(requested, end - clock)

    @property
    def plan(self) -> DrivingPlan | None:
        """The driver's plan; None without one."""
        driver = self.demand.driver
        return None if driver is None else driver.plan

    @property
    def after(self) -> int:
        """The clock after the batch that was handed out last."""
        return self.position if self.current is None else self.current.clock + self.current.size

    def predicted(self, position: int, _epoch: int) -> Iterator[tuple[int, int]]:
        """Clock and size of the batches of `epoch` after `position`, if no size is assigned."""
        while True:
            clock, _, size = self.cut(position, _epoch)
            if size == 0:
                return
            yield clock, size
            position = clock + size

    def ends_at(self, position: int, epoch: int) -> bool:
        """Whether no batch of `epoch` comes after `position`; False if only reading would tell."""
        return self.cut(position, epoch)[2] == 0

    def pass_current(self) -> None:
        """Commits the batch that is out, if any; raises if it was trained on without `step()`."""
        if self.current is not None:
            driver = self.demand.driver
            if driver is not None:
                driver.check_next()
                self.left = self.current
            self.commit()

    def commit(self) -> None:
        """Moves past the batch that is out."""
        batch = self.current
        if batch is None:
            raise nothing_out()
        # Without a plan the next size decides what `drop_last` drops.
        self.position = batch.clock + batch.size if self.plan is None else batch.end
        self.current = None

    def repeat(self, batch: Batch) -> None:
        """Has `batch` out again: the current one, or the one just committed."""
        self.position, self.current = batch.clock, batch

    def takes(self, size: int | None) -> bool:
        """Whether it can go on in a data set that now has `size` samples."""
        return size == self.size

    def enter(self, epoch: int, source: Any) -> None:
        """Goes through `epoch`, whose samples come from `source`."""

    def settle(self) -> None:
        """The iteration is over."""

    def saved(self) -> dict[str, Any]:
        """The entries that only this kind of cursor adds to a state."""
        return {}

    def go_on(self, saved: Mapping[str, Any]) -> None:
        """Restores its place in the epoch from a state."""
        self.open = saved["open_epoch"]

    def epoch_of(self, clock: int) -> int:
        """The epoch in which `clock` lies."""
        return clock // self.size

    def start_of(self, epoch: int) -> int:
        """Where an iteration through `epoch` would start now."""
        return max(self.clock, epoch * self.size)

    def move_to(self, epoch: int) -> None:
        """Stands at the start of `epoch`."""
        self.position = epoch * self.size

    def skip_epoch(self, epoch: int) -> None:
        """Passes the rest of `epoch`."""
        self.position = max(self.position, (epoch + 1) * self.size)

    def count(self, start: int, epoch: int) -> int:
        """Batches from `start` to the end of `epoch`, if one starts at `start` and the size stays."""
        return sum(self.sizes(start, epoch).values())

    def sizes(self, start: int, epoch: int) -> dict[int, int]:
        """How many batches of each size `count` counts."""
        stop = self.end_of(epoch)
        if start >= stop:
            return {}
        if self.driver is not None:
            return self.driver.sizes_between(start, stop)
        size = self.demand.batch_size
        whole, rest = divmod(stop - start, size)
        whole += rest > 0 and self.run_on
        found = {size: whole} if whole else {}
        return found | ({rest: 1} if rest and not (self.drop_last or self.run_on) else {})

    def count_whole(self, epoch: int) -> int:
        """Batches that start in `epoch`, if the size stays."""
        return self.count(self.first_of(epoch), epoch)

    def end_of(self, epoch: int) -> int:
        """Where `epoch` ends."""
        return (epoch + 1) * self.size

    def first_of(self, epoch: int) -> int:
        """Where the first batch of `epoch` starts, if the size stays."""
        start = epoch * self.size
        if not self.run_on:
            return start
        plan = self.plan
        if plan is not None and (plan.end_samples is None or start < plan.end_samples):
            return plan.clock_of(plan.update_at(start))
        return start + (self.position - start) % self.demand.batch_size

    def detach(self) -> None:
        """See `DrivenLoader.detach`."""
        if self.driver is not None:
            self.demand.batch_size = self.batch_size
            if self.current is not None:
                self.commit()
            self.demand.driver = None

    def check_shares(self, start: int, epoch: int) -> None:
        """Raises if a plain loop from `start` on would give ranks unequal shares, as far as sizes are known."""
        if self.world == 1:
            return
        plan, driver = self.plan, self.driver
        sizes = (driver is not None and driver.sizes) or (self.requested(start),)
        tails = set(plan.tails if plan is not None else ())
        if not tails and driver is None and not (self.drop_last or self.run_on):
            tails = {((epoch + 1) * self.size - start) % self.demand.batch_size}
        for size in sorted(set(sizes)):
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
            remedy=f"{remedy}, or iterate with `adabatch.accumulate(loader, model)`, "
            "which weights uneven shares exactly",
        )


class StreamLike(Protocol):
    """A source over a stream."""

    def begin(self, epoch: int, place: Mapping[str, Any] | None, offset: int, turn: Callable[[], int]) -> None:
        """Opens pass `epoch` at its beginning, or at a `place` to deliver from `offset` on.

        Where readers take turns, `turn` returns the samples in one reader's turn.
        """

    def extent(self, offset: int, wanted: int) -> int:
        """How many samples the pass has, up to `wanted`; those before `offset` are done."""

    def place(self, offset: int) -> dict[str, Any]:
        """Where the pass goes on after `offset` samples; JSON-safe."""


class StreamCursor(Cursor):
    """A cursor over passes whose length is not known ahead: the clock counts the samples delivered.

    Attributes:
        extent: `StreamLike.extent` of the pass.
        place: `StreamLike.place` of the pass; None between passes.
        kept: where a pass left early goes on; None at its beginning.
        epoch: the number of the pass.
        base: the clock where the pass began.
        sized: the length that the stream's own `__len__` claims, for `len()` only; None without one.
        chunk: samples in one reader's turn where a data set shares itself out; None before the first pass.
    """

    __slots__ = ("_counted", "base", "chunk", "epoch", "extent", "kept", "place", "sized")

    def __init__(self, *, batch_size: int, drop_last: bool) -> None:
        super().__init__(2**62, batch_size=batch_size, drop_last=bool(drop_last), run_on=False)
        self.epoch = self.base = 0
        self.sized: int | None = None
        self.chunk: int | None = None
        self._counted = False  # whether `sized` was told to the user
        self.extent: Callable[[int, int], int] = _all
        self.place: Callable[[int], dict[str, Any]] | None = None
        self.kept: dict[str, Any] | None = None

    def fork(self) -> Self:
        """See `Cursor.fork`."""
        twin = super().fork()
        twin.settle()
        return twin

    @property
    def dataset_size(self) -> int | None:
        """See `Cursor.dataset_size`."""
        return None

    def takes(self, size: int | None) -> bool:
        """See `Cursor.takes`; a pass may be of any length."""
        self.sized = size
        return True

    def enter(self, epoch: int, source: StreamLike) -> None:
        """See `Cursor.enter`."""
        offset = self.position - self.base
        source.begin(epoch, self.kept if offset else None, offset, self.turn)
        self.extent, self.place = source.extent, source.place

    def settle(self) -> None:
        """See `Cursor.settle`; keeps where the pass goes on."""
        self.kept, self.place, self.extent = self.goes_on(), None, _all

    def goes_on(self) -> dict[str, Any] | None:
        """Where the stream goes on after the committed samples; None at its beginning."""
        offset = self.position - self.base
        if not offset:
            return None
        return self.kept if self.place is None else self.place(offset)

    def __getstate__(self) -> Any:
        """The state without the parts of an iteration."""
        plain: Any = super().__getstate__()
        return None, plain[1] | {"extent": _all, "place": None, "kept": self.goes_on()}

    def turn(self) -> int:
        """Samples in one reader's turn: a rank's share of the batch size when the first pass begins."""
        if self.chunk is None:
            self.chunk = -(-self.batch_size // self.world)
        return self.chunk

    def saved(self) -> dict[str, Any]:
        """See `Cursor.saved`."""
        return {"stream": {"epoch": self.epoch, "base": self.base, "chunk": self.chunk, "place": self.goes_on()}}

    def go_on(self, saved: Mapping[str, Any]) -> None:
        """See `Cursor.go_on`."""
        self.epoch, self.base, self.open = saved["epoch"], saved["base"], None
        self.chunk, self.kept, self.place = saved["chunk"], saved["place"], None

    def epoch_of(self, _clock: int) -> int:
        """See `Cursor.epoch_of`; the current pass."""
        return self.epoch

    def start_of(self, _epoch: int) -> int:
        """See `Cursor.start_of`."""
        return self.position

    def cut(self, position: int, _epoch: int) -> tuple[int, int, int]:
        """See `Cursor.cut`; waits until the stream shows how much it holds."""
        clock, requested = self.following(position)
        offset = clock - self.base
        size = self.extent(offset, offset + requested) - offset
        if self._counted and self.sized is not None and offset + size > self.sized:
            self._counted = False  # told once
            warnings.warn(
                f"`dataset` has a `__len__` of {self.sized} and gave {offset + size} samples: `len()` of the loader was"
                " too small; correct `__len__`, or leave it out",
                UserWarning,
                stacklevel=5,
            )
        if size < requested and self.drop_last:
            size = 0
        return clock, requested, size

    def move_to(self, epoch: int) -> None:
        """See `Cursor.move_to`."""
        self.epoch, self.base = epoch, self.position

    def ends_at(self, _position: int, _epoch: int) -> bool:
        """See `Cursor.ends_at`."""
        return False

    def repeat(self, batch: Batch) -> None:
        """See `Cursor.repeat`; goes back in the stream."""
        super().repeat(batch)
        self.cut(batch.clock, batch.epoch)

    def predicted(self, position: int, _epoch: int) -> Iterator[tuple[int, int]]:
        """See `Cursor.predicted`; does not wait."""
        while True:
            clock, requested = self.following(position)
            yield clock, requested
            position = clock + requested

    def skip_epoch(self, epoch: int) -> None:
        """See `Cursor.skip_epoch`; samples never read are not counted."""
        if epoch == self.epoch:
            self.epoch, self.base = epoch + 1, self.position

    def end_of(self, _epoch: int) -> int:
        """See `Cursor.end_of`; from the stream's own `__len__`, raises without one."""
        if self.sized is None:
            rule = "a loader over a stream without `__len__` has no length"
            raise ArgumentTypeError(None, rule, remedy="count the batches, or give the stream one")
        self._counted = True
        return self.base + self.sized

    def first_of(self, epoch: int) -> int:
        """See `Cursor.first_of`."""
        return self.base if epoch == self.epoch else self.position


def _all(_offset: int, wanted: int) -> int:
    """Stands in for `StreamLike.extent` between passes."""
    return wanted
