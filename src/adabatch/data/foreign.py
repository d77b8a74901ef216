"""Loaders of another make: their batches are micro-batches, of which the batch size sets the number per update."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from adabatch import _checks, _distributed
from adabatch.data import state
from adabatch.types import Batch, Driver, Part

_KINDS: Mapping[str, type] = {"clock": int, "epoch": int, "passed": int, "batch_size": int}


def micro_batches(
    loader: Iterable[Any],
    *,
    batch_size: int,
    dataset_size: int | None = None,
    size_of: Callable[[Any], int] | None = None,
    group: Any = None,
) -> MicroBatches:
    """Wraps any iterable of batches, so that the batch size of an update can grow without replacing the loader.

    Each batch of `loader` is one micro-batch, as it is; an update takes as many of them as give `batch_size` samples
    over all ranks, at the size of the first one. Nothing is cut, merged or fetched ahead: the size holds for the very
    next update, whatever `loader` does. Iterate with `adabatch.accumulate`.

    Args:
        loader: an iterable that gives an epoch of batches each time it is iterated, already shared between the ranks.
        batch_size: samples in one update, over all ranks; at least 1.
        dataset_size: samples in an epoch over all ranks, for schedules in epochs; None for a stream.
        size_of: samples in a batch; default the length of its first tensor, array or list.
        group: the ranks that share the work; default the world.

    Returns:
        A loader for `adabatch.accumulate` and `adabatch.BatchSizeScheduler`.

    Raises:
        TypeError: if `loader` cannot be iterated more than once, or `batch_size` is not a whole number.
        ValueError: if `batch_size` or `dataset_size` is below 1.

    Example:
        >>> import torch
        >>> theirs = torch.utils.data.DataLoader(torch.arange(10), batch_size=2)
        >>> loader = micro_batches(theirs, batch_size=4)
        >>> [(part.batch.clock, part.size, part.is_last) for _, part in loader.parts()]
        [(0, 2, False), (0, 2, True), (4, 2, False), (4, 2, True), (8, 2, True)]
    """
    return MicroBatches(loader, batch_size=batch_size, dataset_size=dataset_size, size_of=size_of, group=group)


def first_length(batch: Any) -> int:
    """The length of the first tensor, array or list of a batch.

    Raises:
        TypeError: if there is none.
    """
    if isinstance(batch, Tensor) or hasattr(batch, "shape"):
        return int(batch.shape[0])
    if isinstance(batch, Mapping) and batch:
        return first_length(next(iter(batch.values())))
    if isinstance(batch, list | tuple) and batch:
        nested = isinstance(batch[0], Tensor | Mapping | list | tuple) or hasattr(batch[0], "shape")
        return first_length(batch[0]) if nested else len(batch)
    raise TypeError(f"`size_of` must be given for batches of {type(batch).__name__}, which do not show their length")


class MicroBatches:
    """What `micro_batches` gives; see there.

    Attributes:
        counted_late: True: the size of a batch is known with its last micro-batch.
    """

    counted_late = True

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        batch_size: int,
        dataset_size: int | None,
        size_of: Callable[[Any], int] | None,
        group: Any,
    ) -> None:
        if not hasattr(loader, "__iter__") or isinstance(loader, Iterator):
            raise TypeError(
                f"`loader` must be an iterable that can be iterated once for each epoch, got {type(loader).__name__};"
                " wrap an iterator in a class with `__iter__`"
            )
        self.loader, self._group = loader, group
        self._size_of = size_of or first_length
        self._dataset_size = None if dataset_size is None else _checks.whole("dataset_size", dataset_size)
        self._batch_size = _checks.whole("batch_size", batch_size)
        self._clock = self._epoch = self._passed = self._skip = 0
        self._current: Batch | None = None
        self._part: Part | None = None
        self._driver: Driver | None = None
        self._running = False

    @property
    def dataset_size(self) -> int | None:
        """Samples in an epoch, if that was given."""
        return self._dataset_size

    @property
    def batch_size(self) -> int:
        """Samples in one update, over all ranks; holds from the next update on."""
        if self._driver is None:
            return self._batch_size
        return self._driver.batch_size_at(self._clock)

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        if self._driver is not None:
            raise ValueError("`batch_size` must not be set while a schedule drives this loader; change the schedule")
        self._batch_size = _checks.whole("batch_size", value)

    @property
    def micro_batch_size(self) -> None:
        """None: the wrapped loader's batches are the micro-batches."""
        return

    @micro_batch_size.setter
    def micro_batch_size(self, value: Any) -> None:
        raise ValueError(f"`micro_batch_size` must be set in the wrapped loader, as its batch size, got {value!r}")

    @property
    def drop_last(self) -> bool:
        """False: what is left at the end of an epoch is a short batch."""
        return False

    @property
    def run_on(self) -> bool:
        """False."""
        return False

    @property
    def clock(self) -> int:
        """Position in the data up to which batches are committed, in samples."""
        return self._clock

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration starts or goes on with."""
        return self._epoch

    @property
    def current(self) -> Batch | None:
        """The batch that was handed out and is not committed."""
        return self._current

    @property
    def part(self) -> Part | None:
        """The micro-batch handed out last."""
        return self._part

    def attach(self, driver: Driver) -> None:
        """See `types.DrivenLoader.attach`."""
        if self._driver is not None:
            raise ValueError("`loader` must not be driven by another scheduler; call `close()` on that one first")
        self._driver = driver

    def detach(self) -> None:
        """See `types.DrivenLoader.detach`."""
        if self._driver is not None:
            self._batch_size = self.batch_size
            self._driver = None

    def commit(self) -> None:
        """See `types.DrivenLoader.commit`."""
        batch, part = self._current, self._part
        if batch is None or part is None:
            raise RuntimeError(
                "`commit` needs a batch that was handed out and is not committed; commit each batch once"
            )
        self._clock, self._current = batch.end, None
        self._passed += part.index + 1

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("wrapped batches are micro-batches; iterate with `adabatch.accumulate(loader, model)`")

    def parts(self) -> Iterator[tuple[Any, Part]]:
        """The rest of the epoch as micro-batches.

        Raises:
            RuntimeError: if it is being iterated already.
        """
        if self._running:
            raise RuntimeError("a second iteration must not begin before the first has ended; leave the first loop")
        self._pass_current()
        if self._passed:  # the epoch was left early
            self._end_epoch()
        return self._epoch_parts()

    def _epoch_parts(self) -> Iterator[tuple[Any, Part]]:
        self._running = True
        try:
            inner = iter(self.loader)
            for _ in range(self._skip):
                next(inner, None)
            self._passed, self._skip = self._skip, 0
            following = next(inner, None)
            while self._more(following is not None):
                data, size = following, self._size_of(following)
                requested = self.batch_size
                count = -(-requested // (size * self._world()))
                total, index = 0, 0
                while True:
                    following = next(inner, None)
                    total += size
                    is_last = index + 1 == count or following is None
                    self._current = batch = self._batch(requested, total, is_last=is_last)
                    self._part = part = Part(batch, index, index + 1 if is_last else count, size)
                    yield data, part
                    if is_last:
                        break
                    data, size, index = following, self._size_of(following), index + 1
                self._pass_current()
            self._end_epoch()
        finally:
            self._running = False

    def _batch(self, requested: int, total: int, *, is_last: bool) -> Batch:
        size = requested
        if is_last:
            size = _distributed.total(total, self._group) if self._world() > 1 else total
        return Batch(self._clock, self._clock + size, self._epoch, requested, size, total)

    def _world(self) -> int:
        return _distributed.rank_and_world(self._group)[1]

    def _more(self, mine: bool) -> bool:
        """Whether the epoch goes on.

        Raises:
            RuntimeError: if it does on some ranks only.
        """
        if self._world() == 1:
            return mine
        ranks = _distributed.total(int(mine), self._group)
        if ranks not in (0, self._world()):
            raise RuntimeError(
                f"the wrapped loaders must give as many batches on every rank, got more on {ranks} of {self._world()};"
                " drop the last batches or pad them"
            )
        return mine

    def _pass_current(self) -> None:
        if self._current is not None:
            if self._driver is not None:
                self._driver.check_next()
            self.commit()

    def _end_epoch(self) -> None:
        self._epoch, self._passed = self._epoch + 1, 0
        if self._dataset_size is not None:
            self._clock = max(self._clock, self._epoch * self._dataset_size)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, by counting; JSON-safe."""
        passed = self._passed or self._skip
        return {
            "format": state.FORMAT,
            "clock": self._clock,
            "epoch": self._epoch,
            "passed": passed,
            "batch_size": self.batch_size,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where the state was taken: the wrapped loader is read on and its first batches are dropped.

        Args:
            state_dict: from `state_dict()`.

        Raises:
            TypeError: if it is no dict.
            ValueError: if it is damaged.
            RuntimeError: if the loader is being iterated.
        """
        if self._running:
            raise RuntimeError("a state must not be loaded during an iteration; load it before the loop")
        found = state.checked(state_dict, kinds=_KINDS)
        if found["passed"]:
            warnings.warn(
                f"the first {found['passed']} batches of the wrapped loader are read and dropped; the resumed run is"
                " exact only if it gives the same batches again, with the same batch size, order and ranks",
                UserWarning,
                stacklevel=2,
            )
        self._clock, self._epoch, self._skip = found["clock"], found["epoch"], found["passed"]
        self._batch_size, self._passed, self._current = found["batch_size"], 0, None
