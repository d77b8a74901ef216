"""The supply of a loader: chooses its source when an iteration begins, and keeps it where workers persist."""

from __future__ import annotations

import copy
import functools
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from adabatch import _checks, _distributed
from adabatch._errors import ArgumentError, UsageError
from adabatch.data import arguments
from adabatch.data.cursor import Cursor, StreamCursor
from adabatch.data.device_order import LARGEST_THERE, DeviceOrder
from adabatch.data.order import Order, SampledOrder
from adabatch.data.place import Iteration, Place
from adabatch.data.sources.assembler import Assembler, Fetching, Learned, Numbered
from adabatch.data.sources.here import Columns, Formed, Here, Moved, OnlyOne, Source, Transformed
from adabatch.data.sources.nested import arrival, pinned_room
from adabatch.data.sources.stream import SharedOutStream, WalkedStream
from adabatch.data.workers.readers import MapReader
from adabatch.data.workers.streams import Beginning, fresh_of
from adabatch.types import Batch

_NOT_KEPT = ("_over", "_kept", "_formed_by", "_orders", "learned", "arrive")


@dataclass(eq=False, repr=False, kw_only=True)
class Supply(Fetching, ABC):
    """Where the samples of a loader come from, by the settings that hold when an iteration begins.

    Attributes:
        sampler: the loader's, or its `batch_sampler`; attributes that are not named here: see `DataLoader`.
        formed: whether a `batch_sampler` or the data set forms the batches.
        drawn: whether the seed was drawn, so that rank 0's holds for all.
        joined: rank and number of ranks, once the first iteration began.
        walks: whether the data set may hold its own position.
    """

    walks: ClassVar[bool] = False
    sampler: Any
    batch_sampler: Any
    shuffle: bool
    formed: bool
    sharding: str
    persistent_workers: bool
    pin_memory: bool
    device: torch.device | None
    group: Any
    mesh: Any
    shard: bool
    drawn: bool = False
    transform: Callable[[Any], Any] | None = None
    joined: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Makes the attributes that a copy does not share."""
        self._over: Any = None  # the group that was joined
        self._kept: tuple[Fetching, Any] | None = None  # where workers persist: the source, and how it fetches
        self._formed_by: tuple[Any, Any, Any] | None = None
        self._orders: dict[tuple[Any, ...], Order] = {}
        self.learned, self.arrive = Learned(), arrival(pin=self.pin_memory, device=self.device)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _NOT_KEPT}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        vars(self).update(attributes)
        Supply.__post_init__(self)

    # Ranks

    def sharing(self) -> tuple[Any, int, int]:
        """See `DrivenLoader.sharing`."""
        return _distributed.sharing_group(group=self.group, mesh=self.mesh, shard=self.shard)

    def join(self, cursor: Cursor) -> None:
        """Takes this process's place among the ranks; raises if it took another before."""
        group, rank, world = self.sharing()
        if self.joined == (rank, world):
            return
        if self.joined is not None:
            raise UsageError(
                None,
                "the process group must not change while a loader lives",
                got=f"rank {rank} of {world} after rank {self.joined[0]} of {self.joined[1]}",
                remedy="build a new loader and load this one's state into it",
            )
        apart = (self.group is not None or self.mesh is not None) and world < _distributed.rank_and_world()[1]
        if apart and self.drawn and (self.shuffle or self.sampler is not None):
            raise ArgumentError(
                "seed",
                "must be given where a `group` or `mesh` is a part of the world",
                got="none, so that tensor-parallel peers would draw others",
                remedy="write `seed=0`, or any other, on every rank",
            )
        if world > 1 and self.drawn:
            self.seed = _distributed.same_for_all(self.seed, group)
        self._over = group
        self.joined = cursor.rank, cursor.world = rank, world

    # Iterations

    def open(self, place: Place, new: Iteration) -> None:
        """Begins an iteration at `place`, or at a fork of it."""
        self.join(place.cursor)
        place.measured(self.measure())
        place.begin(new)
        new.source = self._source_for(new, apart=place.is_fork)
        new.cursor.enter(new.epoch, new.source)

    def _source_for(self, new: Iteration, *, apart: bool) -> Any:
        """The source of an iteration: the kept one where workers persist, else a new one; `apart` reads a copy."""
        how = self._how(new.cursor)
        if apart and self.walks:
            how.dataset, how.fresh, how.num_workers = copy.deepcopy(self.dataset), copy.deepcopy(self.fresh), 0
            return self.made(how, new.cursor)
        if self._kept is not None:
            if self.persistent_workers and how.same(self._kept[0]):
                return self._kept[1]
            self._kept[1].close()
            self._kept = None
        source = self.made(how, new.cursor)
        if source.held is not None:
            if self.persistent_workers:
                self._kept = how, source
            weakref.finalize(self if self.persistent_workers else new, source.held.close)
        return source

    def end(self, place: Place, ended: Iteration, *, exhausted: bool = False) -> None:
        """An iteration is over: `exhausted`, or left early."""
        if not ended.live:
            return
        ended.live = False
        ended.cursor.settle()
        if self._kept is not None and self._kept[1] is ended.source:
            ended.source.rest()
        else:
            ended.source.close()
        ended.source = None
        place.end(ended, exhausted=exhausted)

    def _how(self, cursor: Cursor) -> Fetching:
        """How samples are fetched, by the current settings."""
        how = Fetching(**{field.name: getattr(self, field.name) for field in fields(Fetching)})
        how.size = cursor.size
        _checks.whole("num_workers", how.num_workers, minimum=0, remedy="0 fetches in the main process")
        if self.formed:
            if self._formed_by is None or self._formed_by[0] is not self.collate_fn:
                self._formed_by = self.collate_fn, *self.as_formed()
            _, how.dataset, how.collate_fn = self._formed_by
        return how

    def spare(self, of: Iteration, batch: Batch) -> Any:
        """One sample, for a rank that has none in a micro-batch of `batch`."""
        return self.spare_by(self._how(of.cursor), of, batch)

    def order(self, size: int, rank: int = 0, world: int = 1, *, home: torch.device | None = None) -> Order:
        """The order of one rank; one object for all iterations, so that a sampler is iterated once an epoch.

        Its numbers lie at `home` if they can; None for the CPU.
        """
        if self.sampler is not None or size > LARGEST_THERE:
            home = None
        key = size, self.seed, rank, world, home
        if key not in self._orders:
            for old in [k for k, order in self._orders.items() if isinstance(order, DeviceOrder) and k[0] != size]:
                del self._orders[old]  # of a data set that has another length now; an iteration may still hold it
            self._orders[key] = (
                SampledOrder(self.sampler, size, seed=self.seed, rank=rank, world=world)
                if self.sampler is not None
                else Order(size, seed=self.seed, shuffle=self.shuffle, rank=rank, world=world)
                if home is None
                else DeviceOrder(size, seed=self.seed, shuffle=self.shuffle, device=home, rank=rank, world=world)
            )
        return self._orders[key]

    # State

    def described_sharding(self) -> str:
        """How readers share the data, in words for a state."""
        if self.sharding == "stride":
            return "stride"
        return f"dataset, {self.num_workers} workers, {self.sharing()[2]} ranks"

    def saved(self, *, between: bool) -> dict[str, Any]:
        """Where passes of a stream begin, if all ranks begin alike; `between`: whether no pass goes on."""
        return self.fresh.saved(between=between) if self.fresh is not None and self._alike() else {}

    def resumed(self, stream: Mapping[str, Any]) -> Beginning | None:
        """`fresh` after a state is loaded; raises if that is damaged."""
        return self.fresh.resumed(stream) if self.fresh is not None and self._alike() else self.fresh

    def _alike(self) -> bool:
        """Whether passes of a stream begin alike on all ranks."""
        return self.sharding == "stride" or self.sharing()[2] == 1

    # By kind of data set

    @abstractmethod
    def measure(self) -> int | None:
        """Samples in an epoch now; None for a stream without `__len__`."""

    @abstractmethod
    def cursor(self, batch_size: int, *, drop_last: bool, run_on: bool) -> Cursor:
        """A cursor at the beginning; raises if an argument does not go with the data set."""

    @abstractmethod
    def as_formed(self) -> tuple[Any, Any]:
        """The data set that is read and its `collate_fn`, where a `batch_sampler` or the data set forms the batches."""

    @abstractmethod
    def made(self, how: Fetching, cursor: Cursor) -> Any:
        """A source of the share of one rank."""

    @abstractmethod
    def spare_by(self, how: Fetching, of: Iteration, batch: Batch) -> Any:
        """See `spare`."""


