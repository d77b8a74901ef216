"""A data loader whose batch size can be set at any time and holds for the very next batch."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Final

from torch.utils.data import IterableDataset, default_collate, default_convert

from adabatch import _checks, _distributed
from adabatch._errors import ArgumentError, UsageError
from adabatch.data import arguments, place
from adabatch.data.cursor import checked_size
from adabatch.data.iteration import Batches, BatchSamplerView, Parts, SamplerView, count_parts
from adabatch.data.order import draw_seed
from adabatch.data.place import Place
from adabatch.data.sources.supply import MapSupply, StreamSupply, Supply
from adabatch.data.training import Training
from adabatch.data.workers import worker
from adabatch.types import Batch, Driver, Part

_FIXED: Final = frozenset(("dataset", "sampler", "batch_sampler", "drop_last", "run_on", "shuffle", "seed"))


def setting(name: str) -> Any:
    """An attribute of a loader that its supply holds."""

    def get(self: DataLoader) -> Any:
        return getattr(self._supply, name)

    def put(self: DataLoader, value: Any) -> None:
        setattr(self._supply, name, value)

    return property(get, put)


class DataLoader:
    """Batches of a data set, in a size that can change at any time and an order that depends on nothing else.

    A batch is the positions `[p, p+B)` of the epoch's order, which (seed, epoch) alone define; rank r of W takes the
    clocks congruent to r modulo W. It has torch's arguments and attributes but does not inherit from torch's loader.

    An iteration begins when its first batch is asked for and runs to the end of an epoch. Without a schedule each is
    the next epoch, independent of those before, as torch's; the state is the newest one's. With `persistent_workers`
    there is one, which `iter()` begins anew. With a schedule an iteration moves nothing until a batch is trained on.
    Leaving an epoch after that skips its rest, which counts as passed; a state saved then goes on where it stopped.

    Args:
        dataset: anything with `__len__` and `__getitem__` (or `__getitems__`), or an `IterableDataset`; a
            `TensorDataset`, a tensor or a tuple of tensors is read without a call per sample.
        batch_size: samples in one update, over all ranks; from 1 to the size of the data set. None if the items of the
            data set are batches: they come as they are, whole on every rank, and no schedule changes them.
        shuffle: whether each epoch has an order of its own; None means False.
        sampler: an order of your own: an iterable of sample numbers with a length, iterated once an epoch with the
            global generators and its own `generator` set from (seed, epoch). A `DistributedSampler` is refused.
        batch_sampler: yields lists of sample numbers, as torch's: it forms the batches, whole on every rank, and no
            schedule changes them. None: the loader does.
        num_workers: processes that fetch samples; 0 fetches in the main process. A tensor data set starts none.
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
        run_on: whether the last batch of an epoch runs on into the next one, so that no batch is short.
        micro_batch_size: samples per forward and backward pass on one rank, for `ab.accumulate` and `parts()`; a plain
            loop gets whole batches. None for no splitting.
        sample_rng: whether python's, numpy's and torch's generators are set from (seed, epoch, position) for each
            sample, so that random transforms do not depend on workers or restarts; see `sample_seed`.
        sharding: how readers share a stream: with `"stride"` each walks all of it and keeps its share, exact for any
            number of workers and ranks; with `"dataset"` it shares itself out (by `get_worker_info` and the rank), and
            order and state belong to that number.
        device: where batches go; on CUDA they are pinned and moved ahead on a stream of their own. None leaves them.
        group: the process group over which batches are cut; default the world.
        mesh: a one-dimensional device mesh in place of `group`, such as `mesh["dp"]`: tensor-parallel peers, which are
            apart in another dimension, get the same samples by the same `seed`.
        shard: False gives every rank whole batches: for validation; with a `seed` for ranks that split a network.

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
        shuffle, drop_last, run_on, shard = arguments.flags(
            shuffle=shuffle or False, drop_last=drop_last, run_on=run_on, shard=shard
        )
        pin_memory, persistent_workers, in_order, sample_rng = arguments.flags(
            pin_memory=pin_memory, persistent_workers=persistent_workers, in_order=in_order, sample_rng=sample_rng
        )
        arguments.check_together(drop_last=drop_last, run_on=run_on, seed=seed, generator=generator)
        arguments.check_samplers(sampler, shuffle=shuffle)
        formed = batch_sampler is not None or batch_size is None
        if formed:
            others = {"shuffle": shuffle, "sampler": sampler, "batch_size": batch_size if batch_size != 1 else None}
            arguments.check_formed(
                batch_sampler,
                dataset,
                drop_last=drop_last,
                run_on=run_on,
                micro_batch_size=micro_batch_size,
                **(others if batch_sampler is not None else {}),
            )
        context = arguments.check_workers(num_workers, prefetch_factor, persistent_workers, multiprocessing_context)
        _checks.finite("timeout", timeout, minimum=0)
        shard = shard and not formed
        _distributed.sharing_group(group=group, mesh=mesh, shard=shard)
        kind: type[Supply] = StreamSupply if isinstance(dataset, IterableDataset) else MapSupply
        usual = default_convert if batch_size is None else default_collate
        self._supply = kind(
            dataset=dataset,
            sampler=sampler if batch_sampler is None else batch_sampler,
            batch_sampler=batch_sampler,
            shuffle=shuffle,
            formed=formed,
            sharding=arguments.check_sharding(sharding, dataset),
            sample_rng=sample_rng,
            collate_fn=collate_fn if collate_fn is not None else usual,
            num_workers=num_workers,
            prefetch_factor=2 if num_workers and prefetch_factor is None else prefetch_factor,
            timeout=timeout,
            worker_init_fn=worker_init_fn,
            multiprocessing_context=context,
            persistent_workers=persistent_workers,
            pin_memory=pin_memory,
            device=arguments.checked_device(device),
            group=group,
            mesh=mesh,
            shard=shard,
        )
        self.generator, self.pin_memory_device, self.in_order = generator, pin_memory_device, in_order
        size = 1 if batch_sampler is not None or batch_size is None else batch_size
        self._place = Place(self._supply.cursor(size, drop_last=drop_last, run_on=run_on))
        drawn = seed is None
        self._supply.seed = draw_seed(generator) if drawn else _checks.whole("seed", seed, minimum=0)
        self._supply.drawn = drawn
        self._place.demand.micro_batch_size = self._checked_micro_batch_size(micro_batch_size)
        self._shared: weakref.ref[Batches] | None = None  # the one iteration where workers persist
        if pin_memory and device is None:
            arguments.warn_of_pinning()

    counted_late = False
    __class_getitem__: Any = classmethod(GenericAlias)  # `DataLoader[...]` in annotations, as torch's

    def __bool__(self) -> bool:
        """True, also where `len()` is not known."""
        return True

    if not TYPE_CHECKING:  # else type checkers would take any name for an attribute

        def __setattr__(self, name: str, value: Any) -> None:
            if name in _FIXED:
                rule = "must not be assigned once a loader is built"
                raise ArgumentError(name, rule, value=value, remedy="build another loader")
            super().__setattr__(name, value)

    # Settings

    collate_fn = setting("collate_fn")
    num_workers = setting("num_workers")
    prefetch_factor = setting("prefetch_factor")
    persistent_workers = setting("persistent_workers")
    pin_memory = setting("pin_memory")
    timeout = setting("timeout")
    worker_init_fn = setting("worker_init_fn")
    multiprocessing_context = setting("multiprocessing_context")
    device = setting("device")

    @property
    def dataset(self) -> Any:
        """The data set."""
        return self._supply.dataset

    @property
    def dataset_size(self) -> int | None:
        """Samples in an epoch; None for a stream."""
        return self._place.cursor.dataset_size

    @property
    def shuffle(self) -> bool:
        """Whether each epoch has an order of its own."""
        return self._supply.shuffle

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that would be short is dropped."""
        return self._place.cursor.drop_last

    @property
    def run_on(self) -> bool:
        """Whether batches run on into the next epoch."""
        return self._place.cursor.run_on

    @property
    def seed(self) -> int:
        """The seed of the orders."""
        return self._supply.seed

    @property
    def sampler(self) -> Any:
        """The sampler given; without one the sample numbers of the current epoch. None for a stream."""
        supply = self._supply
        if supply.batch_sampler is not None:
            return getattr(supply.batch_sampler, "sampler", None)
        if supply.sampler is not None or self.dataset_size is None:
            return supply.sampler
        return SamplerView(self._place, supply)

    @property
    def batch_sampler(self) -> Any:
        """The batch sampler given; without one a read-only view of the current epoch's batches. None for a stream."""
        if self._supply.formed or self.dataset_size is None:
            return self._supply.batch_sampler
        return BatchSamplerView(self.sampler, self._place, self._supply)

    # Where it stands

    @property
    def batch_size(self) -> int:
        """Samples in one update, over all ranks; set it at any time, it holds for the very next batch.

        None where a `batch_sampler` or the data set forms the batches.
        """
        return None if self._supply.formed else self._place.shown.batch_size  # type: ignore[return-value]  # as torch's

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        _check_outside("batch_size")
        if self._supply.formed:
            raise ArgumentError(
                "batch_size",
                "must not be set where a `batch_sampler` or the data set forms the batches",
                value=value,
                remedy="build the loader with a `batch_size` and without `batch_sampler`",
            )
        self._place.cursor.batch_size = value

    @property
    def micro_batch_size(self) -> int | None:
        """Samples per forward and backward pass on one rank; set it at any time, it holds from the next batch on."""
        return self._place.demand.micro_batch_size

    @micro_batch_size.setter
    def micro_batch_size(self, value: int | None) -> None:
        _check_outside("micro_batch_size")
        self._place.demand.micro_batch_size = self._checked_micro_batch_size(value)

    def _checked_micro_batch_size(self, value: int | None) -> int | None:
        if value is None:
            return None
        remedy = "None trains on whole rank batches"
        return checked_size(value, self.dataset_size, name="micro_batch_size", remedy=remedy)

    @property
    def clock(self) -> int:
        """Position in the data up to which batches are committed, in samples; dropped ones count as passed."""
        stand = self._place
        return (stand.shown if stand.demand.driver is None else stand.cursor).clock

    @property
    def epoch(self) -> int:
        """The current epoch; between iterations the next one's."""
        return self._place.epoch

    @property
    def current(self) -> Batch | None:
        """The batch that was handed out and is not committed."""
        return self._place.shown.current

    @property
    def left(self) -> Batch | None:
        """The iteration's last batch that was passed untrained; None without one."""
        return self._place.shown.left

    @property
    def part(self) -> Part | None:
        """The micro-batch handed out last by `parts()`, else None."""
        return self._place.shown.part

    @property
    def driver(self) -> Driver | None:
        """The `BatchSizeScheduler` that gives the batch size; None for none."""
        return self._place.demand.driver

    def sharing(self) -> tuple[Any, int, int]:
        """See `DrivenLoader.sharing`."""
        return self._supply.sharing()

    def attach(self, driver: Driver) -> None:
        """See `DrivenLoader.attach`."""
        if self._supply.formed:
            raise ArgumentError(
                "loader",
                "must form its batches itself to be driven by a schedule",
                got="one with a `batch_sampler` or `batch_size=None`",
                remedy="build it with a `batch_size`, or wrap another loader in `ab.micro_batches`",
            )
        self._place.demand.attach(driver)

    def detach(self) -> None:
        """Undoes `attach`; the batch size stays."""
        self._place.detach()

    def commit(self) -> None:
        """Marks the current batch as trained on."""
        self._place.commit()

    def forget_looks(self) -> None:
        """See `DrivenLoader.forget_looks`."""
        self._place.forget_looks()

    def set_epoch(self, epoch: int) -> None:
        """Moves to the start of `epoch`, if it is another than the next one. Epochs are counted without this call.

        Raises:
            RuntimeError: if the loader is being iterated.
            ValueError: if a schedule drives the loader and `epoch` is another than the next.
        """
        self._place.set_epoch(_checks.whole("epoch", epoch, minimum=0))

    # Iteration

    def __len__(self) -> int:
        """Batches of the current epoch; between iterations of the next one; 0 after a plan's last.

        Those that are left are `len(iter(loader))`.

        Raises:
            TypeError: if `batch_size` was assigned during the iteration, since the number is not known then.
        """
        if self._place.front is None:
            self._place.measured(self._supply.measure())
        return self._place.count()

    def updates_in_epoch(self, epoch: int) -> int:
        """Updates in the whole of `epoch`: the batches that start there.

        Without a schedule, as many as there are if the batch size stays; 0 after a plan's last epoch.

        Args:
            epoch: its number, from 0.

        Raises:
            TypeError: over a stream; or if `batch_size` was assigned during that epoch, which goes on.
            ValueError: if `epoch` is negative.

        Example:
            >>> loader = DataLoader(range(10), batch_size=4, micro_batch_size=1)
            >>> loader.updates_in_epoch(0), loader.micro_batches_in_epoch(0)
            (3, 10)
        """
        return sum(self._sizes_in(epoch).values())

    def micro_batches_in_epoch(self, epoch: int) -> int:
        """Micro-batches in the whole of `epoch`, the same on every rank; with the `micro_batch_size` in force.

        Args:
            epoch: its number, from 0.

        Raises:
            TypeError: as `updates_in_epoch`.
            ValueError: likewise.
        """
        micro, (_, _, world) = self.micro_batch_size, self.sharing()
        return sum(number * count_parts(size, micro, world) for size, number in self._sizes_in(epoch).items())

    def _sizes_in(self, epoch: int) -> dict[int, int]:
        epoch = _checks.whole("epoch", epoch, minimum=0)
        if self._place.front is None:
            self._place.measured(self._supply.measure())
        return self._place.sizes_in(epoch)

    def training(self, epochs: int | None = None) -> Training:
        """All epochs of a training in one loop, whose length is known ahead; see `Training`.

        Args:
            epochs: epochs of the whole training, those before a resume included; None for those of the plan.

        Raises:
            TypeError: if `epochs` is no whole number.
            ValueError: if it is below 1.
        """
        return Training(self, epochs)

    def __iter__(self) -> Batches:
        """The rest of the current epoch as whole rank batches; its `len()` is their number."""
        if not (self.num_workers and self.persistent_workers and self.driver is None):
            return Batches(self._place, self._supply)
        found = self._shared() if self._shared is not None else None
        if found is None:
            found = Batches(self._place, self._supply)
            self._shared = weakref.ref(found)
        found.restart()
        return found

    def parts(self) -> Parts:
        """The rest of the current epoch as micro-batches of at most `micro_batch_size` samples, each with its `Part`.

        Every rank gets as many; one that has no sample for a micro-batch gets a repeated sample and size 0.
        Each is fetched when it is asked for. Without a driver a batch commits with its last micro-batch.
        """
        return Parts(self._place, self._supply)

    def peek(self) -> Any:
        """The first micro-batch of the iteration that would begin now; nothing moves. Raises if there is none."""
        self._supply.join(self._place.cursor)
        looked = Parts(self._place.fork(), self._supply)
        try:
            found = next(looked, None)
        finally:
            looked.close()
        if found is None:
            raise ArgumentError("peek", "needs a batch to show", got="none: the next iteration would be empty")
        return found[0]

    # State

    def state_dict(self) -> dict[str, Any]:
        """The loader's position: a few numbers, JSON-safe, the same on every rank.

        A batch that is not committed is repeated from its start. Within an epoch of a stream that shares itself out
        each rank has a position of its own: then save and load a state on each.
        """
        found = self._place.saved()
        if "stream" in found:
            found["stream"] |= self._supply.saved(between=self._place.between)
        return found | self._identity()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, at the next `iter()`; ranks and micro-batches may differ.

        Args:
            state_dict: from `state_dict()`.

        Raises:
            TypeError: if it is no dict.
            ValueError: if it is damaged, or of another data set, seed or mode; nothing is changed then.
            RuntimeError: if the loader is being iterated, and a schedule drives it.
        """
        stand, supply = self._place, self._supply
        stand.check_load()
        found = place.checked(state_dict)
        place.compare(found, self._identity() | ({"seed": found["seed"]} if supply.drawn else {}))
        cursor = stand.read(
            found,
            readers=max(1, self.num_workers),
            rank=lambda: stand.cursor.rank if supply.joined else self.sharing()[1],
        )
        fresh = supply.resumed(found.get("stream", {}))
        if stand.front is not None and stand.demand.driver is None:
            supply.end(stand, stand.front)  # its next batches would belong to the former position
        stand.load(cursor)
        supply.fresh, supply.seed, supply.drawn = fresh, found["seed"], False

    def _identity(self) -> dict[str, Any]:
        """The settings that a state must agree on."""
        supply = self._supply
        return {
            "seed": supply.seed,
            "dataset_size": self.dataset_size or 0,
            "shuffle": supply.shuffle,
            "sampler": type(supply.sampler).__name__ if supply.sampler is not None else "",
            "drop_last": self.drop_last,
            "run_on": self.run_on,
            "sharding": supply.described_sharding(),
        }

    def __getstate__(self) -> dict[str, Any]:
        cursor = self._place.fork().cursor
        cursor.begun = None
        return vars(self) | {"_place": None, "_cursor": cursor, "_supply": copy.copy(self._supply), "_shared": None}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        vars(self).update(attributes, _place=Place(attributes.pop("_cursor")))


def _check_outside(name: str) -> None:
    if worker.inside:
        raise UsageError(name, "must be set in the main process, not inside a worker, which has a copy")
