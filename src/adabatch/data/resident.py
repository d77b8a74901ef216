"""A tensor data set that lives on the device, with transforms of whole batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adabatch._errors import ArgumentTypeError
from adabatch.data.arguments import checked_device, columns_of
from adabatch.data.loader import DataLoader, setting


class ResidentLoader(DataLoader):
    """A loader of a tensor data set that lies on the device: a batch is one index, and nothing is moved.

    The same arguments, order and state as `DataLoader`, without workers. A CUDA GPU computes the order too, for up to a
    million samples at once, and nothing waits for it.

    Args:
        dataset: a `TensorDataset`, a tensor or a tuple of tensors; copied to the device once.
        batch_size: samples in one update, over all ranks.
        shuffle: whether each epoch has an order of its own.
        device: where the data live; default the current accelerator, else the CPU.
        transform: called with each batch (or micro-batch) on the device, for example to crop all its images at random.
            torch's generators are set for it from (seed, epoch, position of the first sample): the same after a
            restart, others with other batch sizes, micro-batches or ranks.
        options: other arguments of `DataLoader`.

    Raises:
        TypeError: if `dataset` is not made of tensors.
        ValueError: as `DataLoader`.

    Example:
        >>> loader = ResidentLoader(torch.arange(6.0), 3, device="cpu", transform=lambda batch: batch / 2)
        >>> [batch.tolist() for batch in loader]
        [[0.0, 0.5, 1.0], [1.5, 2.0, 2.5]]
    """

    transform = setting("transform")

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
        columns = columns_of(dataset)
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
        super().__init__(moved[0] if isinstance(dataset, Tensor) else moved, batch_size, shuffle, **options)
        self.device, self.transform = home, transform
