"""Where a loader stands: what is committed, and which of its iterations hands out batches."""

from __future__ import annotations

import copy
import threading
import weakref
from typing import TYPE_CHECKING

from adabatch._errors import UsageError
from adabatch.types import Batch, Driver

if TYPE_CHECKING:
    from adabatch.data.cursor import Cursor
    from adabatch.data.iterators import Pass


class Place:
    """Where a loader stands. Each iteration goes along a cursor of its own.

    Without a driver the newest iteration is where the loader stands. With one, looking is free: an iteration moves
    nothing until a batch of it commits, and from then on the loader stands where that one does.

    Args:
        cursor: at the beginning.

    Attributes:
        cursor: what is committed, and so saved.
        shown: the cursor of the iteration that handed out a batch last.
    """

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = self.shown = cursor
        self._front: weakref.ref[Pass] | None = None
        self._moves = 0  # of where the loader stands, by commits to a driver and by loads
        self._before_looks: Cursor | None = None  # where it stood before iterations that were left early
        self._ended = False  # whether an iteration came to its end meanwhile
        self._thread = 0

    @property
    def current(self) -> Batch | None:
        """The batch that was handed out and is not committed."""
        return self.shown.current

    @property
    def front(self) -> Pass | None:
        """The iteration that handed out a batch last, if it goes on."""
        found = self._front() if self._front is not None else None
        return found if found is not None and found.live else None

    @property
    def epoch(self) -> int:
        """The epoch that an iteration goes through; if none does, or all of it was trained on, the next one's."""
        front = self.front
        if front is None or (self.cursor.driver is not None and front.done):
            return self.next_epoch
        return front.epoch

    @property
    def next_epoch(self) -> int:
        """The epoch that the next iteration would go through."""
        front, cursor = self.front, self.cursor
        if front is not None and not front.over:
            return front.epoch
        if cursor.open is not None:
            return cursor.open
        epoch = cursor.epoch_of(cursor.clock)
        return epoch + (cursor.begun == epoch)

    def begin(self, new: Pass) -> tuple[Cursor, int]:
        """Begins an iteration: the cursor that it goes along, and its epoch.

        Raises:
            RuntimeError: if a driver's iteration goes on of which something was trained on.
        """
        front, driver = self.front, self.cursor.driver
        if driver is not None:
            driver.check_next(begins=True)
            if front is not None and front.trained and not (front.stuck or front.done):
                raise UsageError(
                    None,
                    "a second iteration of a loader must not begin before the first has ended",
                    remedy=(
                        "evaluate with another loader; this one drives the schedule; leave the first loop, or call "
                        "`close()` on its iterator"
                    ),
                )
        elif self._before_looks is None:
            self._before_looks = self.cursor.fork()
        cursor = self.cursor.fork()
        epoch = cursor.epoch_of(cursor.clock)
        if cursor.open is not None:
            epoch, cursor.open = cursor.open, None
        elif cursor.begun == epoch:
            cursor.skip_epoch(epoch)
            epoch = cursor.epoch_of(cursor.clock)
        new.before, new.seen = self._front, self._moves
        if driver is None:
            self.cursor = cursor
        self.shown, self._front = cursor, weakref.ref(new)
        return cursor, epoch

    def hand_out(self, by: Pass) -> None:
        """An iteration is asked for its next batch.

        Raises:
            RuntimeError: if the loader has gone on elsewhere.
        """
        self._thread = threading.get_ident()
        if by.cursor is self.shown and by.seen == self._moves:
            return
        if by.seen != self._moves and by.cursor.driver is not None:
            raise UsageError(
                None,
                (
                    "an iteration of a loader that a schedule drives must not go on after a later one was "
                    "trained on, or a state was loaded"
                ),
                remedy="take batches from the latest iterator only",
            )
        self.shown, self._front = by.cursor, weakref.ref(by)

    def commit(self) -> None:
        """A driver says that the batch that is out was trained on.

        Raises:
            RuntimeError: if there is none, or another thread took it from the loader.
        """
        cursor, batch = self.shown, self.shown.current
        if batch is not None and self._thread != threading.get_ident():
            raise UsageError(
                None,
                "a batch of a loader that a schedule drives must be taken by the thread that trains on it",
                got="another thread, which runs ahead",
                remedy="batches are prefetched by `num_workers=` and moved ahead by `device=`",
            )
        cursor.commit()
        assert batch is not None
        cursor.begun = batch.epoch
        self.cursor, self._moves = cursor, self._moves + 1
        found = self._front() if self._front is not None else None
        if found is not None and found.cursor is cursor:
            found.seen, found.trained = self._moves, True

    def end(self, which: Pass, *, exhausted: bool) -> None:
        """An iteration is over: it came to its end, or was left."""
        if exhausted and which.cursor.driver is None:
            self._ended = True
        if exhausted and not which.handed_out:
            self.cursor = which.cursor  # nothing was left of an epoch, whose end is told now
        if which.cursor is not self.shown:
            return
        before = which.before() if which.before is not None else None
        driven = which.cursor.driver is not None
        if before is not None and before.live and not before.stuck and not (driven and before.seen != self._moves):
            self.shown, self._front = before.cursor, which.before  # the loop around it goes on
        elif which.cursor.current is None and driven:
            self.shown = self.cursor

    def fork(self) -> Place:
        """Another place that stands here, and of which this one hears nothing."""
        cursor = self.cursor.fork()
        cursor.demand = copy.copy(cursor.demand)
        return Place(cursor)

    # Moved from outside.

    def moved(self) -> None:
        """The loader was placed elsewhere: by a state, or a call."""
        self._moves += 1
        self.shown, self._front = self.cursor, None
        self._before_looks, self._ended = None, False

    def forget_looks(self) -> None:
        """Goes back to before iterations that were left early: they were looks, since nobody had a schedule yet."""
        if self._before_looks is not None and not self._ended:
            self.cursor = self._before_looks.fork()
            if self.front is None or self.shown.current is None:
                self.shown = self.cursor
        self._before_looks = None

    def attach(self, driver: Driver) -> None:
        """See `DrivenLoader.attach`."""
        self.cursor.attach(driver)

    def detach(self) -> None:
        """See `DrivenLoader.detach`."""
        if self.cursor.driver is not None:
            self.shown.detach()
            self.cursor = self.shown
