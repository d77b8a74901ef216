"""Sources in the main process: tensors by one index, other map-style data sets sample by sample."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from adabatch import _devices
from adabatch.data.order import Order, SampledOrder, seed_of
from adabatch.data.sources.nested import Arrive, arrived
from adabatch.data.workers.pool import Held
from adabatch.data.workers.readers import MapReader, SampleError, Whole

Bounds = tuple[int, int]
Ahead = Callable[[], Iterator[Bounds]]
Collate = Callable[[list[Any]], Any]
_SELECTED_AS: Final = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


class Source(Protocol):
    """Batches of one rank's items; has no workers by default."""

    @property
    def held(self) -> Held | None:
        """Holds its workers, which end when the loader is gone; None for none."""
        return None

    def fetch(self, first: int, last: int, ahead: Ahead) -> Any:
        """Items `first` to `last` (exclusive), at least one; `ahead` predicts the next requests."""

    def rest(self) -> None:
        """Stops fetching ahead; workers stay for the next epoch."""
        return

    def close(self) -> None:
        """Ends the workers; the next request starts new ones."""
        return


class Columns(Source):
    """A tensor data set: one index for each tensor, no call for a sample.

    Args:
        columns: the tensors.
        alone: whether the data set is one tensor, so that a batch is a tensor and not a list.
        order: which sample each item is; nothing is copied for a batch where its numbers lie with the tensors.
        room: makes the tensors, of a shape and a type, in which batches from the CPU come; None for new ones.
    """

    def __init__(
        self, columns: tuple[Tensor, ...], order: Order, *, alone: bool, room: Callable[..., Tensor] | None = None
    ) -> None:
        self._keys, self._alone, self._size = order.keys, alone, len(columns[0])
        self._samples: Any = columns[0] if alone else TensorDataset(*columns)
        self._columns = [column.view(_SELECTED_AS.get(column.dtype, column.dtype)) for column in columns]
        kinds = [column.dtype for column in columns]
        self._kinds = kinds if kinds != [column.dtype for column in self._columns] else None  # a view costs
        self._elsewhere = {column.device for column in columns} - {order.device}
        self._sampled = isinstance(order, SampledOrder)
        self._room = room if all(map(_fills, columns)) else None

    def fetch(self, first: int, last: int, _ahead: Ahead) -> Any:
        """See `Source.fetch`."""
        items = self._keys(first, last)
        if not isinstance(items, Tensor):
            return default_collate([self._samples[key] for key in items])
        if self._sampled and int(items.min()) < 0:
            items = torch.where(items < 0, items + self._size, items)  # from the end, as torch counts them
        select = torch.index_select
        if self._room is not None:
            found = [
                select(column, 0, items, out=self._room((len(items), *column.shape[1:]), dtype=column.dtype))
                for column in self._columns
            ]
        elif not self._elsewhere:
            found = [select(column, 0, items) for column in self._columns]
        else:
            by_device = {device: _devices.sent(items, device) for device in self._elsewhere}
            found = [select(column, 0, by_device.get(column.device, items)) for column in self._columns]
        if self._kinds is not None:
            found = [column.view(kind) for column, kind in zip(found, self._kinds, strict=True)]
        return found[0] if self._alone else found


def _fills(column: Tensor) -> bool:
    """Whether samples of a tensor can be gathered in room on the CPU that is given."""
    return column.device.type == "cpu" and column.layout == torch.strided


class Here(Source):
    """Any map-style data set, fetched in the main process."""

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
            raise error.raised() from None
        return self._collate(samples.data if isinstance(samples, Whole) else samples)


class Moved:
    """Moves or pins each batch of another source."""

    held = None

    def __init__(self, source: Source, move: Arrive) -> None:
        self._source, self._move = source, move
        self.rest, self.close = source.rest, source.close

    def fetch(self, first: int, last: int, ahead: Ahead) -> Any:
        """See `Source.fetch`."""
        return arrived(self._move, self._source.fetch(first, last, ahead))


class Transformed:
    """Passes each batch through a transform, with torch's generators set from seed, epoch and first position."""

    held = None

    def __init__(
        self, source: Source, transform: Callable[[Any], Any], *, seed: int, order: Order, device: torch.device
    ) -> None:
        self._source, self._transform, self._seed, self._order = source, transform, seed, order
        self._devices = [device] if device.type not in ("cpu", "meta") else []
        self._type = device.type if self._devices else "cuda"
        self.rest, self.close = source.rest, source.close

    def fetch(self, first: int, last: int, ahead: Ahead) -> Any:
        """See `Source.fetch`."""
        batch = self._source.fetch(first, last, ahead)
        epochs, positions = self._order.places(first, first + 1)
        seed = seed_of(seed_of(self._seed, int(epochs[0])), int(positions[0]))
        with torch.random.fork_rng(self._devices, device_type=self._type):
            torch.default_generator.manual_seed(seed)
            if self._devices:
                torch.get_device_module(self._devices[0]).manual_seed(seed)
            return self._transform(batch)


class Formed:
    """A map-style data set whose items are whole batches, read and collated where they are fetched.

    Args:
        dataset: the data set that is read.
        collate: makes a batch of its samples.
        listed: whether a key is a list of sample numbers; else the data set's item of that key is a batch.
    """

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], *, listed: bool) -> None:
        self.dataset, self._collate, self._listed = dataset, collate, listed

    def __len__(self) -> int:
        """Items of the data set."""
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Any:
        """One batch."""
        if not self._listed:
            return self._collate(self.dataset[key])
        many = getattr(self.dataset, "__getitems__", None)
        return self._collate(many(key) if many is not None else [self.dataset[each] for each in key])


class OnlyOne:
    """A `collate_fn` for lists of one item, which is a batch already."""

    def __init__(self, collate: Callable[[Any], Any] | None = None) -> None:
        self._collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        """The batch."""
        return samples[0] if self._collate is None else self._collate(samples[0])


def is_default(collate_fn: Any) -> bool:
    """Whether batches are collated by torch's own function, so that they can be cut and joined."""
    return collate_fn is None or collate_fn is default_collate
