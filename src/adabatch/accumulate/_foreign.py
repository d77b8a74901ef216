"""Loaders of another make: their batches become micro-batches, and the batch size sets how many make one update.

Nothing is cut or joined, so any batches will do. The size of an epoch's last batch is known only at its end. So weights
follow the requested size, and the gradient of a batch of another size is corrected after its last micro-batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from adabatch import _checks, _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch._random import RandomState
from adabatch.data.cursor import Demand, checked_size, nothing_out
from adabatch.memory.untouched import generators_kept, holders
from adabatch.types import Batch, Driver, Part

_FORMAT: Final = 1
_KEYS: Final = ("clock", "epoch", "micro_batches", "batch_size", "micro_batch_size", "ranks", "dataset_size", "seed")
_END: Final = object()


class _Stand(NamedTuple):
    """Where an iteration stands, in samples, epochs, and micro-batches of the epoch."""

    clock: int = 0
    epoch: int = 0
    taken: int = 0


class _Iteration:
    """The flags of one iteration, and how many micro-batches of its batch were handed out."""

    live = over = False  # whether it goes on; whether its whole epoch is passed
    trained = ends_epoch = False  # whether a batch was committed; whether the current batch is the epoch's last
    handed = 0


class micro_batches:  # noqa: N801 - a function to whoever calls it
    """Wraps any iterable of batches for `accumulate` and `BatchSizeScheduler`: each batch becomes a micro-batch.

    The batch size, over all ranks, sets how many make one update; growth takes more and keeps the loader. Each rank
    iterates a loader of its own share, for example with a `DistributedSampler`; a rank that runs out of micro-batches
    repeats one with weight 0. The sampler's `set_epoch` is called. While the loader begins an epoch, torch's, numpy's
    and python's generators are seeded from (seed, epoch, rank), so a shuffled torch DataLoader repeats its order after
    a resume.

    The state counts micro-batches: a resumed run fetches those passed and throws them away, with a warning.

    Args:
        loader: the iterable; one pass is an epoch.
        batch_size: samples in one update, over all ranks; a multiple of `micro_batch_size` times ranks.
        micro_batch_size: samples in a batch of `loader`; None: its `batch_size`, or else the size of its first batch.
        dataset_size: samples that an epoch delivers over all ranks; None: taken from a torch DataLoader over a
            map-style data set, else unknown, and schedules cannot count epochs.
        samples: a function that counts the samples of a batch; None: the length of its first tensor or list.
        group: the process group that shares the batches; default the world.

    Attributes:
        current: the batch that was handed out and is not committed; its size is exact from its last micro-batch on.
        left: the iteration's last batch that was passed untrained; None without one.
        part: the micro-batch handed out last.

    Raises:
        TypeError: if `loader` is no iterable or is an `ab.DataLoader`.
        ValueError: if a size is out of range or `batch_size` no such multiple.

    Example:
        >>> import torch, adabatch as ab
        >>> data = torch.utils.data.TensorDataset(torch.randn(10, 3), torch.randn(10, 1))
        >>> loader = ab.micro_batches(torch.utils.data.DataLoader(data, batch_size=2), batch_size=4)
        >>> model = torch.nn.Linear(3, 1)
        >>> updates = []
        >>> for micro in ab.accumulate(loader, model):
        ...     with micro as (inputs, targets):
        ...         (torch.nn.functional.mse_loss(model(inputs), targets) * micro.weight).backward()
        ...     if micro.is_last:
        ...         updates.append(micro.count)
        ...         loader.batch_size = 6
        >>> updates
        [2, 3]
    """

    counted_late = True
    drop_last = run_on = False

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        batch_size: int,
        micro_batch_size: int | None = None,
        dataset_size: int | None = None,
        samples: Callable[[Any], int] | None = None,
        group: Any = None,
    ) -> None:
        if not isinstance(loader, Iterable):
            raise ArgumentTypeError("loader", "must be an iterable of batches", got=type(loader).__name__)
        if hasattr(loader, "parts"):
            raise ArgumentTypeError(
                "loader", "must be a loader of another make", got="one of adabatch", remedy="use it as it is"
            )
        self._loader, self._count = loader, samples if samples is not None else count_samples
        self._group, self._rank, self._world = _distributed.sharing_group(group=group)
        if micro_batch_size is None:
            own = getattr(loader, "batch_size", None)
            micro_batch_size = own if isinstance(own, int) else None
        self._micro = None if micro_batch_size is None else _checks.whole("micro_batch_size", micro_batch_size)
        if dataset_size is None:
            dataset_size = delivered(loader, self._world)
        self.dataset_size = None if dataset_size is None else _checks.whole("dataset_size", dataset_size)
        self._demand = Demand(self._checked(batch_size))
        self._seed = _distributed.same_for_all(int(torch.randint(2**62, ()).item()), self._group)
        self.current: Batch | None = None
        self.part: Part | None = None
        self.left: Batch | None = None
        self._here = self._at = _Stand()  # where the iteration stands, and up to where it is committed
        self._iteration = _Iteration()  # the latest
        self._warned = False
        self._begun: int | None = None  # the epoch last trained in, or handed out from without a driver
        self._before_looks: _Stand | None = None  # where it stood before iterations that were left early
        self._ended = False  # whether an iteration reached its end since then
        self._open = False  # whether an epoch was handed out whole but has not ended its loop yet

    @property
    def driver(self) -> Driver | None:
        """Gives the batch size; None for none."""
        return self._demand.driver

    @property
    def batch_size(self) -> int:
        """Samples in one update, over all ranks; set it at any time, it holds for the very next batch."""
        if self.driver is None:
            return self._demand.batch_size
        return self.current.requested if self.current is not None else self._requested()

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self._demand.assign(value, self._checked)

    @property
    def micro_batch_size(self) -> int | None:
        """Samples in a micro-batch; None before the first one if the loader does not say."""
        return self._micro

    @micro_batch_size.setter
    def micro_batch_size(self, value: int | None) -> None:
        remedy = "its batches are the micro-batches"
        raise ArgumentError("micro_batch_size", "must be set in the loader that is wrapped", value=value, remedy=remedy)

    @property
    def clock(self) -> int:
        """Position in the data up to which batches are committed, in samples."""
        if self.driver is not None:
            return self._at.clock
        return self._here.clock if self.current is None else self.current.clock

    @property
    def epoch(self) -> int:
        """The current epoch."""
        return (self._here if self._iteration.live else self._at).epoch

    def sharing(self) -> tuple[Any, int, int]:
        """The group that shares the batches (None for the world), this process's rank in it, and its size."""
        return self._group, self._rank, self._world

    def attach(self, driver: Driver) -> None:
        """From the next batch on, `driver` gives the batch size, and a batch commits at `commit()`."""
        for size in driver.sizes:
            self._checked(size)
        self._demand.attach(driver)

    def detach(self) -> None:
        """Undoes `attach`; the batch size stays."""
        if self.driver is not None:
            self._demand.batch_size = self.batch_size
            if self.current is not None and (self.part is None or self.part.is_last):
                self.commit()  # else its last micro-batch does
            self._demand.driver = None

    def commit(self) -> None:
        """Marks the current batch as trained on."""
        batch = self.current
        if batch is None:
            raise nothing_out()
        self._begun, self._iteration.trained = batch.epoch, True
        self._advance(batch)

    def parts(self) -> Iterator[tuple[Any, Part]]:
        """The rest of the epoch as micro-batches. It begins when the first is asked for.

        With a driver nothing moves until a batch is trained on; leaving the loop after that skips the rest.
        """
        if self._open:
            self._open = False  # it ends this loop
            return
        mine = self._begin()
        try:
            yield from self._micro_batches(mine)
            self._ended = True
        finally:
            if self._iteration is mine:
                mine.live = False
                if self.current is None:
                    self._here = self._at

    def peek(self) -> Any:
        """The first micro-batch of the iteration that would begin now; nothing moves. Raises if there is none."""
        first = next(self._batches_of(self._next_start())[0], _END)
        if first is _END:
            raise ArgumentError("loader", "must yield at least one batch", got="none")
        return first

    def forget_looks(self) -> None:
        """See `DrivenLoader.forget_looks`."""
        if self._before_looks is not None and not self._ended:
            self._at, self._begun = self._before_looks, None
            if not self._iteration.live:
                self._here = self._at
        self._before_looks = None

    def __iter__(self) -> Iterator[Any]:
        rule = "must be iterated by `adabatch.accumulate(loader, model)`, since its batches are parts of an update"
        raise ArgumentTypeError("micro_batches", rule)

    # An iteration.

    def _next_start(self) -> _Stand:
        """Where an iteration would start now: after one that was left early, at the next epoch."""
        clock, epoch, _ = self._at
        if self._begun != epoch:
            return self._at
        return _Stand(clock if self.dataset_size is None else (epoch + 1) * self.dataset_size, epoch + 1)

    def _begin(self) -> _Iteration:
        before = self._iteration
        if self.driver is not None:
            self.driver.check_next(begins=True)
        if before.live and not before.over and (before.trained or self.driver is None):
            raise UsageError(
                None,
                "a second iteration of a loader must not begin before the first has ended",
                remedy="leave the first loop",
            )
        if self.driver is None and self._before_looks is None:
            self._before_looks = self._at
        self.current = self.part = self.left = None
        self._here, self._iteration = self._next_start(), _Iteration()
        self._iteration.live = True
        return self._iteration

    def _micro_batches(self, mine: _Iteration) -> Iterator[tuple[Any, Part]]:
        source, spare = self._batches_of(self._here)
        following = next(source, _END)
        if following is _END and self._here.taken == 0 and self._world == 1:
            raise UsageError(
                "loader",
                "must yield at least one batch an epoch",
                got="none",
                remedy="a generator can be iterated once only",
            )
        more = self._any(following is not _END)
        while more:
            self._pass_current()
            index, counted, count = 0, 0, 1
            while index < count:
                data, size = following, 0
                if data is not _END:
                    size, following = self._sized(data), next(source, _END)
                    self._check_size(size, more=following is not _END)
                elif (data := spare) is _END:
                    raise UsageError("loader", "must yield a batch on every rank", got=f"none on rank {self._rank}")
                spare = data
                if index == 0:
                    batch = self._begin_batch()
                    count = batch.requested // self._unit()
                counted, index = counted + size, index + 1
                more = self._any(following is not _END)
                if index == count or not more:
                    batch, count = self._whole(batch, counted, more), index
                mine.handed, self.part, self.current = index, Part(batch, index - 1, count, size), batch
                if self.driver is None:
                    self._begun = batch.epoch
                    if index == count:
                        self._advance(batch)
                yield data, self.part
                if self._iteration is not mine:
                    raise UsageError(
                        None,
                        "an iteration of a loader must not go on after a later one has begun, or a state was loaded",
                        remedy="take micro-batches from the latest only",
                    )
        self._pass_current()

    def _batches_of(self, start: _Stand) -> tuple[Iterator[Any], Any]:
        """The wrapped loader's batches from `start` to the end of the epoch, and the one before; `_END` for none."""
        _tell_epoch(self._loader, start.epoch)
        with _seeded(self._loader, self._seed, start.epoch, self._rank):
            source = iter(self._loader)
            first = next(source, _END)  # where many loaders draw their order
        batches = iter(()) if first is _END else chain([first], source)
        passed = _END
        for passed in islice(batches, start.taken):  # noqa: B007 - those passed before a resume
            pass
        return batches, passed

    def _begin_batch(self) -> Batch:
        """The batch that starts here, at its requested size."""
        requested, (clock, epoch, _) = self._requested(), self._here
        self._demand.begin_batch()
        if self.dataset_size is not None and clock >= (epoch + 1) * self.dataset_size:
            raise UsageError(
                "dataset_size",
                "must be what an epoch delivers over all ranks",
                got=f"{self.dataset_size}, and the loader goes on after it",
                remedy="correct it, or leave it out if it is not known",
            )
        return Batch(clock, clock + requested, epoch, requested, requested, requested // self._world)

    def _whole(self, batch: Batch, counted: int, more: bool) -> Batch:
        """The batch at its real size, once its last micro-batch is there."""
        size = counted
        if self._world > 1:
            total = torch.tensor(counted, device=_distributed.device_of(self._group))
            size = int(_distributed.summed(total, self._group))
        self._iteration.ends_epoch = not more
        end = batch.clock + size
        if self.dataset_size is not None:
            stop = (batch.epoch + 1) * self.dataset_size
            end = stop if not more else min(end, stop)
        return Batch(batch.clock, end, batch.epoch, batch.requested, size, counted)

    def _advance(self, batch: Batch) -> None:
        """Moves past a batch; in an iteration that trained nothing, only the iteration itself moves."""
        mine, self.current = self._iteration, None
        self._here = _Stand(batch.end, self._here.epoch, self._here.taken + mine.handed)
        if mine.ends_epoch:
            self._here, mine.ends_epoch, mine.over = _Stand(batch.end, self._here.epoch + 1), False, True
        if mine.trained or self.driver is None:
            self._at = self._here

    def _pass_current(self) -> None:
        if self.current is not None:
            if self.driver is not None:
                self.driver.check_next()
                self.left = self.current
            self._advance(self.current)

    def _any(self, mine: bool) -> bool:
        """Whether `mine` is True on any rank."""
        if self._world == 1:
            return mine
        return _distributed.any_of([mine], device=_distributed.device_of(self._group), group=self._group)[0]

    def _requested(self) -> int:
        asked = self._demand.batch_size if self.driver is None else self.driver.batch_size_at(self._here.clock)
        return self._checked(asked)

    def _unit(self) -> int:
        """Samples of one micro-batch on every rank."""
        return (self._micro or 1) * self._world

    def _checked(self, batch_size: int) -> int:
        value, unit = checked_size(batch_size, self.dataset_size), self._unit()
        if value % unit:
            raise ArgumentError(
                "batch_size",
                f"must be a multiple of {unit}, micro-batches of {self._micro} on {self._world} ranks",
                value=value,
                remedy="give the wrapped loader a batch size that divides it, or use `schedules.round_to`",
            )
        return value

    def _sized(self, data: Any) -> int:
        size = _checks.whole("samples", self._count(data), remedy="it must say how many samples a batch holds")
        if self._micro is None:
            self._micro = size
        return size

    def _check_size(self, size: int, *, more: bool) -> None:
        if more and size != self._micro and not self._warned:
            self._warned = True
            warnings.warn(
                f"`loader` yields batches of other sizes, {size} and {self._micro} samples; an update takes batch size "
                f"/ {self._unit()} of them, whatever they hold, and the gradient is weighted by what they held",
                RuntimeWarning,
                stacklevel=2,
            )

    # State.

    def state_dict(self) -> dict[str, Any]:
        """The position: a few numbers, JSON-safe, the same on every rank. A batch not committed is repeated."""
        sizes, mine = self._demand.saved(self.batch_size, self.current), self._iteration
        values = (*self._at, sizes.pop("batch_size"), self._micro, self._world, self.dataset_size, self._seed)
        found = {"format": _FORMAT, **dict(zip(_KEYS, values, strict=True))}
        if self._open or (mine.live and mine.over and self._at == self._here):
            found["open"] = True
        return found | sizes

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken by `state_dict()`, by counting micro-batches.

        Raises:
            ValueError: if it is no such state, or of another data set, micro-batch size or number of ranks.
            RuntimeError: if the loader is being iterated.
        """
        if self._iteration.live:
            raise UsageError(None, "a state must not be loaded during an iteration", remedy="load it before the loop")
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT or set(_KEYS) - set(state):
            raise ArgumentError("state", "must be what `state_dict()` of `micro_batches` gave", value=state)
        own = {"micro_batch_size": self._micro, "ranks": self._world, "dataset_size": self.dataset_size}
        for name, mine in own.items():
            if state[name] != mine and not (name == "micro_batch_size" and mine is None):  # not known yet
                raise ArgumentError(
                    "state",
                    f"must belong to this loader: `{name}` is {state[name]!r} there and {mine!r} here",
                    remedy="batches of another make are counted, so resume with the same settings",
                )
        stand = _Stand(*(_checks.whole(name, state[name], minimum=0) for name in _KEYS[:3]))
        self._demand.load(state, self._checked)
        self._here = self._at = stand
        self._seed = _checks.whole("seed", state["seed"], minimum=0)
        self.current = self._begun = self.part = self._before_looks = None
        self._iteration, self._ended, self._open = _Iteration(), False, bool(state.get("open", False))
        if stand.taken:
            warnings.warn(
                f"resuming by counting: the first {stand.taken} batches of the epoch are fetched again and thrown "
                "away; exact if the loader yields the same batches in the same order (same workers, its own seed set); "
                "what it drew at random itself is not restored",
                RuntimeWarning,
                stacklevel=2,
            )


def count_samples(data: Any) -> int:
    """Samples in a batch: the length of the first tensor, array or list of strings in it.

    Raises:
        TypeError: if there is none.

    Example:
        >>> count_samples({"ids": torch.zeros(3, 5), "more": [1, 2]}), count_samples((["a", "b"], None))
        (3, 2)
    """
    found = _first_length(data)
    if found is None:
        rule = f"the samples of a batch of {type(data).__name__} cannot be counted"
        raise ArgumentTypeError(None, rule, remedy="pass `samples=`, a function of a batch")
    return found


def _first_length(data: Any) -> int | None:
    if isinstance(data, Tensor | np.ndarray):
        return len(data) if data.ndim else None
    if isinstance(data, list | tuple) and data and isinstance(data[0], str | bytes | int | float):
        return len(data)
    inner = data.values() if isinstance(data, Mapping) else data if isinstance(data, list | tuple) else ()
    return next((found for each in inner if (found := _first_length(each)) is not None), None)


def delivered(loader: Any, world: int) -> int | None:
    """Samples that one pass of a torch DataLoader over a map-style data set delivers, over all ranks; else None."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return None
    try:
        size = len(loader.sampler)  # type: ignore[arg-type]
    except TypeError:
        return None
    if loader.drop_last:
        size -= size % loader.batch_size
    return size * world or None


def _tell_epoch(loader: Any, epoch: int) -> None:
    """Calls `set_epoch` of a loader, its samplers and its data set, where they have one."""
    for holder in (*holders(loader), getattr(loader, "dataset", None)):
        tell = getattr(holder, "set_epoch", None)
        if callable(tell):
            tell(epoch)


@contextlib.contextmanager
def _seeded(loader: Any, seed: int, epoch: int, rank: int) -> Iterator[None]:
    """A context in which the global generators, and the loader's own, are seeded from these numbers alone."""
    digest = hashlib.blake2b(f"{seed} {epoch} {rank}".encode(), digest_size=8).digest()
    value = int.from_bytes(digest, "little") >> 1
    before = RandomState()
    try:
        with generators_kept(loader) as own:
            for generator in (*own, torch.default_generator):
                generator.manual_seed(value)
            random.seed(value)
            np.random.seed(value % 2**32)
            yield
    finally:
        before.restore()
