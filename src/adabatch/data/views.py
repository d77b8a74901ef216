"""What tools that look into a loader find there: its order, and its batches, as torch's samplers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from adabatch.data.cursor import Cursor
from adabatch.data.order import BLOCK, Order


class SamplerView:
    """The samples of the epoch in which a loader stands, over all ranks, in their order.

    Args:
        order: makes it.
        stand: gives the loader's place and the epoch.
    """

    def __init__(self, order: Callable[[], Order], stand: Callable[[], tuple[Cursor, int]]) -> None:
        self._order, self._stand = order, stand

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self._stand()[0].size

    def __iter__(self) -> Iterator[int]:
        order, (cursor, epoch) = self._order(), self._stand()
        end = (epoch + 1) * cursor.size
        for clock in range(epoch * cursor.size, end, BLOCK):
            yield from order.items(clock, min(clock + BLOCK, end)).tolist()


class BatchSamplerView:
    """The batches of the epoch in which a loader stands, over all ranks, as lists of sample numbers. It is only read.

    Args:
        sampler: the loader's.
        order: as of `SamplerView`.
        stand: as of `SamplerView`.
    """

    def __init__(self, sampler: object, order: Callable[[], Order], stand: Callable[[], tuple[Cursor, int]]) -> None:
        self.sampler = sampler
        self._order, self._stand = order, stand

    @property
    def batch_size(self) -> int:
        """Samples in the next batch; to change it set the loader's."""
        return self._stand()[0].batch_size

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that would be short is dropped."""
        return self._stand()[0].drop_last

    def __len__(self) -> int:
        """Batches in the epoch."""
        cursor, epoch = self._stand()
        return cursor.count_whole(epoch)

    def __iter__(self) -> Iterator[list[Any]]:
        order, (cursor, epoch) = self._order(), self._stand()
        twin = cursor.fork()
        for clock, size in twin.predicted(cursor.first_of(epoch), epoch):
            keys = order.keys(clock, clock + size)
            yield keys if isinstance(keys, list) else keys.tolist()
