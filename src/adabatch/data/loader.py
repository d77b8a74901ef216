"""A data loader whose batch size can be set at any time and holds for the very next batch."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import GenericAlias
from typing import Any

from torch.utils.data import IterableDataset, default_collate, default_convert

from adabatch import _checks, _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.data import arguments, building, datasets, sources, state
from adabatch.data.assembler import Assembler, Learned
from adabatch.data.cursor import Cursor
from adabatch.data.device import checked_device
from adabatch.data.face import Face
from adabatch.data.formed import FormedBatches, OnlyOne, only
from adabatch.data.iterators import Batches, Parts, Pass, Supply
from adabatch.data.order import Order, draw_seed
from adabatch.data.place import Place
from adabatch.data.stream_cursor import StreamCursor
from adabatch.data.streams import fresh_of
from adabatch.types import Batch

_NOT_KEPT = ("_place", "_over", "_shared", "_kept", "_batches", "_learned", "_orders", "_arrival")


class DataLoader(Face):
    """Batches of a data set, of a size that can be changed at any time, in an order that depends on nothing else.

    A batch is the positions `[p, p+B)` of the epoch's order, which (seed, epoch) alone define; rank r of W takes the
    clocks congruent to r modulo W. It has torch's arguments and attributes but does not inherit from torch's loader.

    An iteration begins when its first batch is asked for and runs to the end of an epoch. Without a schedule each is
    the next epoch, and independent of those before, as torch's; with `persistent_workers` there is one, which `iter()`
    begins anew. The state belongs to the newest. With a schedule looking is free: an iteration of which no batch is
    trained on moves nothing. Leaving an epoch of which something was trained on skips the rest of it, which counts as
    passed; a state saved then goes on where it stopped.

    Args:
        dataset: anything with `__len__` and `__getitem__` (or `__getitems__`), or an `IterableDataset`; a
            `TensorDataset`, a tensor or a tuple of tensors is read without a call per sample.
        batch_size: samples in one update, over all ranks; from 1 to the size of the data set. None where the items of
            the data set are batches already: they come as they are, whole on every rank, and no schedule changes them.
        shuffle: whether each epoch has an order of its own; None means False.
        sampler: an order of your own: an iterable of sample numbers with a length, iterated once an epoch with the
            global generators and its own `generator` set from (seed, epoch). A `DistributedSampler` is refused.
        batch_sampler: yields lists of sample numbers, as torch's: it forms the batches, whole on every rank, and no
            schedule changes them. None: the loader does.
        num_workers: processes that fetch samples; 0 fetches in the main process. A tensor data set needs none and
            starts none.
        collate_fn: makes a batch from a list of samples; default torch's `default_collate`. One of your own is called
            on the samples of each batch, in the main process.
        pin_memory: whether batches are copied to pinned memory.
        drop_last: whether a last batch that would be short is dropped.
        timeout: seconds to wait for a worker; 0 for ever.
        worker_init_fn: called in each worker with its number.
        multiprocessing_context: how workers start: fork, spawn, forkserver or a context.
        generator: the seed is drawn from it instead of torch's default generator.
        prefetch_factor: runs of samples that each worker fetches ahead; None means 2.
        persistent_workers: whether workers outlive an epoch.
        pin_memory_device: as torch's; only the empty string.
        in_order: accepted as torch's; the order is kept in any case.
        seed: which family of orders; None draws one, from rank 0 for all ranks, and keeps it in the state.
        run_on: whether a batch at the end of an epoch runs on into the next one, so that no batch is short.
        micro_batch_size: samples per forward and backward pass on one rank, for `parts()`; None for no splitting.
        sample_rng: whether python's, numpy's and torch's generators are set from (seed, epoch, position) for each
            sample, so that random transforms do not depend on workers or restarts; see `sample_seed`.
        sharding: how readers share a stream: with `"stride"` each walks all of it and keeps its share, exact for any
            number of workers and ranks; with `"dataset"` the set shares itself out (by `get_worker_info` and the rank),
            and order and state belong to that number.
        device: where batches go; on CUDA they are pinned and moved ahead on a stream of their own. None leaves them.
        group: the process group over which batches are cut; default the world.
        mesh: a one-dimensional device mesh in place of `group`.
        shard: False gives every rank whole batches, for validation.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range or does not go with another.

    Example:
        >>> import torch
        >>> loader = DataLoader(torch.arange(10), batch_size=4, seed=0)
        >>> sizes = []
        >>> for batch in loader:
        ...     sizes.append(len(batch))
        ...     loader.batch_size = 3
        >>> sizes
        [4, 3, 3]
    """

    def __init__(  # torch's arguments in torch's order, then ours
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        seed: int | None = None,
        run_on: bool = False,
        micro_batch_size: int | None = None,
        sample_rng: bool = True,
        sharding: str = "stride",
        device: Any = None,
        group: Any = None,
        mesh: Any = None,
        shard: bool = True,
    ) -> None:
        arguments.check_flags(
            shuffle=shuffle or False, drop_last=drop_last, run_on=run_on, shard=shard, pin_memory=pin_memory
        )
        arguments.check_flags(persistent_workers=persistent_workers, in_order=in_order, sample_rng=sample_rng)
        drop_last, run_on, shard, pin_memory = map(bool, (drop_last, run_on, shard, pin_memory))  # numpy's are none
        persistent_workers, in_order, sample_rng = map(bool, (persistent_workers, in_order, sample_rng))
        arguments.check_together(drop_last=drop_last, run_on=run_on, seed=seed, generator=generator)
        arguments.check_samplers(sampler, shuffle=bool(shuffle))
        usual = default_convert if batch_size is None else default_collate
        self._formed, self._batch_sampler = batch_sampler is not None or batch_size is None, batch_sampler
        if self._formed:
            others = {"shuffle": shuffle, "sampler": sampler, "batch_size": batch_size if batch_size != 1 else None}
            arguments.check_formed(
                batch_sampler,
                dataset,
                drop_last=drop_last,
                run_on=run_on,
                micro_batch_size=micro_batch_size,
                **(others if batch_sampler is not None else {}),
            )
            shard = False
        context = arguments.check_workers(num_workers, prefetch_factor, persistent_workers, multiprocessing_context)
        _checks.finite("timeout", timeout, minimum=0)
        self._dataset, self._shuffle = dataset, bool(shuffle)
        self._sampler = sampler if batch_sampler is None else batch_sampler
        self._group, self._mesh, self._shard, self._sample_rng = group, mesh, shard, sample_rng
        self.sharing()
        self.collate_fn = collate_fn if collate_fn is not None else usual
        self.num_workers, self.pin_memory, self.timeout = num_workers, pin_memory, timeout
        self.worker_init_fn, self.multiprocessing_context = worker_init_fn, context
        self.generator, self.persistent_workers = generator, persistent_workers
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.device = checked_device(device)
        self._sharding = arguments.check_sharding(sharding, dataset)
        self.pin_memory_device, self.in_order = pin_memory_device, in_order
        size = 1 if self._formed or batch_size is None else batch_size
        self._place = Place(self._positioned(size, drop_last=drop_last, run_on=run_on))
        self._drawn = seed is None
        self._seed = draw_seed(generator) if seed is None else _checks.whole("seed", seed, minimum=0)
        self.micro_batch_size = micro_batch_size
        self._joined: tuple[int, int] | None = None
        self._fresh = fresh_of(dataset) if isinstance(dataset, IterableDataset) else None
        self._start()

    def _positioned(self, batch_size: int, *, drop_last: bool, run_on: bool) -> Cursor:
        """The cursor for the kind of data set."""
        if isinstance(self._dataset, IterableDataset):
            arguments.check_stream(shuffle=self._shuffle, sampler=self._sampler, run_on=run_on)
            cursor = StreamCursor(batch_size=batch_size, drop_last=drop_last)
            cursor.sized = datasets.length_of_stream(self._dataset)
            return cursor
        return Cursor(self._size(), batch_size=batch_size, drop_last=drop_last, run_on=run_on)

    def _size(self) -> int:
        """Samples in an epoch, now."""
        return datasets.size_of(self._dataset) if self._sampler is None else datasets.length_of_sampler(self._sampler)

    def _start(self) -> None:
        """Makes what a copy of the loader makes anew."""
        self._over: Any = None
        self._shared: weakref.ref[Pass] | None = None  # the one iteration where workers persist
        self._kept: tuple[building.Fetching, sources.Source] | None = None
        self._orders: dict[tuple[int, ...], Order] = {}
        self._batches: FormedBatches | OnlyOne | None = None
        self._learned = Learned()
        self._arrival = sources.arrival(pin=self.pin_memory, device=self.device)

    # Iteration

    def __iter__(self) -> Iterator[Any]:
        """The rest of the epoch in which the loader stands, as whole rank batches; `len()` of it is their number."""
        if self.num_workers and self.persistent_workers and self._place.cursor.driver is None:
            found = self._shared() if self._shared is not None else None
            if not isinstance(found, Batches):
                found = Batches(self._supply(), self._place)
                self._shared = weakref.ref(found)
            found.restart()
            return found
        return Batches(self._supply(), self._place)

    def parts(self) -> Parts:
        """The same as micro-batches of at most `micro_batch_size` samples, each with its `types.Part`.

        Every rank gets the same number of them; a rank that has no sample for one gets a repeated sample and size 0.
        Each is fetched when it is asked for. Without a driver a batch commits with its last micro-batch.
        """
        return Parts(self._supply(), self._place)

    def peek(self) -> Any:
        """The first micro-batch of the iteration that would begin now. Nothing moves.

        Raises:
            ValueError: if that iteration would be empty.
        """
        self._join()
        looked = Parts(self._supply(), self._place.fork())
        try:
            found = next(looked, None)
        finally:
            looked.close()
        if found is None:
            raise ArgumentError(
                "peek", "needs a batch to show", got="none: the iteration that would begin now is empty"
            )
        return found[0]

    def _supply(self) -> Supply:
        return Supply(self._open, self._rest, self._spare, lambda: self._micro_batch_size)

    def _join(self) -> None:
        """Takes this process's place among the ranks; once taken, another is refused."""
        group, rank, world = self.sharing()
        if self._joined == (rank, world):
            return
        if self._joined is not None:
            raise UsageError(
                None,
                "the process group must not change while a loader lives",
                got=f"rank {rank} of {world} after rank {self._joined[0]} of {self._joined[1]}",
                remedy="build a new loader and load this one's state into it",
            )
        if world > 1 and self._drawn:
            self._seed = _distributed.same_for_all(self._seed, group)
        cursor = self._place.cursor
        self._over = group
        self._joined = cursor.rank, cursor.world = rank, world

    def _measure(self) -> None:
        """Follows a data set that has another size than before, at the next epoch.

        Raises:
            ValueError: if a schedule counts on the size.
        """
        cursor = self._place.cursor
        if isinstance(cursor, StreamCursor):
            cursor.sized = datasets.length_of_stream(self._dataset)
            return
        size = self._size()
        if size != cursor.size:
            epoch = self._place.next_epoch
            if cursor.driver is not None:
                raise ArgumentError(
                    "dataset",
                    (
                        f"must keep its size while a schedule drives its loader: it has {size:,} samples at epoch "
                        f"{epoch}, and the plan counts on {cursor.size:,}"
                    ),
                    remedy="call `close()` on the BatchSizeScheduler and make another, with the rest of the schedule",
                )
            self._place.cursor = cursor.fork()  # an iteration that goes on keeps what it began with
            self._place.cursor.resize(size, epoch)
            self._place.moved()

    def _open(self, begun: Pass) -> tuple[Cursor, int, sources.Source]:
        """See `Supply.open`."""
        self._join()
        self._measure()
        cursor, epoch = begun.place.begin(begun)
        source = self._source_for(cursor, begun, apart=begun.place is not self._place)
        if isinstance(cursor, StreamCursor):
            offset = cursor.position - cursor.base
            source.begin(epoch, cursor.kept if offset else None, offset, cursor.turn)
            cursor.extent, cursor.place = source.extent, source.place
        return cursor, epoch, source

    def _source_for(self, cursor: Cursor, begun: Pass, *, apart: bool) -> Any:
        """Where the samples of an iteration come from: kept where workers persist, else made; `apart` from a copy."""
        how = self._how(cursor)
        if apart and isinstance(cursor, StreamCursor):  # a stream may keep its place in itself
            dataset = copy.deepcopy(self._dataset)
            return self._made(replace(how, dataset=dataset, fresh=copy.deepcopy(self._fresh), workers=0), cursor)
        if self._kept is not None:
            if self.persistent_workers and how.same(self._kept[0]):
                return self._kept[1]
            self._kept[1].close()
            self._kept = None
        source = self._made(how, cursor)
        if isinstance(source, Assembler):
            if self.persistent_workers:
                self._kept = how, source
            weakref.finalize(self if self.persistent_workers else begun, source.held.close)
        return source

    def _how(self, cursor: Cursor) -> building.Fetching:
        """How samples are fetched, by the settings that hold now."""
        workers = _checks.whole("num_workers", self.num_workers, minimum=0, remedy="0 fetches in the main process")
        dataset, collate = self._read()
        return building.Fetching(
            dataset,
            collate,
            workers=workers,
            depth=workers * (self.prefetch_factor or 2),
            timeout=self.timeout,
            context=self.multiprocessing_context,
            init=self.worker_init_fn,
            arrive=self._arrival,
            sample_rng=self._sample_rng,
            seed=self._seed,
            size=cursor.size,
            learned=self._learned,
            fresh=self._fresh,
        )

    def _read(self) -> tuple[Any, Callable[[list[Any]], Any]]:
        """The data set that is read, and what makes a batch of its samples."""
        if not self._formed:
            return self._dataset, self.collate_fn
        stream = isinstance(self._dataset, IterableDataset)
        if self._batches is None or self._batches.collate is not self.collate_fn:
            if stream:
                self._batches = OnlyOne(self.collate_fn)
            else:
                indexable, listed = datasets.indexable(self._dataset), self._batch_sampler is not None
                self._batches = FormedBatches(indexable, self.collate_fn, listed=listed)
        return (self._dataset, self._batches) if isinstance(self._batches, OnlyOne) else (self._batches, only)

    def _made(self, how: building.Fetching, cursor: Cursor) -> sources.Source:
        rank, world = cursor.rank, cursor.world
        if isinstance(cursor, StreamCursor):
            return building.from_stream(how, rank=rank, world=world, group=self._over, sharding=self._sharding)
        return building.from_map(how, self._order(cursor.size, rank, world))

    def _rest(self, ended: Pass) -> None:
        """See `Supply.rest`."""
        cursor = ended.cursor
        if isinstance(cursor, StreamCursor):
            cursor.settle()
        if self._kept is not None and self._kept[1] is ended.source:
            ended.source.rest()
        else:
            ended.source.close()

    def __len__(self) -> int:
        """Batches of the epoch that an iteration goes through; if none does, of the next; 0 after a plan's last.

        What is left of it is the length of its iterator, `len(iter(loader))`.

        Raises:
            TypeError: if `batch_size` was assigned during the iteration: then the number is not known ahead.
        """
        front = self._place.front
        if front is None:
            self._measure()
        if front is not None and front.assigned != front.cursor.demand.assigned:
            raise ArgumentTypeError(
                None,
                ("a loader whose `batch_size` was assigned during the epoch has no length: the sizes to come are open"),
            )
        cursor = front.cursor if front is not None else self._place.cursor
        return cursor.count_whole(self._place.epoch)

    __class_getitem__: Any = classmethod(GenericAlias)  # `DataLoader[...]` in annotations, as torch's

    def __bool__(self) -> bool:
        """True, also where `len()` is not known."""
        return True

    def set_epoch(self, epoch: int) -> None:
        """Moves to the start of `epoch`; nothing happens if the loader stands there. Epochs are counted without it.

        Raises:
            RuntimeError: if the loader is being iterated.
            ValueError: if a schedule drives the loader and `epoch` is another than the next.
        """
        epoch = _checks.whole("epoch", epoch, minimum=0)
        front, cursor = self._place.front, self._place.cursor
        if front is not None and not front.over:
            raise UsageError("set_epoch", "must not be called during an iteration", remedy="call it before the loop")
        if epoch == self._place.next_epoch:
            return
        if cursor.driver is not None:
            raise ArgumentError(
                "epoch",
                f"must be {self._place.next_epoch}, the next one, while a schedule drives this loader",
                value=epoch,
                remedy="epochs are counted without this call; to go on from elsewhere load a state",
            )
        cursor.current = cursor.begun = cursor.open = None
        cursor.move_to(epoch)
        self._place.moved()

    # State

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: a few numbers, JSON-safe, the same on every rank.

        A batch that is not committed is repeated from its start. Within an epoch of a stream that shares itself out
        each rank has a place of its own: then save and load a state on each.
        """
        cursor, front = self._place.cursor, self._place.front
        found: dict[str, Any] = {"format": state.FORMAT, "clock": cursor.position, **state.sizes(cursor)}
        if front is not None and front.cursor is cursor and cursor.current is None and front.over:
            found["open_epoch"] = front.epoch
        elif cursor.open is not None:
            found["open_epoch"] = cursor.open
        stream: dict[str, Any] = {"stream": cursor.saved()} if isinstance(cursor, StreamCursor) else {}
        if self._fresh is not None and self._alike():
            between = cursor.position == cursor.base and self._place.current is None
            stream["stream"] |= self._fresh.saved(between=between)
        return {**found, **stream, **self._identity()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, at the next `iter()`; ranks and micro-batches may differ.

        Args:
            state_dict: from `state_dict()`.

        Raises:
            TypeError: if it is no dict.
            ValueError: if it is damaged, or of another data set, seed or mode; nothing is changed then.
            RuntimeError: if the loader is being iterated, and a schedule drives it.
        """
        cursor, front = self._place.cursor, self._place.front
        if cursor.driver is not None and front is not None and front.trained and not front.over:
            raise UsageError(None, "a state must not be loaded during an iteration", remedy="load it before the loop")
        found = state.checked(state_dict, kinds=state.KINDS)
        own = self._identity()
        if self._drawn:
            own["seed"] = found["seed"]
        state.compare(found, own)
        sizes = cursor.checked(found["batch_size"]), state.postponed(found, cursor.checked)
        cursor = cursor.fork()
        cursor.restore(found["clock"], *sizes)
        fresh = self._fresh
        if isinstance(cursor, StreamCursor):
            rank = cursor.rank if self._joined else self.sharing()[1]
            stream = state.checked_stream(found, readers=max(1, self.num_workers), rank=rank)
            cursor.go_on(stream)
            fresh = self._fresh.resumed(stream) if self._fresh is not None and self._alike() else fresh
        else:
            cursor.open = state.open_epoch(found, cursor.epoch_of(found["clock"]))
        if front is not None and cursor.driver is None:
            front.close()  # what it would hand out belongs to another course
        self._place.cursor = cursor
        self._place.moved()
        self._fresh = fresh
        self._seed, self._drawn = found["seed"], False

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "dataset_size": self.dataset_size or 0,
            "shuffle": self._shuffle,
            "sampler": type(self._sampler).__name__ if self._sampler is not None else "",
            "drop_last": self.drop_last,
            "run_on": self.run_on,
            "sharding": self._described_sharding(),
        }

    def _described_sharding(self) -> str:
        if self._sharding == "stride":
            return "stride"
        return f"dataset, {self.num_workers} workers, {self.sharing()[2]} ranks"

    def _alike(self) -> bool:
        """Whether passes of a stream begin alike on every rank, so that one's beginning is the others' too."""
        return self._sharding == "stride" or self.sharing()[2] == 1

    def sharing(self) -> tuple[Any, int, int]:
        """The group over which batches are cut (None for the world), this process's rank in it, and its size."""
        return _distributed.sharing_group(group=self._group, mesh=self._mesh, shard=self._shard)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _NOT_KEPT} | {
            "_cursor": self._place.cursor.fork()
        }

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        cursor = attributes.pop("_cursor")
        cursor.begun = None
        vars(self).update(attributes, _place=Place(cursor))
        self._start()

    def _spare(self, of: Pass, batch: Batch) -> Any:
        """See `Supply.spare`."""
        cursor, how = of.cursor, self._how(of.cursor)
        if not isinstance(cursor, StreamCursor):
            return self._here(how, cursor).fetch(batch.clock, batch.clock + 1, lambda: iter(()))
        source: Any = of.source
        return building.spare_of_stream(how, source, epoch=batch.epoch, offset=batch.clock - cursor.base)

    def _here(self, how: building.Fetching, cursor: Cursor) -> sources.Source:
        """All samples, whatever the rank, without workers."""
        return building.from_map(how, self._order(cursor.size), here=True)
