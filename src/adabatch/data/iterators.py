"""The two ways through an epoch: whole rank batches, and their micro-batches."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from adabatch._errors import ArgumentTypeError, UsageError
from adabatch.data.cursor import Cursor, check_share
from adabatch.data.order import items_of
from adabatch.data.place import Place
from adabatch.data.pool import WorkerDiedError
from adabatch.data.sources import Source
from adabatch.types import Batch, Part


@dataclass(frozen=True, slots=True)
class Supply:
    """What an iteration needs of its loader.

    Attributes:
        open: begins it: the cursor along which it goes, its epoch, and where its samples come from.
        rest: is told that it is over.
        spare: one sample, for a rank that has none of its own in a micro-batch of a batch.
        micro_batch_size: samples per forward and backward pass on one rank, now; None for whole rank batches.
    """

    open: Callable[[Pass], tuple[Cursor, int, Source]]
    rest: Callable[[Pass], None]
    spare: Callable[[Pass, Batch], Any]
    micro_batch_size: Callable[[], int | None]


class Pass:
    """One way through the rest of one epoch. It begins when its first batch is asked for.

    Args:
        supply: the loader that it belongs to.
        place: where that stands.

    Attributes:
        cursor: along which it goes, once begun.
        epoch: which epoch, once begun.
        start: the clock where it starts, once begun.
        source: where its samples come from, once begun.
        place: where the loader stands.
        live: whether it goes on.
        handed_out: whether it handed out a batch.
        stuck: whether it goes on and the batch that was asked for last could not be had.
        trained: whether a driver heard of a batch of it that was trained on.
        before: the iteration that handed out a batch last when it began.
        seen: how often the loader had been moved when it was part of that last.
        assigned: how often a batch size had been assigned when it began.
    """

    cursor: Cursor
    source: Source
    epoch = start = assigned = seen = 0
    live = trained = stuck = handed_out = False
    before: weakref.ref[Pass] | None = None
    _begun = False
    _failed_at: Batch | None = None  # the batch of which a sample could not be had
    _tried: int | None = None  # where a stream failed before

    def __init__(self, supply: Supply, place: Place) -> None:
        self._supply, self.place = supply, place

    def __len__(self) -> int:
        """Batches from where it starts to its end.

        Raises:
            TypeError: if that is not known: the batch size was assigned meanwhile, or it goes through a stream.
        """
        if not self._begun:
            cursor, epoch = self.place.cursor, self.place.next_epoch
            return 0 if cursor.open is not None else cursor.count(cursor.start_of(epoch), epoch)
        if self.assigned != self.cursor.demand.assigned:
            raise ArgumentTypeError(
                None, ("an iteration during which `batch_size` was assigned has no length: the sizes to come are open")
            )
        return self.cursor.count(self.start, self.epoch)

    def __bool__(self) -> bool:
        return True

    @property
    def over(self) -> bool:
        """Whether all of its epoch was handed out, if that is known without waiting."""
        return self.live and self.cursor.ends_at(self.cursor.after, self.epoch)

    @property
    def done(self) -> bool:
        """Whether all of its epoch was handed out and nothing of it is still to be trained on."""
        return self.over and self.cursor.current is None

    def restart(self) -> None:
        """Lets it begin anew, at the next epoch."""
        self.close()
        self._begun = self.handed_out = False

    def close(self) -> None:
        """Ends it; the loader can be iterated again."""
        self._end(exhausted=False)
        self._begun = True

    def __del__(self) -> None:
        self.close()

    def _end(self, *, exhausted: bool) -> None:
        if self.live:
            self.live = False
            self._failed_at = None
            self._supply.rest(self)
            self.place.end(self, exhausted=exhausted)

    def _begin(self) -> None:
        if self._begun:
            raise StopIteration
        self.cursor, self.epoch, self.source = self._supply.open(self)
        self.start, self.assigned = self.cursor.clock, self.cursor.demand.assigned
        self._begun = self.live = True

    def _failed(self, error: BaseException) -> None:
        """The batch was not handed out whole: the next iteration goes on at its start.

        So does this one, after an interrupt or the death of a worker. After a sample that could not be had it goes on
        at the next batch, so that a loop can skip what is broken. A stream is tried once more, and then it ends, since
        there is no way past the sample.
        """
        cursor, lost = self.cursor, self.cursor.current
        cursor.current = cursor.begun = None
        self.stuck = True
        if not isinstance(error, Exception) or isinstance(error, WorkerDiedError):
            return
        if cursor.known:
            self._failed_at = lost
        elif self._tried == cursor.position:
            self._end(exhausted=False)
        else:
            self._tried = cursor.position

    def _next_batch(self) -> Batch:
        if not self.live:
            self._begin()
        self.place.hand_out(self)
        cursor, self.stuck = self.cursor, False
        if self._failed_at is not None:
            cursor.current, self._failed_at = self._failed_at, None
            cursor.commit()
        cursor.pass_current()
        try:
            batch = cursor.advance(self.epoch)  # a stream is read to find out how far it reaches
        except BaseException as error:
            self._failed(error)
            raise
        if batch is None:
            self._end(exhausted=True)
            raise StopIteration
        self.handed_out = True
        return batch


class Batches(Pass, Iterator[Any]):
    """Whole rank batches."""

    def __next__(self) -> Any:
        batch, cursor = self._next_batch(), self.cursor
        if cursor.world > 1 and batch.size % cursor.world:
            cursor.current = None
            check_share(batch.size, cursor.world, tail=batch.size < batch.requested)
        try:
            data = self.source.fetch(cursor.first, cursor.last, self._ahead)
        except BaseException as error:
            self._failed(error)
            _refuse_stop(error)
            raise
        if cursor.demand.driver is None:
            cursor.begun = self.epoch
            cursor.commit()
        return data

    def _begin(self) -> None:
        super()._begin()
        try:
            self.cursor.check_shares(self.start, self.epoch)
        except ValueError:
            self.close()
            raise

    def _ahead(self) -> Iterator[tuple[int, int]]:
        cursor = self.cursor
        return (
            items_of(clock - cursor.base, size, cursor.rank, cursor.world)
            for clock, size in cursor.predicted(cursor.after, self.epoch)
        )


class Parts(Pass, Iterator[tuple[Any, Part]]):
    """Micro-batches, fetched one at a time."""

    _batch: Batch | None = None
    _bounds: tuple[tuple[int, int], ...] = ()
    _index = 0

    def __next__(self) -> tuple[Any, Part]:
        if self._batch is None or self._index == len(self._bounds):
            self._batch = None
            self._batch = self._next_batch()
            self._cut(self._batch)
        else:
            self.place.hand_out(self)
        batch, cursor = self._batch, self.cursor
        first, last = self._bounds[self._index]
        try:
            data = self.source.fetch(first, last, self._ahead) if last > first else self._supply.spare(self, batch)
        except BaseException as error:
            self._batch = None
            self._failed(error)
            _refuse_stop(error)
            raise
        part = Part(batch, self._index, len(self._bounds), last - first)
        self._index += 1
        cursor.part = part
        if cursor.demand.driver is None:
            cursor.begun = self.epoch
            if part.is_last and cursor.current is batch:
                cursor.commit()
        return data, part

    def again(self) -> None:
        """The batch of which a micro-batch was handed out last comes again from its start, in micro-batches as now set.

        Raises:
            RuntimeError: if no micro-batch was handed out.
        """
        batch = self._batch
        if batch is None:
            raise UsageError("again", "needs a batch of which a micro-batch was handed out")
        self.cursor.repeat(batch)
        self._cut(batch)

    def _cut(self, batch: Batch) -> None:
        cursor = self.cursor
        self._bounds = bounds_of(
            batch.clock - cursor.base, batch.size, self._supply.micro_batch_size(), cursor.rank, cursor.world
        )
        self._index = 0

    def _ahead(self) -> Iterator[tuple[int, int]]:
        place = self.cursor, self.epoch, self.cursor.after, self._supply.micro_batch_size()
        return bounds_ahead(
            self._bounds[self._index + 1 :], *place
        )  # holds no iteration: that must end when it is left


def _refuse_stop(error: BaseException) -> None:
    """Raises if `error` would end the loop as if the epoch were over."""
    if isinstance(error, StopIteration):
        raise UsageError(
            "StopIteration",
            (
                "must not come out of a data set's `__getitem__` or a `collate_fn`, since it would end the "
                "loop without a word"
            ),
            remedy="raise another error",
        ) from error


def bounds_ahead(
    rest: tuple[tuple[int, int], ...], cursor: Cursor, epoch: int, after: int, micro: int | None
) -> Iterator[tuple[int, int]]:
    """The micro-batches that follow: what is `rest` of a batch, then those of the batches that follow on `after`."""
    yield from (bounds for bounds in rest if bounds[1] > bounds[0])
    for clock, size in cursor.predicted(after, epoch):
        for bounds in bounds_of(clock - cursor.base, size, micro, cursor.rank, cursor.world):
            if bounds[1] > bounds[0]:
                yield bounds


def bounds_of(clock: int, size: int, micro: int | None, rank: int, world: int) -> tuple[tuple[int, int], ...]:
    """First and one past the last item of each micro-batch of a rank.

    The number of micro-batches is the same on every rank; their sizes differ by at most one sample, so that some are
    empty where a rank has fewer samples than there are micro-batches.
    """
    first, last = items_of(clock, size, rank, world)
    largest = -(-size // world)
    count = 1 if micro is None else -(-largest // micro)
    share = last - first
    return tuple((first + share * i // count, first + share * (i + 1) // count) for i in range(count))
