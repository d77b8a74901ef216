"""Which source serves a loader: tensors directly, the main process, workers, or readers of a stream."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from adabatch import _distributed
from adabatch.data import datasets, sources
from adabatch.data.assembler import Assembler, Learned
from adabatch.data.order import Order, seed_of
from adabatch.data.pool import Pool
from adabatch.data.readers import Collate, MapReader
from adabatch.data.rng import SampleRng
from adabatch.data.shared_out import SharedOutSource
from adabatch.data.stream_source import HerePool, StreamSource
from adabatch.data.streams import Mark, Opening, StreamReader
from adabatch.data.worker import Apart


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
        seed: which family of orders, and of random numbers.
        size: samples in an epoch.
        learned: what iterations of the loader learn for those that follow.
        fresh: where a pass of a stream begins, if it knows where it stands.
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
    seed: int
    size: int
    learned: Learned
    fresh: Mark | None = None

    def same(self, other: Fetching) -> bool:
        """Whether workers of the other would do as well."""
        mine = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return all(one is another or (type(one) is int and one == another) for one, another in mine)

    def rng(self) -> SampleRng | None:
        """What sets the generators, if they are to be set."""
        return SampleRng(self.seed) if self.sample_rng else None

    def pool(self, reader: Any, seed: int, *, show_info: bool = True) -> Pool:
        """Worker processes."""
        return Pool(
            reader,
            count=self.workers,
            seed=seed,
            collate=sources.is_default(self.collate_fn),
            context=self.context,
            init=self.init,
            show_info=show_info,
        )

    def reader(self, dataset: Any = None, *, rank: int = 0, world: int = 1) -> StreamReader:
        """Reads a stream; workers may begin it elsewhere, by the user's `worker_init_fn`."""
        fresh = None if self.workers and self.init is not None and dataset is None else self.fresh
        dataset = self.dataset if dataset is None else dataset
        return StreamReader(dataset, seed=self.seed, rng=self.rng(), rank=rank, world=world, fresh=fresh)

    @property
    def own_collate(self) -> Collate | None:
        """A `collate_fn` of the user's, to be called on the samples of each batch."""
        return None if sources.is_default(self.collate_fn) else self.collate_fn


def from_map(how: Fetching, order: Order, *, here: bool = False) -> sources.Source:
    """A source over a map-style data set; `here` for one without workers."""
    source: sources.Source
    columns = datasets.columns_of(how.dataset)
    told = how.workers > 0 and how.init is not None  # workers are there to be told, also where they are not needed
    if columns and how.own_collate is None and not told:
        source = sources.Columns(columns, order, alone=isinstance(how.dataset, Tensor))
    else:
        reader = MapReader(datasets.indexable(how.dataset), order, how.rng())
        if how.workers > 0 and not here:
            seeds = _seeds(how, order.rank)
            return Assembler(
                lambda: how.pool(reader, next(seeds)),
                depth=how.depth,
                drawn=order.sent,
                timeout=how.timeout,
                collate=how.own_collate,
                arrive=how.arrive,
                learned=how.learned,
            )
        source = sources.Here(reader, how.collate_fn)
    return source if how.arrive is None else sources.Moved(source, how.arrive)


def _seeds(how: Fetching, rank: int) -> Iterator[int]:
    """Seeds of the workers' global generators: others on each rank and each time that workers start, as torch's."""
    return (seed_of(seed_of(how.seed, rank), start) for start in how.learned.starts)


def from_stream(how: Fetching, *, rank: int, world: int, group: Any, sharding: str) -> StreamSource | SharedOutSource:
    """A source over a stream."""
    if sharding == "stride":
        return from_walked(how, rank=rank, world=world)
    return from_shared_out(how, rank=rank, world=world, group=group)


def from_walked(how: Fetching, *, rank: int, world: int) -> StreamSource:
    """A source over a stream that every reader walks."""
    reader, seeds = how.reader(rank=rank, world=world), _seeds(how, rank)

    def start() -> Pool | HerePool:
        if how.workers == 0:
            return HerePool(reader, collate=how.own_collate is None)
        # Each walks the whole stream, which must not share itself out.
        return how.pool(reader, next(seeds), show_info=False)

    return StreamSource(
        start,
        rank=rank,
        world=world,
        depth=how.depth,
        timeout=how.timeout,
        collate=how.own_collate,
        arrive=how.arrive,
        learned=how.learned,
    )


def from_shared_out(how: Fetching, *, rank: int, world: int, group: Any) -> SharedOutSource:
    """A source over a stream that shares itself out."""
    reader, seeds = how.reader(), _seeds(how, rank)

    def start() -> Pool | HerePool:
        return how.pool(reader, next(seeds)) if how.workers else HerePool(reader, collate=how.own_collate is None)

    return SharedOutSource(
        start,
        readers=max(1, how.workers),
        rank=rank,
        world=world,
        agree=lambda value: _distributed.least(value, group),
        depth=how.depth,
        timeout=how.timeout,
        collate=how.own_collate,
        arrive=how.arrive,
        learned=how.learned,
    )


def spare_of_stream(how: Fetching, stream: StreamSource | SharedOutSource, *, epoch: int, offset: int) -> Any:
    """A batch of one sample, for a rank that has none: the one kept; if none came yet, one read from a copy."""
    kept = stream.spare()
    if kept is not None:
        return kept
    offset, mark = (offset, stream.mark(offset)) if isinstance(stream, StreamSource) else (0, Mark())
    pool = HerePool(how.reader(copy.deepcopy(how.dataset)), collate=how.own_collate is None)
    pool.send(0, offset, offset + 1, Opening(0, epoch, mark))
    reply = pool.receive(0)
    if reply.failure is not None:
        raise reply.failure.raised()
    if isinstance(reply.data, Apart):
        raise reply.data.why.raised()
    data = reply.data if how.own_collate is None else how.own_collate(reply.data)
    return data if how.arrive is None else sources.arrived(how.arrive, data)
