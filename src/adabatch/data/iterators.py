"""The two ways through an epoch: whole rank batches, and their micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from adabatch.data.cursor import Cursor, check_share
from adabatch.data.order import items_of
from adabatch.types import Batch, Part

if TYPE_CHECKING:
    from adabatch.data.loader import DataLoader


class Pass:
    """One way through the rest of one epoch.

    Args:
        loader: the loader that it belongs to.
        epoch: which epoch.
        start: the clock where it starts.
    """

    def __init__(self, loader: DataLoader, epoch: int, start: int) -> None:
        self.epoch, self.start = epoch, start
        self.live, self._paused = True, False
        self.assigned = loader._cursor.assigned
        loader._serial = self._serial = loader._serial + 1
        self._loader, self._cursor, self._source = loader, loader._cursor, loader._source.fetch

    def close(self) -> None:
        """Ends it; the loader can be iterated again."""
        if self.live or self._paused:
            self.live = self._paused = False
            if self._loader._serial == self._serial:
                self._loader._rest()

    def __del__(self) -> None:
        self.close()

    def _failed(self) -> None:
        """The batch was not handed out whole: this iteration, or else the next one, goes on at its start."""
        self._cursor.current = self._loader._begun = None
        self._loader._keep_place()
        self.live, self._paused = False, True

    def _next_batch(self) -> Batch:
        if not self.live:
            if not self._paused or self._loader._pass is None or self._loader._pass() is not self:
                raise StopIteration
            self.live, self._paused = True, False
        self._cursor.pass_current()
        try:
            batch = self._cursor.advance(self.epoch)  # a stream is read to find out how far it reaches
        except BaseException:
            self._failed()
            raise
        if batch is None:
            self.close()
            raise StopIteration
        return batch


class Batches(Pass, Iterator[Any]):
    """Whole rank batches."""

    def __next__(self) -> Any:
        cursor = self._cursor
        batch = self._next_batch()
        if cursor.world > 1 and batch.size % cursor.world:
            cursor.current = None
            check_share(batch.size, cursor.world, tail=batch.size < batch.requested)
        try:
            data = self._source(cursor.first, cursor.last, self._ahead)
        except BaseException as error:
            self._failed()
            _refuse_stop(error)
            raise
        self._loader._begun = self.epoch
        if cursor.driver is None:
            cursor.commit()
        return data

    def _ahead(self) -> Iterator[tuple[int, int]]:
        cursor = self._cursor
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
            batch = self._next_batch()
            self._bounds = bounds_of(
                batch.clock - self._cursor.base,
                batch.size,
                self._loader.micro_batch_size,
                self._cursor.rank,
                self._cursor.world,
            )
            self._batch, self._index = batch, 0
        first, last = self._bounds[self._index]
        try:
            data = self._source(first, last, self._ahead) if last > first else self._loader._spare(self._batch)
        except BaseException as error:
            self._batch = None
            self._failed()
            _refuse_stop(error)
            raise
        self._loader._begun = self.epoch
        part = Part(self._batch, self._index, len(self._bounds), last - first)
        self._index += 1
        self._loader._part = part
        if part.is_last and self._cursor.driver is None and self._cursor.current is self._batch:
            self._cursor.commit()
        return data, part

    def _ahead(self) -> Iterator[tuple[int, int]]:
        place = self._cursor, self.epoch, self._cursor.after, self._loader.micro_batch_size
        return bounds_ahead(
            self._bounds[self._index + 1 :], *place
        )  # holds no iteration: that must end when it is left


def _refuse_stop(error: BaseException) -> None:
    """Raises if `error` would end the loop as if the epoch were over."""
    if isinstance(error, StopIteration):
        raise RuntimeError(
            "`StopIteration` must not come out of a data set's `__getitem__` or a `collate_fn`, since it would end the"
            " loop without a word; raise another error"
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
