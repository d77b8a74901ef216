"""Batches as nested tensors, in lists, tuples and mappings: cut, joined, and moved to a device."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data._utils.pin_memory import pin_memory

from adabatch._errors import ArgumentTypeError, UsageError

Arrive = Callable[[Any], tuple[Any, Callable[[], None] | None]]


def cut(data: Any, first: int, last: int) -> Any:
    """Samples `first` to `last` (exclusive) of a collated run; raises if it holds types `default_collate` never makes.

    Tensors of at least half the run are views. Smaller ones are copied, since a batch that is kept or saved would keep
    the whole run in memory.
    """
    if isinstance(data, Tensor):
        return data[first:last].clone() if 2 * (last - first) < len(data) else data[first:last]
    if _is_column(data):
        return data[first:last]
    return _rebuilt([data], lambda parts: cut(parts[0], first, last))


def join(runs: Sequence[Any]) -> Any:
    """Collated runs as one; raises as `cut`, or if shapes or lengths differ."""
    head = runs[0]
    if isinstance(head, Tensor):
        return torch.cat(list(runs))
    if _is_column(head):
        return type(head)(value for run in runs for value in run)
    return _rebuilt(runs, join)


def mapping_like(head: Mapping[Any, Any], found: dict[Any, Any]) -> Any:
    """`found` as the type of `head`, in torch's way."""
    if type(head) is dict:
        return found
    try:
        if isinstance(head, MutableMapping):
            copied = copy.copy(head)
            copied.update(found)
            return copied
        return type(head)(found)  # type: ignore[call-arg]
    except TypeError:
        return found


def _is_column(data: Any) -> bool:
    """Whether `data` is one value for each sample: strings, which stay a list or a tuple."""
    return isinstance(data, list | tuple) and len(data) > 0 and isinstance(data[0], str | bytes)


def _rebuilt(runs: Sequence[Any], combine: Callable[[list[Any]], Any]) -> Any:
    head: Any = runs[0]
    if isinstance(head, Mapping):
        return mapping_like(head, {key: combine([run[key] for run in runs]) for key in head})
    if isinstance(head, tuple) and hasattr(head, "_fields"):
        return type(head)(*(combine([run[i] for run in runs]) for i in range(len(head))))
    if isinstance(head, list | tuple):
        if any(len(run) != len(head) for run in runs):  # torch's own message
            raise UsageError(None, "each element in list of batch should be of equal size")
        return type(head)(combine([run[i] for run in runs]) for i in range(len(head)))
    raise ArgumentTypeError(
        None,
        f"batches of {type(head).__name__} cannot be cut and joined",
        remedy="pass a `collate_fn`, which gets the samples",
    )


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
    """Moves batches to a device; on CUDA from pinned memory, on a stream of its own, while training goes on.

    Objects other than tensors are moved by their method `to`, if they have one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cuda: Any = torch.cuda
        self._stream: Any = cuda.Stream(device) if device.type == "cuda" else None

    def start(self, data: Any) -> tuple[Any, Callable[[], None] | None]:
        """Starts the move; returns the batch and a function to call before its use, or None."""
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
        """Moves a batch and waits."""
        found, ready = self.start(data)
        if ready is not None:
            ready()
        return found


def arrival(*, pin: bool, device: torch.device | None) -> Arrive | None:
    """A function that moves arriving batches to a device, or pins them if there is an accelerator; None for neither."""
    if device is not None:
        return Mover(device).start
    if not pin or not torch.accelerator.is_available():
        return None
    pin_: Callable[[Any], Any] = pin_memory
    return lambda data: (pin_(data), None)


def pinned_room(*, pin: bool, device: torch.device | None) -> Callable[..., Tensor] | None:
    """A function that makes pinned tensors, if `arrival` would copy batches into such; else None.

    A batch that is gathered in pinned memory need not be copied there.
    """
    pins = device.type == "cuda" if device is not None else pin and torch.cuda.is_available()
    return functools.partial(torch.empty, device="cpu", pin_memory=True) if pins else None


def arrived(move: Arrive, data: Any) -> Any:
    """A batch, moved."""
    found, ready = move(data)
    if ready is not None:
        ready()
    return found
