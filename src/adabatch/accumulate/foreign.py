"""Loaders of another make: their batches become micro-batches, of which the batch size sets the number per update.

Nothing is cut or joined, so it works with any batches, also those that cannot be merged. How many samples an epoch
ends with is known when it ends, not before; weights follow the requested size, and the gradient of a batch that held
another number of samples is corrected once, after its last micro-batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

import torch

from adabatch import _checks, _distributed
from adabatch._distributed import gradients
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.accumulate import _foreign_parts as told
from adabatch.types import Batch, Driver, Part

_FORMAT: Final = 1
_KEYS: Final = ("clock", "epoch", "micro_batches", "batch_size", "micro_batch_size", "ranks", "dataset_size", "seed")
_END: Final = object()


def micro_batches(
    loader: Iterable[Any],
    *,
    batch_size: int,
    micro_batch_size: int | None = None,
    dataset_size: int | None = None,
    samples: Callable[[Any], int] | None = None,
    group: Any = None,
) -> MicroBatches:
    """Any iterable of batches, for `accumulate` and `BatchSizeScheduler`: each batch of it becomes a micro-batch.

    The batch size, over all ranks, says how many of them make one update; growth takes more and never replaces the
    loader. Each rank iterates a loader of its own share, such as one with a `DistributedSampler`; where ranks have
    different numbers of micro-batches, those that have none left repeat one with weight 0. The sampler's `set_epoch`
    is called, and torch's, numpy's and python's random states are set from (seed, epoch, rank) while the loader
    begins an epoch, so that a shuffled torch DataLoader has the same order again after a resume.

    The state counts micro-batches: a resumed run fetches those passed and throws them away, with a warning.

    Args:
        loader: the iterable, one pass of which is an epoch.
        batch_size: samples in one update, over all ranks; a multiple of `micro_batch_size` times ranks.
        micro_batch_size: samples in a batch of `loader`; None: its `batch_size`, or else what it delivers first.
        dataset_size: samples in an epoch, over all ranks, as delivered; None: told from a torch DataLoader over a
            map-style data set, else unknown, so that schedules cannot count epochs.
        samples: how many samples a batch holds; None: the length of the first tensor or list in it.
        group: the process group that shares the batches; default the world.

    Returns:
        The loader for `accumulate`.

    Raises:
        TypeError: if `loader` is no iterable or is an `ab.DataLoader`.
        ValueError: if a size is out of range or `batch_size` is no such multiple.

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
    return MicroBatches(
        loader,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        dataset_size=dataset_size,
        samples=samples,
        group=group,
    )