class MapSupply(Supply):
    """Samples of a map-style data set, by their numbers."""

    def measure(self) -> int:
        """See `Supply.measure`."""
        if self.sampler is None:
            return arguments.size_of(self.dataset)
        return arguments.length_of_sampler(self.sampler)

    def cursor(self, batch_size: int, *, drop_last: bool, run_on: bool) -> Cursor:
        """See `Supply.cursor`."""
        return Cursor(self.measure(), batch_size=batch_size, drop_last=drop_last, run_on=run_on)

    def as_formed(self) -> tuple[Any, Any]:
        """See `Supply.as_formed`."""
        listed = self.batch_sampler is not None
        return Formed(arguments.indexable(self.dataset), self.collate_fn, listed=listed), OnlyOne()

    def made(self, how: Fetching, cursor: Cursor) -> Any:
        """See `Supply.made`."""
        return self._fetched(how, cursor.size, cursor.rank, cursor.world)

    def spare_by(self, how: Fetching, of: Iteration, batch: Batch) -> Any:
        """See `Supply.spare_by`."""
        source = self._fetched(how, of.cursor.size, here=True)
        return source.fetch(batch.clock, batch.clock + 1, lambda: iter(()))

    def _fetched(self, how: Fetching, size: int, rank: int = 0, world: int = 1, *, here: bool = False) -> Source:
        """A source of one rank's samples; `here` for one without workers."""
        source: Source
        columns, home = arguments.columns_of(how.dataset), None
        # a `worker_init_fn` gets its workers even where they are not needed
        told = how.num_workers > 0 and how.worker_init_fn is not None
        if columns and how.own_collate is None and not told:
            home = arguments.home_of(columns)
            order = self.order(size, rank, world, home=None if here else home)
            room = pinned_room(pin=self.pin_memory, device=self.device)
            source = Columns(columns, order, alone=isinstance(how.dataset, Tensor), room=room)
        else:
            order = self.order(size, rank, world)
            reader = MapReader(arguments.indexable(how.dataset), order, how.rng())
            if how.num_workers > 0 and not here:
                source = Assembler(how, lambda: how.pool(reader, order.rank), Numbered(order.sent))
            else:
                source = Here(reader, how.collate_fn)
        if how.arrive is not None and source.held is None and (home is None or home != self.device):
            source = Moved(source, how.arrive)
        if self.transform is None:
            return source
        device = self.device or torch.device("cpu")
        return Transformed(source, self.transform, seed=self.seed, order=order, device=device)


