"""Iterates an epoch in whole rank batches or micro-batches; shows it to tools as sampler and batch sampler."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from adabatch._errors import ArgumentTypeError, UsageError
from adabatch.data import arguments
from adabatch.data.cursor import Cursor, check_share
from adabatch.data.order import BLOCK, items_of
from adabatch.data.place import Iteration, Place
from adabatch.data.sources.supply import Supply
from adabatch.data.workers.pool import WorkerDiedError
from adabatch.types import Batch, Part


class Pass:
    """An iteration through the rest of one epoch. It begins when its first batch is asked for.

    Attributes:
        at: where this iteration stands.
    """

    _begun = False
    _failed_at: Batch | None = None  # the batch that had a broken sample
    _tried: int | None = None  # where a stream failed before

    def __init__(self, place: Place, supply: Supply) -> None:
        self.at = Iteration()
        self._place, self._supply = place, supply

    def __len__(self) -> int:
        """Batches from its start to its end; a TypeError if a batch size was assigned meanwhile, or over a stream."""
        if not self._begun:
            cursor, epoch = self._place.cursor, self._place.next_epoch
            return 0 if cursor.open is not None else cursor.count(cursor.start_of(epoch), epoch)
        if self.at.assigned != self._place.demand.assigned:
            rule = "an iteration during which `batch_size` was assigned has no length: the sizes to come are open"
            raise ArgumentTypeError(None, rule)
        return self.at.cursor.count(self.at.start, self.at.epoch)

    def __bool__(self) -> bool:
        return True

    def restart(self) -> None:
        """Lets it begin anew, at the next epoch."""
        self.close()
        self._begun = False

    def close(self) -> None:
        """Ends it; the loader can be iterated again."""
        self._supply.end(self._place, self.at)
        self._begun = True

    def __del__(self) -> None:
        self.close()

    def begin(self) -> None:
        """Begins it; raises StopIteration if it had begun before, and so is over."""
        if self._begun:
            raise StopIteration
        at = Iteration()
        self._supply.open(self._place, at)
        at.start, at.assigned = at.cursor.clock, at.cursor.demand.assigned
        self.at, self._failed_at = at, None
        self._begun = at.live = True

    def failed(self, error: BaseException) -> None:
        """The batch was not handed out whole: the next iteration begins at its start.

        This one goes on there too after an interrupt or the death of a worker. After a broken sample it goes on at the
        next batch, so that a loop can skip it. A stream is tried once more and then ends, since nothing leads past the
        sample. An `error` that would end the loop as if the epoch were over is raised as another.
        """
        cursor, lost = self.at.cursor, self.at.cursor.current
        cursor.current = cursor.begun = None
        self.at.stuck = True
        if isinstance(error, Exception) and not isinstance(error, WorkerDiedError):
            if cursor.dataset_size is not None:
                self._failed_at = lost
            elif self._tried == cursor.position:
                self._supply.end(self._place, self.at)
            else:
                self._tried = cursor.position
        if isinstance(error, StopIteration):
            rule = "must not leave a data set's `__getitem__` or a `collate_fn`, since it would end the loop silently"
            raise UsageError("StopIteration", rule, remedy="raise another error") from error

    def next_batch(self) -> Batch:
        """The next batch; its samples are not fetched yet."""
        at = self.at
        if not at.live:
            self.begin()
            at = self.at
        self._place.hand_out(at)
        cursor, at.stuck = at.cursor, False
        if self._failed_at is not None:
            cursor.current, self._failed_at = self._failed_at, None
            cursor.commit()
        cursor.pass_current()
        try:
            batch = cursor.advance(at.epoch)  # reads a stream, to see how far it reaches
        except BaseException as error:
            self.failed(error)
            raise
        if batch is None:
            self._supply.end(self._place, at, exhausted=True)
            raise StopIteration
        at.handed_out = True
        return batch


class Batches(Pass, Iterator[Any]):
    """Whole rank batches."""

    def __next__(self) -> Any:
        batch, at = self.next_batch(), self.at
        cursor = at.cursor
        if cursor.world > 1 and batch.size % cursor.world:
            cursor.current = None
            check_share(batch.size, cursor.world, tail=batch.size < batch.requested)
        try:
            data = at.source.fetch(cursor.first, cursor.last, self._ahead)
        except BaseException as error:
            self.failed(error)
            raise
        if cursor.demand.driver is None:
            cursor.begun = at.epoch
            cursor.commit()
        return data

    def begin(self) -> None:
        """See `Pass.begin`."""
        super().begin()
        try:
            self.at.cursor.check_shares(self.at.start, self.at.epoch)
            self._warn_of_micro()
            self._warn_of_sharing()
        except (ValueError, UserWarning):
            self.close()
            raise

    def _warn_of_micro(self) -> None:
        """Says once, unless another loop used the `micro_batch_size`, that batches come whole although it is set."""
        cursor, demand = self.at.cursor, self._place.demand
        micro = demand.micro_batch_size
        if micro is None or demand.micro_settled or (share := -(-cursor.batch_size // cursor.world)) <= micro:
            return
        demand.micro_settled = True
        warnings.warn(
            f"`micro_batch_size` of {micro} does not split the batches of a plain loop, which come whole, with {share} "
            "samples on a rank; loop over `ab.accumulate(loader, model)`, or set it to None",
            UserWarning,
            stacklevel=5,
        )

    def _warn_of_sharing(self) -> None:
        """Looks once for a sign that the batch size is one rank's, unless a group or a micro-batch size was given."""
        cursor, supply, demand = self.at.cursor, self._supply, self._place.demand
        meant = demand.micro_batch_size is not None and demand.micro_batch_size * cursor.world <= cursor.batch_size
        if cursor.world == 1 or supply.group is not None or supply.mesh is not None or meant or demand.sharing_settled:
            return
        demand.sharing_settled = True
        arguments.warn_of_sharing(supply.dataset, cursor.batch_size, cursor.rank, cursor.world)

    def _ahead(self) -> Iterator[tuple[int, int]]:
        cursor = self.at.cursor
        return (
            items_of(clock - cursor.base, size, cursor.rank, cursor.world)
            for clock, size in cursor.predicted(cursor.after, self.at.epoch)
        )