class MicroBatches:
    """A `DrivenLoader` over a loader of another make; made by `micro_batches`, which says what the arguments are."""

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
        self._loader, self._count = loader, samples if samples is not None else told.count_samples
        self._group, self._rank, self._world = _distributed.sharing_group(group=group)
        if micro_batch_size is None:
            own = getattr(loader, "batch_size", None)
            micro_batch_size = own if isinstance(own, int) else None
        self._micro = None if micro_batch_size is None else _checks.whole("micro_batch_size", micro_batch_size)
        if dataset_size is None:
            dataset_size = told.delivered(loader, self._world)
        self._size = None if dataset_size is None else _checks.whole("dataset_size", dataset_size)
        self._batch_size = self._checked(batch_size)
        self._postponed: int | None = None  # the size that holds behind the next batch
        self._seed = _distributed.same_for_all(told.draw_seed(), self._group)
        self._driver: Driver | None = None
        self._current: Batch | None = None
        self._part: Part | None = None
        self._left: Batch | None = None  # of the iteration, passed last though nobody trained on it
        self._passed: Any = _END  # the last batch that was thrown away to get to where a resumed epoch goes on
        self._position = self._epoch = self._taken = 0  # where the iteration stands
        self._at = 0, 0, 0  # what is committed of it: position, epoch, micro-batches taken
        self._handed = 0  # micro-batches of the batch that is out
        self._ends_epoch = self._warned = False
        self._begun: int | None = None  # the epoch of which something was trained on, or handed out without a driver
        self._trained = False  # whether the iteration that goes on was
        self._serial = 0  # of the iteration
        self._before_looks: tuple[int, int, int] | None = None  # where it stood before iterations that were left early
        self._ended = False  # whether an iteration came to its end meanwhile
        self._live = self._over = False  # whether an iteration goes on, and has handed out all of its epoch
        self._open = False  # whether the end of an epoch is still to be told, of which all was handed out

    # What `DrivenLoader` asks for.

    @property
    def dataset_size(self) -> int | None:
        """Samples in an epoch, over all ranks; None if not known."""
        return self._size

    @property
    def batch_size(self) -> int:
        """Samples in one update, over all ranks; set it at any time, it holds for the very next batch."""
        if self._driver is None:
            return self._batch_size
        return self._current.requested if self._current is not None else self._requested()

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        if self._driver is not None:
            raise ArgumentError(
                "batch_size",
                "must not be set while a schedule drives this loader",
                value=value,
                remedy="change the schedule, or call `close()` on its `BatchSizeScheduler` first",
            )
        self._batch_size, self._postponed = self._checked(value), None

    @property
    def micro_batch_size(self) -> int | None:
        """Samples in a micro-batch; None before the first one if the loader does not say."""
        return self._micro

    @micro_batch_size.setter
    def micro_batch_size(self, value: int | None) -> None:
        raise ArgumentError(
            "micro_batch_size",
            "must be set in the loader that is wrapped",
            value=value,
            remedy="its batches are the micro-batches",
        )

    @property
    def clock(self) -> int:
        """Position in the data up to which batches are committed, in samples."""
        if self._driver is not None:
            return self._at[0]
        return self._position if self._current is None else self._current.clock

    @property
    def epoch(self) -> int:
        """The epoch in which it stands."""
        return self._epoch if self._live else self._at[1]

    @property
    def current(self) -> Batch | None:
        """The batch that was handed out and is not committed; its size is exact from its last micro-batch on."""
        return self._current

    @property
    def left(self) -> Batch | None:
        """The batch of the iteration that was passed last though nobody trained on it; None for none."""
        return self._left

    @property
    def part(self) -> Part | None:
        """The micro-batch handed out last."""
        return self._part

    @property
    def driver(self) -> Driver | None:
        """What gives the batch size; None if nothing does."""
        return self._driver

    def sharing(self) -> tuple[Any, int, int]:
        """The group that shares the batches (None for the world), this process's rank in it, and its size."""
        return self._group, self._rank, self._world

    def attach(self, driver: Driver) -> None:
        """From the next batch on, `driver` gives the batch size, and a batch commits at `commit()`."""
        if self._driver is not None:
            raise ArgumentError(
                "loader", "must not be driven by another scheduler", remedy="call `close()` on that one first"
            )
        for size in () if driver.plan is None else driver.plan.sizes:
            self._checked(size)
        self._driver = driver

    def detach(self) -> None:
        """Undoes `attach`; the batch size stays what it is."""
        if self._driver is not None:
            self._batch_size = self.batch_size
            if self._current is not None and (self._part is None or self._part.is_last):
                self.commit()  # else its last micro-batch does
            self._driver = None

    def commit(self) -> None:
        """Marks the current batch as trained on."""
        batch = self._current
        if batch is None:
            raise UsageError(
                "commit", "needs a batch that was handed out and is not committed", remedy="commit each once"
            )
        self._begun, self._trained = batch.epoch, True
        self._advance(batch)

    def _advance(self, batch: Batch) -> None:
        """Moves behind a batch; only the iteration does so where nothing of it was trained on."""
        self._position, self._current = batch.end, None
        self._taken += self._handed
        if self._ends_epoch:
            self._epoch, self._taken, self._ends_epoch, self._over = self._epoch + 1, 0, False, True
        if self._trained or self._driver is None:
            self._at = self._position, self._epoch, self._taken

    def parts(self) -> Iterator[tuple[Any, Part]]:
        """The rest of the epoch as micro-batches. It begins when the first is asked for.

        With a driver it moves nothing until a batch of it is trained on; leaving it after that skips what is left.
        """
        return self._run_epoch()

    def _begin(self) -> None:
        """Stands where an iteration begins."""
        if self._driver is not None:
            self._driver.check_next(begins=True)
        if self._live and not self._over and (self._trained or self._driver is None):
            raise UsageError(
                None,
                "a second iteration of a loader must not begin before the first has ended",
                remedy="leave the first loop",
            )
        if self._driver is None and self._before_looks is None:
            self._before_looks = self._at
        self._current = self._part = self._left = None
        self._ends_epoch = self._trained = self._over = False
        self._position, self._epoch, self._taken = self._at
        if self._begun == self._epoch:  # left early
            self._epoch, self._taken = self._epoch + 1, 0
            if self._size is not None:
                self._position = self._epoch * self._size

    def peek(self) -> Any:
        """The first micro-batch of the iteration that would begin now; nothing moves.

        Raises:
            ValueError: if the loader yields none.
        """
        _, epoch, skip = self._at
        if self._begun == epoch:
            epoch, skip = epoch + 1, 0
        first = next(self._begin_epoch(epoch, skip), _END)
        if first is _END:
            raise ArgumentError("loader", "must yield at least one batch", got="none")
        return first

    def forget_looks(self) -> None:
        """Goes back to before iterations that were left early, unless one came to its end, or a state was loaded."""
        if self._before_looks is not None and not self._ended:
            self._at, self._begun = self._before_looks, None
            if not self._live:
                self._position, self._epoch, self._taken = self._at
        self._before_looks = None

    def __iter__(self) -> Iterator[Any]:
        raise ArgumentTypeError(
            "micro_batches",
            ("must be iterated by `adabatch.accumulate(loader, model)`, since its batches are parts of an update"),
        )

    # The epoch.

    def _run_epoch(self) -> Generator[tuple[Any, Part], None, None]:
        if self._open:
            self._open = False  # it is told now
            return
        self._begin()
        self._serial, self._live = self._serial + 1, True
        serial = self._serial
        try:
            yield from self._batches(serial)
            self._ended = True
        finally:
            if self._serial == serial:
                self._live = False
                if self._current is None:
                    self._position, self._epoch, self._taken = self._at

    def _batches(self, serial: int) -> Generator[tuple[Any, Part], None, None]:
        source = self._begin_epoch(self._epoch, self._taken)
        self._passed = _END
        following = next(source, _END)
        spare = self._passed
        if following is _END and self._taken == 0 and self._world == 1:
            raise UsageError(
                "loader",
                "must yield at least one batch an epoch",
                got="none",
                remedy="a generator can be iterated once only",
            )
        while self._any(following is not _END):
            self._pass_current()
            index, counted = 0, 0
            while True:
                data, size = following, 0
                if data is _END:
                    data = spare
                    if data is _END:
                        raise UsageError("loader", "must yield a batch on every rank", got=f"none on rank {self._rank}")
                else:
                    size, spare = self._sized(data), data
                    following = next(source, _END)
                    self._check_size(size, more=following is not _END)
                if index == 0:
                    batch = self._begin_batch()
                    count = batch.requested // self._unit()
                counted, index = counted + size, index + 1
                more = self._any(following is not _END)
                if index == count or not more:
                    batch = self._whole(batch, counted, more)
                    count = index
                self._handed, self._part = index, Part(batch, index - 1, count, size)
                self._current = batch
                if self._driver is None:
                    self._begun = batch.epoch
                    if index == count:
                        self._advance(batch)
                yield data, self._part
                if self._serial != serial:
                    raise UsageError(
                        None,
                        "an iteration of a loader must not go on after a later one has begun, or a state was loaded",
                        remedy="take micro-batches from the latest only",
                    )
                if index == count:
                    break
        self._pass_current()

    def _begin_epoch(self, epoch: int, skip: int) -> Iterator[Any]:
        """The wrapped loader's batches of an epoch, without those that were passed before a resume."""
        told.set_epoch(self._loader, epoch)
        with told.seeded(self._loader, self._seed, epoch, self._rank):
            source = iter(self._loader)
            first = next(source, _END)  # where many loaders draw their order
        for number, data in enumerate(chain([first], source) if first is not _END else ()):
            if number >= skip:
                yield data
            else:
                self._passed = data

    def _begin_batch(self) -> Batch:
        """The batch that starts here, as far as it is known."""
        requested, clock = self._requested(), self._position
        if self._postponed is not None:
            self._batch_size, self._postponed = self._postponed, None
        if self._size is not None and clock >= (self._epoch + 1) * self._size:
            raise UsageError(
                "dataset_size",
                "must be what an epoch delivers over all ranks",
                got=f"{self._size}, and the loader goes on behind it",
                remedy="correct it, or leave it out if it is not known",
            )
        return Batch(clock, clock + requested, self._epoch, requested, requested, requested // self._world)

    def _whole(self, batch: Batch, counted: int, more: bool) -> Batch:
        """The batch as it is, now that its last micro-batch is there."""
        size = counted
        if self._world > 1:
            total = torch.tensor(counted, device=gradients.device_of(self._group))
            size = int(gradients.summed(total, self._group))
        self._ends_epoch = not more
        end = batch.clock + size
        if self._size is not None:
            stop = (self._epoch + 1) * self._size
            end = stop if not more else min(end, stop)
        return Batch(batch.clock, end, batch.epoch, batch.requested, size, counted)

    def _pass_current(self) -> None:
        if self._current is not None:
            if self._driver is not None:
                self._driver.check_next()
                self._left = self._current
            self._advance(self._current)

    def _any(self, mine: bool) -> bool:
        """Whether any rank says so."""
        if self._world == 1:
            return mine
        return gradients.any_of([mine], device=gradients.device_of(self._group), group=self._group)[0]

    def _requested(self) -> int:
        if self._driver is None:
            return self._checked(self._batch_size)
        return self._checked(self._driver.batch_size_at(self._position))

    def _unit(self) -> int:
        """Samples of one micro-batch on every rank."""
        return (self._micro or 1) * self._world

    def _checked(self, batch_size: int) -> int:
        value = _checks.whole("batch_size", batch_size, remedy="it counts the samples of one update, over all ranks")
        unit = self._unit()
        if value % unit:
            raise ArgumentError(
                "batch_size",
                f"must be a multiple of {unit}, micro-batches of {self._micro} on {self._world} ranks",
                value=value,
                remedy="give the wrapped loader a batch size that divides it, or use `schedules.round_to`",
            )
        if self._size is not None and value > self._size:
            raise ArgumentError(
                "batch_size", f"must be at most the data set's {self._size} samples", value=value, remedy="use less"
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
        """Where it stands: a few numbers, JSON-safe, the same on every rank. A batch not committed is repeated."""
        size, behind, out = self.batch_size, self._postponed, self._current
        if self._driver is None and out is not None and out.requested != size:
            size, behind = out.requested, size
        position, epoch, taken = self._at
        values = (position, epoch, taken, size, self._micro, self._world, self._size, self._seed)
        found = {"format": _FORMAT, **dict(zip(_KEYS, values, strict=True))}
        if self._open or (self._live and self._over and self._at == (self._position, self._epoch, self._taken)):
            found["open"] = True
        return found if behind is None else found | {"next_batch_size": behind}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, by counting micro-batches.

        Args:
            state: from `state_dict()`.

        Raises:
            ValueError: if it is no such state, or of another data set, micro-batch size or number of ranks.
            RuntimeError: if the loader is being iterated.
        """
        if self._live:
            raise UsageError(None, "a state must not be loaded during an iteration", remedy="load it before the loop")
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT or set(_KEYS) - set(state):
            raise ArgumentError("state", "must be what `state_dict()` of `micro_batches` gave", value=state)
        told.check_same(state, {"micro_batch_size": self._micro, "ranks": self._world, "dataset_size": self._size})
        clock, epoch, taken = (_checks.whole(name, state[name], minimum=0) for name in _KEYS[:3])
        behind = state.get("next_batch_size")
        sizes = self._checked(state["batch_size"]), None if behind is None else self._checked(behind)
        self._batch_size, self._postponed = sizes
        self._position, self._epoch, self._taken = self._at = clock, epoch, taken
        self._seed = _checks.whole("seed", state["seed"], minimum=0)
        self._current = self._begun = self._part = self._before_looks = None
        self._ends_epoch = self._trained = self._ended = self._over = False
        self._open = bool(state.get("open", False))
        self._serial += 1
        if self._taken:
            told.warn_of_counting(self._taken)
