"""A data loader whose batch size can be set at any time and holds for the very next batch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import IterableDataset, default_collate

from adabatch import _checks, _distributed
from adabatch.data import arguments, building, datasets, sources, state
from adabatch.data.assembler import Assembler
from adabatch.data.cursor import Cursor
from adabatch.data.device import checked_device
from adabatch.data.face import Face
from adabatch.data.iterators import Batches, Parts, Pass
from adabatch.data.order import Order, SampledOrder, draw_seed
from adabatch.data.shared_out import SharedOutSource
from adabatch.data.stream_cursor import StreamCursor
from adabatch.data.stream_source import StreamSource
from adabatch.data.streams import fresh_of
from adabatch.types import Batch, Part

_NOT_KEPT = ("_source", "_stream", "_over", "_pass", "_begun", "_how", "_close")


def _nothing() -> None:
    """Nothing to close."""


class DataLoader(Face):
    """Batches of a data set, of a size that can be changed at any time, in an order that depends on nothing else.

    A batch is the positions `[p, p+B)` of the epoch's order, which (seed, epoch) alone define; rank r of W takes the
    clocks congruent to r modulo W. It has torch's arguments and attributes but does not inherit from torch's loader.

    An iteration runs to the end of the epoch in which the loader stands. Leaving it early skips the rest of the epoch,
    which counts as passed; a state saved then goes on where it stopped. One iteration at a time.

    Args:
        dataset: anything with `__len__` and `__getitem__` (or `__getitems__`), or an `IterableDataset`; a
            `TensorDataset`, a tensor or a tuple of tensors is read without a call per sample.
        batch_size: samples in one update, over all ranks; from 1 to the size of the data set.
        shuffle: whether each epoch has an order of its own; None means False.
        sampler: an order of your own: an iterable of sample numbers with a length, iterated once an epoch with the
            global generators and its own `generator` set from (seed, epoch). A `DistributedSampler` is refused.
        batch_sampler: None; the loader forms the batches.
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
        batch_size: int = 1,
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
        arguments.check_together(drop_last=drop_last, run_on=run_on, seed=seed, generator=generator)
        arguments.check_samplers(sampler, batch_sampler, shuffle=bool(shuffle))
        context = arguments.check_workers(num_workers, prefetch_factor, persistent_workers, multiprocessing_context)
        _checks.finite("timeout", timeout, minimum=0)
        if batch_size is None:
            raise TypeError("`batch_size` must be a whole number, got None; for single samples use `batch_size=1`")
        self._dataset, self._shuffle, self._sampler = dataset, bool(shuffle), sampler
        self._group, self._mesh, self._shard, self._sample_rng = group, mesh, shard, sample_rng
        self.collate_fn = collate_fn if collate_fn is not None else default_collate
        self.num_workers, self.pin_memory, self.timeout = num_workers, pin_memory, timeout
        self.worker_init_fn, self.multiprocessing_context = worker_init_fn, context
        self.generator, self.persistent_workers = generator, persistent_workers
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.device = checked_device(device)
        self._sharding = arguments.check_sharding(sharding, dataset)
        self.pin_memory_device, self.in_order = pin_memory_device, in_order
        self._cursor = self._positioned(batch_size, drop_last=drop_last, run_on=run_on)
        self._drawn = seed is None
        self._seed = draw_seed(generator) if seed is None else _checks.whole("seed", seed, minimum=0)
        self.micro_batch_size = micro_batch_size
        self._joined: tuple[int, int] | None = None
        self._over: Any = None
        self._part: Part | None = None
        self._pass: weakref.ref[Pass] | None = None
        self._begun: int | None = None
        self._serial = 0
        self._place: dict[str, Any] | None = None  # where a stream goes on
        self._fresh = fresh_of(dataset) if isinstance(dataset, IterableDataset) else None
        self._start()

    def _positioned(self, batch_size: int, *, drop_last: bool, run_on: bool) -> Cursor:
        """The cursor for the kind of data set."""
        if isinstance(self._dataset, IterableDataset):
            arguments.check_stream(shuffle=self._shuffle, sampler=self._sampler, run_on=run_on)
            return StreamCursor(batch_size=batch_size, drop_last=drop_last)
        size = datasets.size_of(self._dataset) if self._sampler is None else datasets.length_of_sampler(self._sampler)
        return Cursor(size, batch_size=batch_size, drop_last=drop_last, run_on=run_on)

    def _start(self) -> None:
        """Makes what a copy of the loader makes anew."""
        self._how = building.Fetching(
            self._dataset,
            self.collate_fn,
            workers=self.num_workers,
            depth=self.num_workers * (self.prefetch_factor or 1),
            timeout=self.timeout,
            context=self.multiprocessing_context,
            init=self.worker_init_fn,
            arrive=sources.arrival(pin=self.pin_memory, device=self.device),
            sample_rng=self._sample_rng,
            fresh=self._fresh,
        )
        self._close: Callable[[], Any] = _nothing
        self._build()

    # Iteration

    def __iter__(self) -> Iterator[Any]:
        """The rest of the epoch in which the loader stands, as whole rank batches."""
        epoch, start = self._begin()
        self._cursor.check_shares(start, epoch)
        self._begun, self._part = epoch, None
        batches = Batches(self, epoch, start)
        self._pass = weakref.ref(batches)
        return batches

    def parts(self) -> Iterator[tuple[Any, Part]]:
        """The same as micro-batches of at most `micro_batch_size` samples, each with its `types.Part`.

        Every rank gets the same number of them; a rank that has no sample for one gets a repeated sample and size 0.
        Each is fetched when it is asked for. Without a driver a batch commits with its last micro-batch.
        """
        epoch, start = self._begin()
        self._begun, self._part = epoch, None
        parts = Parts(self, epoch, start)
        self._pass = weakref.ref(parts)
        return parts

    def _begin(self) -> tuple[int, int]:
        """The epoch that an iteration begun now goes through, and the clock where it starts."""
        if self._live() is not None:
            raise RuntimeError(
                "a second iteration of a loader must not begin before the first has ended"
                + ("; evaluate with another loader; this one drives the schedule" if self._cursor.driver else "")
                + "; leave the first loop, or call `close()` on its iterator"
            )
        self._join()
        self._cursor.pass_current()
        if self._begun is not None and self._cursor.epoch_of(self.clock) == self._begun:
            self._cursor.skip_epoch(self._begun)
            self._place = None
        start = self.clock
        epoch = self._cursor.epoch_of(start)
        if isinstance(self._cursor, StreamCursor):
            offset = start - self._cursor.base
            self._stream.begin(epoch, self._place if offset else None, offset, self._cursor.turn)
        return epoch, start

    def _join(self) -> None:
        """Takes this process's place among the ranks; once taken, another is refused."""
        group, rank, world = self._sharing()
        if self._joined == (rank, world):
            return
        if self._joined is not None:
            raise RuntimeError(
                f"the process group must not change while a loader lives, got rank {rank} of {world} after rank"
                f" {self._joined[0]} of {self._joined[1]}; build a new loader and load this one's state into it"
            )
        if world > 1 and self._drawn:
            self._seed = _distributed.same_for_all(self._seed, group)
        self._over = group
        self._joined = self._cursor.rank, self._cursor.world = rank, world
        self._build()

    def __len__(self) -> int:
        """Batches of the iteration that goes on; if none does, of the one that `iter()` would begin.

        Raises:
            TypeError: if `batch_size` was assigned during the iteration: then the number is not known ahead.
        """
        live = self._live()
        if live is None:
            epoch = self.epoch
            return self._cursor.count(self._cursor.start_of(epoch), epoch)
        if live.assigned != self._cursor.assigned:
            raise TypeError(
                "a loader whose `batch_size` was assigned during the epoch has no length: the sizes to come are open"
            )
        return self._cursor.count(live.start, live.epoch)

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
        if self._live() is not None:
            raise RuntimeError("`set_epoch` must not be called during an iteration; call it before the loop")
        if epoch == self.epoch:
            return
        if self._cursor.driver is not None:
            raise ValueError(
                f"`epoch` must be {self.epoch}, the next one, while a schedule drives this loader, got {epoch}; epochs"
                " are counted without this call; to go on from elsewhere load a state"
            )
        self._cursor.move_to(epoch)
        self._begun = None

    # State

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: a few numbers, JSON-safe, the same on every rank.

        A batch that is not committed is repeated from its start. Within an epoch of a stream that shares itself out
        each rank has a place of its own: then save and load a state on each.
        """
        found: dict[str, Any] = {"format": state.FORMAT, "clock": self._cursor.position, **state.sizes(self._cursor)}
        return {**found, **self._stream_state(), **self._identity()}

    def _stream_state(self) -> dict[str, Any]:
        cursor = self._cursor
        if not isinstance(cursor, StreamCursor):
            return {}
        if self._begun == cursor.epoch:
            self._keep_place()
        return {"stream": {**cursor.saved(), "place": self._place if cursor.position > cursor.base else None}}

    def _keep_place(self) -> None:
        """Remembers where the stream goes on after what is committed."""
        if isinstance(self._cursor, StreamCursor):
            offset = self._cursor.position - self._cursor.base
            self._place = self._stream.place(offset) if offset else None

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, at the next `iter()`; ranks and micro-batches may differ.

        Args:
            state_dict: from `state_dict()`.

        Raises:
            TypeError: if it is no dict.
            ValueError: if it is damaged, or of another data set, seed or mode; nothing is changed then.
            RuntimeError: if the loader is being iterated.
        """
        if self._live() is not None:
            raise RuntimeError("a state must not be loaded during an iteration; load it before the loop")
        found = state.checked(state_dict, kinds=state.KINDS)
        own = self._identity()
        if self._drawn:
            own["seed"] = found["seed"]
        state.compare(found, own)
        sizes = self._cursor.checked(found["batch_size"]), state.postponed(found, self._cursor.checked)
        if isinstance(self._cursor, StreamCursor):
            rank = self._cursor.rank if self._joined else self._sharing()[1]
            self._place = self._cursor.go_on(state.checked_stream(found, readers=max(1, self.num_workers), rank=rank))
        self._cursor.restore(found["clock"], *sizes)
        self._seed, self._drawn, self._begun, self._part = found["seed"], False, None, None
        self._serial += 1
        self._pass = None  # an iteration that broke off is over
        self._build()

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
        return f"dataset, {self.num_workers} workers, {self._sharing()[2]} ranks"

    def _sharing(self) -> tuple[Any, int, int]:
        """The group over which batches are cut, this process's rank in it, and its size."""
        return _distributed.sharing_group(group=self._group, mesh=self._mesh, shard=self._shard)

    def __getstate__(self) -> dict[str, Any]:
        self._stream_state()  # keeps the place
        return {name: value for name, value in vars(self).items() if name not in _NOT_KEPT}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        vars(self).update(attributes, _pass=None, _begun=None, _over=None)
        self._start()

    def _build(self) -> None:
        """Makes what depends on the seed and the rank."""
        self._close()
        rank, world = self._cursor.rank, self._cursor.world
        self._source: sources.Source
        self._stream: StreamSource | SharedOutSource
        if isinstance(self._cursor, StreamCursor):
            self._stream = building.from_stream(
                self._how, seed=self._seed, rank=rank, world=world, group=self._over, sharding=self._sharding
            )
            self._cursor.extent = self._stream.extent
            self._source = self._stream
        else:
            self._source = building.from_map(self._how, self._order(rank, world), seed=self._seed)
        if isinstance(self._source, Assembler):
            self._close = weakref.finalize(self, self._source.held.close)

    def _order(self, rank: int, world: int) -> Order:
        if self._sampler is not None:
            return SampledOrder(self._sampler, self._cursor.size, seed=self._seed, rank=rank, world=world)
        return Order(self._cursor.size, seed=self._seed, shuffle=self._shuffle, rank=rank, world=world)

    def _rest(self) -> None:
        """An iteration has ended."""
        self._keep_place()
        if self.persistent_workers:
            self._source.rest()
        else:
            self._source.close()

    def _here(self) -> sources.Source:
        """All samples, whatever the rank, without workers."""
        return building.from_map(self._how, self._order(0, 1), seed=self._seed, here=True)

    def _spare(self, batch: Batch) -> Any:
        """One sample, for a rank that has none of its own in a micro-batch of `batch`."""
        if not isinstance(self._cursor, StreamCursor):
            return self._here().fetch(batch.clock, batch.clock + 1, lambda: iter(()))
        offset = batch.clock - self._cursor.base
        return building.spare_of_stream(self._how, self._stream, seed=self._seed, epoch=batch.epoch, offset=offset)
