"""Batches on a device: moved ahead of time on a stream of their own where that helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


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
        raise ValueError(f"`device` must name a device such as 'cuda:0' or 'cpu', got {device!r}") from None
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"`device` must be one that this machine has, got {device!r}; use 'cpu' or leave it out")
        index: int | None = found.index
        if index is None:
            found = torch.device("cuda", torch.cuda.current_device())
    return found


def mapped(data: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """`data` with `function` applied to each tensor in lists, tuples and mappings; objects with a `to` keep it."""
    if isinstance(data, Tensor):
        return function(data)
    if isinstance(data, Mapping):
        return type(data)({key: mapped(value, function) for key, value in data.items()})  # type: ignore[call-arg]
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(mapped(value, function) for value in data))
    if isinstance(data, list | tuple):
        return type(data)(mapped(value, function) for value in data)
    return data


class Mover:
    """Moves batches to a device. On CUDA from pinned memory, on a stream of its own, so that training goes on.

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
            return mapped(data, lambda tensor: tensor.to(self._device)), None
        moved: list[Tensor] = []

        def move(tensor: Tensor) -> Tensor:
            source = tensor if tensor.is_pinned() or tensor.is_cuda else tensor.pin_memory()
            moved.append(source.to(self._device, non_blocking=True))
            return moved[-1]

        with torch.cuda.stream(self._stream):
            found = mapped(data, move)
            done = self._stream.record_event()

        def ready() -> None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(done)
            for tensor in moved:
                tensor.record_stream(current)

        return found, ready

    def __call__(self, data: Any) -> Any:
        """Moves at once."""
        found, ready = self.start(data)
        if ready is not None:
            ready()
        return found
