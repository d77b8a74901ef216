"""A tensor data set that lives on the device, with transforms of whole batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adabatch._errors import ArgumentTypeError
from adabatch.data import building, datasets, sources
from adabatch.data.assembler import Ahead
from adabatch.data.cursor import Cursor
from adabatch.data.device import checked_device
from adabatch.data.loader import DataLoader
from adabatch.data.order import Order, seed_of


class Transformed:
    """Passes each batch of a source through a transform, with torch's generators set from (seed, where it starts).

    Args:
        source: the source.
        transform: called with each batch.
        seed: the loader's seed.
        order: tells where a batch starts.
        device: where batches are; its generator is set too.
    """

    def __init__(
        self, source: sources.Source, transform: Callable[[Any], Any], *, seed: int, order: Order, device: torch.device
    ) -> None:
        self._source, self._transform, self._seed, self._order = source, transform, seed, order
        self._devices = [device] if device.type not in ("cpu", "meta") else []
        self._type = device.type
        self.rest, self.close = source.rest, source.close

    def fetch(self, first: int, last: int, ahead: Ahead) -> Any:
        """See `Source.fetch`."""
        batch = self._source.fetch(first, last, ahead)
        epochs, positions = self._order.places(first, first + 1)
        seed = seed_of(seed_of(self._seed, int(epochs[0])), int(positions[0]))
        device_type = self._type if self._devices else "cuda"
        with torch.random.fork_rng(self._devices, device_type=device_type):
            torch.default_generator.manual_seed(seed)
            if self._devices:
                torch.get_device_module(self._devices[0]).manual_seed(seed)
            return self._transform(batch)


class ResidentLoader(DataLoader):
    """A loader of a tensor data set that lies on the device: one index for each batch, nothing is moved.

    The same arguments, order and state as `DataLoader`; without workers, which have nothing to do.

    Args:
        dataset: a `TensorDataset`, a tensor or a tuple of tensors; copied to the device once.
        batch_size: samples in one update, over all ranks.
        shuffle: whether each epoch has an order of its own.
        device: where the data live; default the current accelerator, else the CPU.
        transform: called with each batch (or micro-batch) on the device, such as random crops of all its images at
            once. torch's generators are set from (seed, epoch, position of the first sample) for it, so what is random
            is the same after a restart, and another with other batch sizes, micro-batches or ranks.
        options: other arguments of `DataLoader`.

    Raises:
        TypeError: if `dataset` is not made of tensors.
        ValueError: as `DataLoader`.

    Example:
        >>> loader = ResidentLoader(torch.arange(6.0), 3, device="cpu", transform=lambda batch: batch / 2)
        >>> [batch.tolist() for batch in loader]
        [[0.0, 0.5, 1.0], [1.5, 2.0, 2.5]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool | None = None,
        *,
        device: Any = None,
        transform: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        columns = datasets.columns_of(dataset)
        if not columns:
            raise ArgumentTypeError(
                "dataset",
                "must be a TensorDataset, a tensor or a tuple of tensors",
                got=type(dataset).__name__,
                remedy="`DataLoader(..., device=...)` moves batches of anything else",
            )
        if device is None and torch.accelerator.is_available():
            device = torch.accelerator.current_accelerator()
        home = checked_device(device if device is not None else "cpu") or torch.device("cpu")
        moved = tuple(column.to(home) for column in columns)
        self.transform, self._home = transform, home
        super().__init__(moved[0] if isinstance(dataset, Tensor) else moved, batch_size, shuffle, **options)
        self.device = home

    def _made(self, how: building.Fetching, cursor: Cursor) -> sources.Source:
        order = self._order(cursor.size, cursor.rank, cursor.world)
        return self._transformed(super()._made(how, cursor), order)

    def _here(self, how: building.Fetching, cursor: Cursor) -> sources.Source:
        return self._transformed(super()._here(how, cursor), self._order(cursor.size))

    def _transformed(self, source: sources.Source, order: Order) -> sources.Source:
        if self.transform is None:
            return source
        return Transformed(source, self.transform, seed=self._seed, order=order, device=self._home)
