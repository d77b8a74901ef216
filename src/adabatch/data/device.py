"""Batches on a device: moved ahead of time on a stream of their own where that helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from adabatch._errors import ArgumentError
from adabatch.data.tree import mapping_like


def checked_device(device: Any) -> torch.device | None:
    """`device` as torch's, with its index.

    Raises:
        ValueError: if there is no such device.
        TypeError: if it is not the name of a device.
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ArgumentError("device", "must name a device such as 'cuda:0' or 'cpu'", value=device) from None
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise ArgumentError(
                "device", "must be one that this machine has", value=device, remedy="use 'cpu' or leave it out"
            )
        index: int | None = found.index
        if index is None:
            found = torch.device("cuda", torch.cuda.current_device())
    return found


def _same(data: Any) -> Any:
    return data


def mapped(data: Any, function: Callable[[Tensor], Tensor], other: Callable[[Any], Any] = _same) -> Any:
    """`data` with `function` applied to each tensor in lists, tuples and mappings, and `other` to anything else."""
    if isinstance(data, Tensor):
        return function(data)
    if isinstance(data, Mapping):
        return mapping_like(data, {key: mapped(value, function, other) for key, value in data.items()})
    if isinstance(data, PackedSequence):
        indices = (data.sorted_indices, data.unsorted_indices)
        return PackedSequence(
            function(data.data), data.batch_sizes, *(i if i is None else function(i) for i in indices)
        )
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(mapped(value, function, other) for value in data))
    if isinstance(data, list | tuple):
        return type(data)(mapped(value, function, other) for value in data)
    return other(data)


class Mover:
    """Moves batches to a device. On CUDA from pinned memory, on a stream of its own, so that training goes on.

    Objects that are no tensors and have a method `to`, as batches of other libraries do, are moved by that.

    Args:
        device: where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cuda: Any = torch.cuda
        self._stream: Any = cuda.Stream(device) if device.type == "cuda" else None

    def start(self, data: Any) -> tuple[Any, Callable[[], None] | None]:
        """Starts the move; the batch, and what to call before it is used."""
        if self._stream is None:
            return mapped(data, lambda tensor: tensor.to(self._device), self._move_other), None
        moved: list[Tensor] = []

        def move(tensor: Tensor) -> Tensor:
            source = tensor if tensor.is_pinned() or tensor.is_cuda else tensor.pin_memory()
            moved.append(source.to(self._device, non_blocking=True))
            return moved[-1]

        with torch.cuda.stream(self._stream):
            found = mapped(data, move, self._move_other)
            done = self._stream.record_event()

        def ready() -> None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(done)
            for tensor in moved:
                tensor.record_stream(current)

        return found, ready

    def _move_other(self, thing: Any) -> Any:
        return thing.to(self._device) if callable(getattr(thing, "to", None)) else thing

    def __call__(self, data: Any) -> Any:
        """Moves at once."""
        found, ready = self.start(data)
        if ready is not None:
            ready()
        return found