class Parts(Pass, Iterator[tuple[Any, Part]]):
    """Micro-batches, fetched one at a time."""

    _batch: Batch | None = None
    _bounds: tuple[tuple[int, int], ...] = ()
    _index = 0

    def __next__(self) -> tuple[Any, Part]:
        if self._batch is None or self._index == len(self._bounds):
            self._batch = None
            self._batch = self.next_batch()
            self._cut(self._batch)
        else:
            self._place.hand_out(self.at)
        batch, at, index = self._batch, self.at, self._index
        first, last = self._bounds[index]
        try:
            data = at.source.fetch(first, last, self._ahead) if last > first else self._supply.spare(at, batch)
        except BaseException as error:
            self._batch = None
            self.failed(error)
            raise
        self._index, cursor = index + 1, at.cursor
        turn = (cursor.rank - (batch.clock - cursor.base)) % cursor.world
        part = Part(batch, index, len(self._bounds), last - first, turn)
        cursor.part = part
        if cursor.demand.driver is None:
            cursor.begun = at.epoch
            if part.is_last and cursor.current is batch:
                cursor.commit()
        return data, part

    def begin(self) -> None:
        """See `Pass.begin`."""
        super().begin()
        self._place.demand.micro_settled |= not self._place.is_fork

    def again(self) -> None:
        """Hands the current batch out again from its start, in micro-batches as now set; raises if there is none."""
        batch = self._batch
        if batch is None:
            raise UsageError("again", "needs a batch whose micro-batches are being handed out")
        self.at.cursor.repeat(batch)
        self._cut(batch)

    def _cut(self, batch: Batch) -> None:
        cursor = self.at.cursor
        self._bounds = bounds_of(
            batch.clock - cursor.base, batch.size, cursor.demand.micro_batch_size, cursor.rank, cursor.world
        )
        self._index = 0

    def _ahead(self) -> Iterator[tuple[int, int]]:
        cursor = self.at.cursor  # holds no iteration: that must end when it is left
        place = cursor, self.at.epoch, cursor.after, cursor.demand.micro_batch_size
        return bounds_ahead(self._bounds[self._index + 1 :], *place)


def bounds_ahead(
    rest: tuple[tuple[int, int], ...], cursor: Cursor, epoch: int, after: int, micro: int | None
) -> Iterator[tuple[int, int]]:
    """The micro-batches to come: the `rest` of a batch, then those of the batches after the clock `after`."""
    yield from (bounds for bounds in rest if bounds[1] > bounds[0])
    for clock, size in cursor.predicted(after, epoch):
        for bounds in bounds_of(clock - cursor.base, size, micro, cursor.rank, cursor.world):
            if bounds[1] > bounds[0]:
                yield bounds


def bounds_of(clock: int, size: int, micro: int | None, rank: int, world: int) -> tuple[tuple[int, int], ...]:
    """First and one past the last item of each micro-batch of a rank.

    Every rank has as many, of sizes that differ by at most one sample. So some are empty on a rank with few samples.
    """
    first, last = items_of(clock, size, rank, world)
    count, share = count_parts(size, micro, world), last - first
    return tuple((first + share * i // count, first + share * (i + 1) // count) for i in range(count))


def count_parts(size: int, micro: int | None, world: int) -> int:
    """The number of micro-batches into which each of `world` ranks cuts its share of a batch of `size` samples."""
    largest = -(-size // world)
    return 1 if micro is None else -(-largest // micro)


class SamplerView:
    """The sample numbers of a loader's current epoch, over all ranks, in order."""

    def __init__(self, place: Place, supply: Supply) -> None:
        self._place, self._supply = place, supply

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self._place.cursor.size

    def __iter__(self) -> Iterator[int]:
        size = len(self)
        order, start = self._supply.order(size), self._place.epoch * size
        for clock in range(start, start + size, BLOCK):
            yield from order.items(clock, min(clock + BLOCK, start + size)).tolist()


class BatchSamplerView:
    """The batches of a loader's current epoch, over all ranks, as lists of sample numbers; read-only."""

    def __init__(self, sampler: object, place: Place, supply: Supply) -> None:
        self.sampler = sampler
        self._place, self._supply = place, supply

    @property
    def batch_size(self) -> int:
        """Samples in the next batch; to change it set the loader's."""
        return self._place.cursor.batch_size

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that would be short is dropped."""
        return self._place.cursor.drop_last

    def __len__(self) -> int:
        """Batches in the epoch."""
        return self._place.cursor.count_whole(self._place.epoch)

    def __iter__(self) -> Iterator[list[Any]]:
        cursor, epoch = self._place.cursor.fork(), self._place.epoch
        order = self._supply.order(cursor.size)
        for clock, size in cursor.predicted(cursor.first_of(epoch), epoch):
            keys = order.keys(clock, clock + size)
            yield keys if isinstance(keys, list) else keys.tolist()