class StreamSupply(Supply):
    """Samples of an iterable data set, as they come."""

    walks = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fresh = fresh_of(self.dataset)

    def measure(self) -> int | None:
        """See `Supply.measure`."""
        return arguments.length_of_stream(self.dataset)

    def cursor(self, batch_size: int, *, drop_last: bool, run_on: bool) -> Cursor:
        """See `Supply.cursor`."""
        arguments.check_stream(shuffle=self.shuffle, sampler=self.sampler, run_on=run_on)
        cursor = StreamCursor(batch_size=batch_size, drop_last=drop_last)
        cursor.takes(self.measure())
        return cursor

    def as_formed(self) -> tuple[Any, Any]:
        """See `Supply.as_formed`."""
        return self.dataset, OnlyOne(self.collate_fn)

    def made(self, how: Fetching, cursor: Cursor) -> Any:
        """See `Supply.made`."""
        if self.sharding == "stride":
            return WalkedStream(how, rank=cursor.rank, world=cursor.world)
        agree = functools.partial(_distributed.least, group=self._over)
        return SharedOutStream(how, rank=cursor.rank, world=cursor.world, agree=agree)

    def spare_by(self, how: Fetching, of: Iteration, batch: Batch) -> Any:
        """See `Supply.spare_by`."""
        return of.source.spare(how, batch.epoch, batch.clock - of.cursor.base)
