"""A data loader whose batch size can be set at any time and holds for the very next batch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from adabatch import _checks, _distributed
from adabatch.data import fetch, state
from adabatch.data.arguments import check_flags, check_samplers, check_together, check_workers
from adabatch.data.cursor import Cursor
from adabatch.data.iterators import Batches, Parts, Pass
from adabatch.data.order import Order, draw_seed
from adabatch.types import Batch, Driver, Part

_STATE_KINDS: Mapping[str, type] = {
    "clock": int,
    "batch_size": int,
    "seed": int,
    "dataset_size": int,
    "shuffle": bool,
    "drop_last": bool,
    "run_on": bool,
}


class DataLoader:
    """Batches of a data set, of a size that can be changed at any time, in an order that depends on nothing else.

    A batch is the positions `[p, p+B)` of the epoch's order, which (seed, epoch) alone define; rank r of W takes the
    clocks congruent to r modulo W. It has torch's arguments and attributes but does not inherit from torch's loader.

    An iteration runs to the end of the epoch in which the loader stands. Leaving it early skips the rest of the epoch,
    which counts as passed; a state saved then goes on where it stopped. One iteration at a time.

    Args:
        dataset: anything with `__len__` and `__getitem__` (or `__getitems__`); a `TensorDataset`, a tensor or a tuple
            of tensors is read without a call per sample.
        batch_size: samples in one update, over all ranks; from 1 to the size of the data set.
        shuffle: whether each epoch has an order of its own; None means False.
        sampler: not supported yet.
        batch_sampler: not supported: the loader forms the batches.
        num_workers: 0, the main process fetches.
        collate_fn: makes a batch from a list of samples; default torch's `default_collate`.
        pin_memory: whether batches are copied to pinned memory.
        drop_last: whether a last batch that would be short is dropped.
        timeout: seconds to wait for a worker.
        worker_init_fn: called in each worker with its number.
        multiprocessing_context: how workers start.
        generator: the seed is drawn from it instead of torch's default generator.
        prefetch_factor: batches that each worker fetches ahead.
        persistent_workers: whether workers outlive an epoch.
        pin_memory_device: as torch's; only the empty string.
        in_order: as torch's.
        seed: which family of orders; None draws one, from rank 0 for all ranks, and keeps it in the state.
        run_on: whether a batch at the end of an epoch runs on into the next one, so that no batch is short.
        micro_batch_size: samples per forward and backward pass on one rank, for `parts()`; None for no splitting.
        group: the process group over which batches are cut; default the world.
        mesh: a one-dimensional device mesh in place of `group`.
        shard: False gives every rank whole batches, for validation.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range or does not go with another.

    Example:
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
        group: Any = None,
        mesh: Any = None,
        shard: bool = True,
    ) -> None:
        check_flags(shuffle=shuffle or False, drop_last=drop_last, run_on=run_on, shard=shard, pin_memory=pin_memory)
        check_together(drop_last=drop_last, run_on=run_on, seed=seed, generator=generator)
        check_samplers(sampler, batch_sampler)
        check_workers(num_workers, prefetch_factor, persistent_workers, timeout, multiprocessing_context)
        if batch_size is None:
            raise TypeError("`batch_size` must be a whole number, got None; for single samples use `batch_size=1`")
        self._dataset, self._shuffle, self._shard = dataset, bool(shuffle), shard
        size = fetch.size_of(dataset)
        self._cursor = Cursor(size, batch_size=batch_size, drop_last=drop_last, run_on=run_on)
        self._drawn = seed is None
        self._seed = draw_seed(generator) if seed is None else _checks.whole("seed", seed, minimum=0)
        self._group, self._mesh = group, mesh
        self._joined: tuple[int, int] | None = None
        self.collate_fn = collate_fn if collate_fn is not None else torch.utils.data.default_collate
        self._fetch = fetch.fetcher(dataset, self.collate_fn, pin=pin_memory)
        self.num_workers, self.pin_memory, self.timeout = num_workers, pin_memory, timeout
        self.worker_init_fn, self.multiprocessing_context = worker_init_fn, multiprocessing_context
        self.generator, self.prefetch_factor, self.persistent_workers = generator, prefetch_factor, persistent_workers
        self.pin_memory_device, self.in_order = pin_memory_device, in_order
        self.micro_batch_size = micro_batch_size
        self._part: Part | None = None
        self._pass: weakref.ref[Pass] | None = None
        self._begun: int | None = None
        self._build()

    # What it is

    @property
    def dataset(self) -> Any:
        """The data set."""
        return self._dataset

    @property
    def dataset_size(self) -> int:
        """Samples in an epoch."""
        return self._cursor.size

    @property
    def shuffle(self) -> bool:
        """Whether each epoch has an order of its own."""
        return self._shuffle

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that would be short is dropped."""
        return self._cursor.drop_last

    @property
    def run_on(self) -> bool:
        """Whether batches run on into the next epoch."""
        return self._cursor.run_on

    @property
    def seed(self) -> int:
        """Which family of orders."""
        return self._seed

    @property
    def sampler(self) -> Iterator[int]:
        """The sample numbers of the epoch in which the loader stands, in order, over all ranks."""
        order = Order(self.dataset_size, seed=self._seed, shuffle=self._shuffle)
        start = self.epoch * self.dataset_size
        return (int(order.items(clock, clock + 1)) for clock in range(start, start + self.dataset_size))

    @property
    def batch_sampler(self) -> None:
        """None: a batch is cut when it is asked for, not before."""
        return

    # Where it stands

    @property
    def batch_size(self) -> int:
        """Samples in one update, over all ranks; set it at any time, it holds for the very next batch."""
        return self._cursor.batch_size

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self._cursor.batch_size = value

    @property
    def micro_batch_size(self) -> int | None:
        """Samples per forward and backward pass on one rank; set it at any time, it holds from the next batch on."""
        return self._micro_batch_size

    @micro_batch_size.setter
    def micro_batch_size(self, value: int | None) -> None:
        if value is not None:
            value = _checks.whole("micro_batch_size", value, remedy="None trains on whole rank batches")
            if value > self.dataset_size:
                raise ValueError(
                    f"`micro_batch_size` must be at most the data set's {self.dataset_size} samples, got {value};"
                    " None trains on whole rank batches"
                )
        self._micro_batch_size = value

    @property
    def clock(self) -> int:
        """Position in the data up to which batches are committed, in samples; what was dropped counts as passed."""
        return self._cursor.clock

    @property
    def epoch(self) -> int:
        """The epoch that the next `iter()` starts or goes on with; during an iteration the one that it is in."""
        epoch = self.clock // self.dataset_size
        return epoch + (self._begun == epoch and self._live() is None)

    @property
    def current(self) -> Batch | None:
        """The batch that was handed out and is not committed."""
        return self._cursor.current

    @property
    def part(self) -> Part | None:
        """The micro-batch handed out last by `parts()`, else None."""
        return self._part

    def attach(self, driver: Driver) -> None:
        """From the next batch on, `driver` gives the batch size, and a batch commits at `commit()`."""
        self._cursor.attach(driver)

    def detach(self) -> None:
        """Undoes `attach`; the batch size stays what it is."""
        self._cursor.detach()

    def commit(self) -> None:
        """Marks the current batch as trained on."""
        self._cursor.commit()

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

    def _live(self) -> Pass | None:
        """The iteration that goes on, if one does."""
        found = self._pass() if self._pass is not None else None
        return found if found is not None and found.live else None

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
        if self._begun is not None and self.clock // self.dataset_size == self._begun:
            self._cursor.skip_epoch(self._begun)
        start = self.clock
        return start // self.dataset_size, start

    def _join(self) -> None:
        """Takes this process's place among the ranks; once taken, another is refused."""
        group, rank, world = _distributed.sharing_group(group=self._group, mesh=self._mesh, shard=self._shard)
        if self._joined == (rank, world):
            return
        if self._joined is not None:
            raise RuntimeError(
                f"the process group must not change while a loader lives, got rank {rank} of {world} after rank"
                f" {self._joined[0]} of {self._joined[1]}; build a new loader and load this one's state into it"
            )
        if world > 1 and self._drawn:
            self._seed = _distributed.same_for_all(self._seed, group)
        self._joined = self._cursor.rank, self._cursor.world = rank, world
        self._build()

    def __len__(self) -> int:
        """Batches of the iteration that goes on; if none does, of the one that `iter()` would begin.

        Raises:
            TypeError: if `batch_size` was assigned during the iteration: then the number is not known ahead.
        """
        live = self._live()
        if live is None:
            start = max(self.clock, self.epoch * self.dataset_size)
            return self._cursor.count(start, start // self.dataset_size)
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
        self._cursor.position, self._begun = epoch * self.dataset_size, None

    # State

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: a few numbers, JSON-safe, the same on every rank.

        A batch that is not committed is repeated from its start.
        """
        return {
            "format": state.FORMAT,
            "clock": self._cursor.position,
            "batch_size": self.batch_size,
            **self._identity(),
        }

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
        found = state.checked(state_dict, kinds=_STATE_KINDS)
        own = self._identity()
        if self._drawn:
            own["seed"] = found["seed"]
        state.compare(found, own)
        batch_size = self._cursor.checked(found["batch_size"])
        self._cursor.restore(found["clock"], batch_size)
        self._seed, self._drawn, self._begun, self._part = found["seed"], False, None, None
        self._build()

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "dataset_size": self.dataset_size,
            "shuffle": self._shuffle,
            "drop_last": self.drop_last,
            "run_on": self.run_on,
        }

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in vars(self).items() if name not in ("_fetch", "_source", "_pass", "_begun")
        }

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        vars(self).update(attributes, _pass=None, _begun=None)
        self._fetch = fetch.fetcher(self._dataset, self.collate_fn, pin=self.pin_memory)
        self._build()

    def _build(self) -> None:
        """Makes what depends on the seed and the rank."""
        place = {"rank": self._cursor.rank, "world": self._cursor.world}
        items = Order(self.dataset_size, seed=self._seed, shuffle=self._shuffle, **place).items
        fetch = self._fetch
        self._source: Callable[[int, int], Any] = lambda first, last: fetch(items(first, last))

    def _spare(self, batch: Batch) -> Any:
        """One sample of `batch`, for a rank that has none of its own."""
        order = Order(self.dataset_size, seed=self._seed, shuffle=self._shuffle)
        return self._fetch(order.items(batch.clock, batch.clock + 1))
