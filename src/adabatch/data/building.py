"""Which source serves a loader: tensors directly, the main process, workers, or readers of a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adabatch import _distributed
from adabatch.data import datasets, sources
from adabatch.data.assembler import Assembler
from adabatch.data.order import Order
from adabatch.data.pool import Pool
from adabatch.data.readers import Collate, MapReader
from adabatch.data.rng import SampleRng
from adabatch.data.shared_out import SharedOutSource
from adabatch.data.stream_source import HerePool, StreamSource
from adabatch.data.streams import Opening, StreamReader


@dataclass(frozen=True)
class Fetching:
    """How samples are fetched.

    Attributes:
        dataset: where from.
        collate_fn: makes a batch of samples.
        workers: processes; 0 for the main one.
        depth: runs in flight.
        timeout: seconds to wait for a worker.
        context: how workers start.
        init: the user's `worker_init_fn`.
        arrive: what to do with a batch or run that arrives.
        sample_rng: whether generators are set for each sample.
    """

    dataset: Any
    collate_fn: Collate
    workers: int
    depth: int
    timeout: float
    context: Any
    init: Callable[[int], None] | None
    arrive: sources.Arrive | None
    sample_rng: bool

    def rng(self, seed: int) -> SampleRng | None:
        """What sets the generators, if they are to be set."""
        return SampleRng(seed) if self.sample_rng else None

    def pool(self, reader: Any, seed: int, *, show_info: bool = True) -> Pool:
        """Worker processes."""
        return Pool(
            reader,
            count=self.workers,
            seed=seed % 2**32,
            collate=sources.is_default(self.collate_fn),
            context=self.context,
            init=self.init,
            show_info=show_info,
        )

    @property
    def own_collate(self) -> Collate | None:
        """A `collate_fn` of the user's, to be called on the samples of each batch."""
        return None if sources.is_default(self.collate_fn) else self.collate_fn


def from_map(how: Fetching, order: Order, *, seed: int, here: bool = False) -> sources.Source:
    """A source over a map-style data set; `here` for one without workers."""
    source: sources.Source
    columns = datasets.columns_of(how.dataset)
    if columns and how.own_collate is None:
        source = sources.Columns(columns, order, alone=isinstance(how.dataset, Tensor))
    else:
        reader = MapReader(datasets.indexable(how.dataset), order, how.rng(seed))
        if how.workers > 0 and not here:
            return Assembler(
                lambda: how.pool(reader, seed),
                depth=how.depth,
                drawn=order.sent,
                timeout=how.timeout,
                collate=how.own_collate,
                arrive=how.arrive,
            )
        source = sources.Here(reader, how.collate_fn)
    return source if how.arrive is None else sources.Moved(source, how.arrive)


def from_stream(how: Fetching, *, seed: int, rank: int, world: int) -> StreamSource:
    """A source over a stream."""
    reader = StreamReader(how.dataset, seed=seed, rng=how.rng(seed), rank=rank, world=world)

    def start() -> Pool | HerePool:
        if how.workers == 0:
            return HerePool(reader, collate=how.own_collate is None)
        return how.pool(reader, seed, show_info=False)  # each walks the whole stream: it must not share itself out

    return StreamSource(
        start,
        rank=rank,
        world=world,
        depth=how.depth,
        timeout=how.timeout,
        collate=how.own_collate,
        arrive=how.arrive,
    )


def from_shared_out(how: Fetching, *, seed: int, rank: int, world: int, group: Any, chunk: int) -> SharedOutSource:
    """A source over a stream that shares itself out."""
    reader = StreamReader(how.dataset, seed=seed, rng=how.rng(seed), rank=0, world=1)

    def start() -> Pool | HerePool:
        return how.pool(reader, seed) if how.workers else HerePool(reader, collate=how.own_collate is None)

    return SharedOutSource(
        start,
        readers=max(1, how.workers),
        chunk=chunk,
        rank=rank,
        world=world,
        agree=lambda value: _distributed.least(value, group),
        depth=how.depth,
        timeout=how.timeout,
        collate=how.own_collate,
        arrive=how.arrive,
    )


def one_of_stream(how: Fetching, *, seed: int, offset: int, opening: Opening) -> Any:
    """A batch of the one sample at `offset` of a stream, read anew."""
    reader = StreamReader(how.dataset, seed=seed, rng=how.rng(seed), rank=0, world=1)
    pool = HerePool(reader, collate=how.own_collate is None)
    pool.send(0, offset, offset + 1, opening)
    reply = pool.receive(0)
    data = reply.data if how.own_collate is None else how.own_collate(reply.data)
    return data if how.arrive is None else sources.arrived(how.arrive, data)
