"""Cutting and joining what `default_collate` makes: tensors in lists, tuples and mappings, and lists of strings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adabatch._errors import ArgumentTypeError, UsageError


def cut(data: Any, first: int, last: int) -> Any:
    """Samples `first` to `last` (exclusive) of a collated run.

    Tensors are views where they are at least half of what they keep in memory; smaller ones are copied, since a batch
    that is kept or saved would take the whole run along.

    Raises:
        TypeError: if the run holds a type that `default_collate` does not make.
    """
    if isinstance(data, Tensor):
        return data[first:last].clone() if 2 * (last - first) < len(data) else data[first:last]
    if _is_column(data):
        return data[first:last]
    return _rebuilt([data], lambda parts: cut(parts[0], first, last))


def join(runs: Sequence[Any]) -> Any:
    """Collated runs as one.

    Raises:
        TypeError: as `cut`.
        RuntimeError: if tensors of different shape, or lists of different length, meet.
    """
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
        if any(len(run) != len(head) for run in runs):  # torch's own word on such a batch
            raise UsageError(None, "each element in list of batch should be of equal size")
        return type(head)(combine([run[i] for run in runs]) for i in range(len(head)))
    raise ArgumentTypeError(
        None,
        f"batches of {type(head).__name__} cannot be cut and joined",
        remedy="pass a `collate_fn`, which gets the samples",
    )
