"""Where a loader gets its batches from: tensors, the main process, or workers."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate
from torch.utils.data._utils.pin_memory import pin_memory

from adabatch.data.assembler import Ahead
from adabatch.data.device import Mover
from adabatch.data.order import Order, SampledOrder
from adabatch.data.readers import Collate, MapReader, SampleError, Whole


class Source(Protocol):
    """Batches of one rank's items."""

    def fetch(self, first: int, last: int, ahead: Ahead) -> Any:
        """Items `first` to `last` (exclusive), at least one; `ahead` predicts what is asked for next."""

    def rest(self) -> None:
        """The epoch is over: what is in flight is not needed, workers stay."""

    def close(self) -> None:
        """No more is needed for now: workers end."""


_SELECTED_AS: Final = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


class Columns:
    """A tensor data set: one index for each tensor, no call for a sample.

    Args:
        columns: the tensors.
        alone: whether the data set is one tensor, so that a batch is a tensor and not a list.
        order: which sample each item is.
    """

    def __init__(self, columns: tuple[Tensor, ...], order: Order, *, alone: bool) -> None:
        self._keys, self._alone, self._size = order.keys, alone, len(columns[0])
        self._samples: Any = columns[0] if alone else TensorDataset(*columns)
        self._columns = [column.view(_SELECTED_AS.get(column.dtype, column.dtype)) for column in columns]
        kinds = [column.dtype for column in columns]
        self._kinds = kinds if kinds != [column.dtype for column in self._columns] else None  # a view costs
        self._here = all(column.device.type == "cpu" for column in columns)
        self._sampled = isinstance(order, SampledOrder)

    def fetch(self, first: int, last: int, _ahead: Ahead) -> Any:
        """See `Source.fetch`."""
        items = self._keys(first, last)
        if not isinstance(items, Tensor):
            return default_collate([self._samples[key] for key in items])
        if self._sampled and int(items.min()) < 0:
            items = torch.where(items < 0, items + self._size, items)  # from the end, as torch counts them
        select = torch.index_select
        if self._here:
            found = [select(column, 0, items) for column in self._columns]
        else:
            found = [select(column, 0, items.to(column.device)) for column in self._columns]
        if self._kinds is not None:
            found = [column.view(kind) for column, kind in zip(found, self._kinds, strict=True)]
        return found[0] if self._alone else found

    def rest(self) -> None:
        """Nothing is in flight."""

    def close(self) -> None:
        """Nothing to end."""


class Here:
    """Any map-style data set, fetched in the main process.

    Args:
        reader: fetches the samples.
        collate: makes a batch of them.
    """

    def __init__(self, reader: MapReader, collate: Collate) -> None:
        self._reader, self._collate = reader, collate
        reader.wholes = not is_default(collate)

    def fetch(self, first: int, last: int, _ahead: Ahead) -> Any:
        """See `Source.fetch`."""
        rng = self._reader.rng
        try:
            with rng.kept() if rng is not None else contextlib.nullcontext():
                samples = self._reader.read(first, last)
        except SampleError as error:
            error.cause.add_note(f"while sample {error.index!r} was fetched")
            raise error.cause from None
        return self._collate(samples.data if isinstance(samples, Whole) else samples)

    def rest(self) -> None:
        """Nothing is in flight."""

    def close(self) -> None:
        """Nothing to end."""


class Moved:
    """Moves or pins each batch of another source.

    Args:
        source: the other source.
        move: starts it.
    """

    def __init__(self, source: Source, move: Arrive) -> None:
        self._source, self._move = source, move
        self.rest, self.close = source.rest, source.close

    def fetch(self, first: int, last: int, ahead: Ahead) -> Any:
        """See `Source.fetch`."""
        return arrived(self._move, self._source.fetch(first, last, ahead))


Arrive = Callable[[Any], tuple[Any, Callable[[], None] | None]]


def arrival(*, pin: bool, device: torch.device | None) -> Arrive | None:
    """What is done to batches that arrive: moved to a device, or pinned if that is asked for and there is one."""
    if device is not None:
        return Mover(device).start
    if not pin:
        return None
    if not torch.accelerator.is_available():
        warnings.warn("`pin_memory` has no effect: no accelerator was found", UserWarning, stacklevel=4)
        return None
    pin_: Callable[[Any], Any] = pin_memory
    return lambda data: (pin_(data), None)


def arrived(move: Arrive, data: Any) -> Any:
    """A batch once it is moved."""
    found, ready = move(data)
    if ready is not None:
        ready()
    return found


def is_default(collate_fn: Any) -> bool:
    """Whether batches are torch's own, which can be cut and joined."""
    return collate_fn is None or collate_fn is default_collate
