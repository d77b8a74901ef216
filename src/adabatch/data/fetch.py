"""From sample numbers to data: tensor data sets by one index each, others sample by sample and collated."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate
from torch.utils.data._utils.pin_memory import pin_memory

from adabatch.data.order import LARGEST

Collate = Callable[[list[Any]], Any]
Fetch = Callable[[Tensor], Any]


def size_of(dataset: Any) -> int:
    """Samples in `dataset`.

    Raises:
        TypeError: if it has no length.
        ValueError: if it is empty.
    """
    columns = columns_of(dataset)
    try:
        size = len(columns[0]) if columns else len(dataset)
    except TypeError:
        raise TypeError(
            f"`dataset` must have a length and be indexed by sample number, got {type(dataset).__name__};"
            " give it `__len__` and `__getitem__`"
        ) from None
    if size < 1:
        raise ValueError("`dataset` must hold at least one sample, got none; check the path or the filter that made it")
    if size > LARGEST:
        raise ValueError(f"`dataset` must hold at most 2^48 samples, got {size}; use a stream")
    return size


def columns_of(dataset: Any) -> tuple[Tensor, ...]:
    """The tensors of a tensor data set (a `TensorDataset`, a tensor, a tuple of tensors of one length), else none."""
    if isinstance(dataset, TensorDataset) and type(dataset).__getitem__ is TensorDataset.__getitem__:
        return tuple(dataset.tensors)
    if isinstance(dataset, Tensor):
        return (dataset,)
    if type(dataset) is tuple and dataset and all(isinstance(column, Tensor) for column in dataset):
        if len({len(column) for column in dataset}) > 1:
            lengths = ", ".join(str(len(column)) for column in dataset)
            raise ValueError(f"`dataset` must be tensors of one length, got {lengths}; put samples of a kind in a list")
        return dataset
    return ()


def fetcher(dataset: Any, collate_fn: Collate | None, *, pin: bool = False) -> Fetch:
    """A function from sample numbers to a batch, pinned if `pin` and there is an accelerator."""
    get = _fetcher(dataset, collate_fn)
    if not pin:
        return get
    if not torch.accelerator.is_available():
        warnings.warn("`pin_memory` has no effect: no accelerator was found", UserWarning, stacklevel=4)
        return get
    return lambda items: pin_memory(get(items))  # type: ignore[no-untyped-call]


def _fetcher(dataset: Any, collate_fn: Collate | None) -> Fetch:
    columns = columns_of(dataset)
    if columns and collate_fn in (None, default_collate):
        if len({column.device for column in columns}) == 1 and columns[0].device.type == "cpu":
            return _alone(columns[0]) if isinstance(dataset, Tensor) else _columns(columns)
        return _columns_elsewhere(columns, alone=isinstance(dataset, Tensor))
    get = samples_of(dataset)
    collate = default_collate if collate_fn is None else collate_fn
    return lambda items: collate(get(items.tolist()))


def samples_of(dataset: Any) -> Callable[[list[int]], list[Any]]:
    """A function from sample numbers to a list of samples; one call where the data set has `__getitems__`."""
    many = getattr(dataset, "__getitems__", None)
    if many is not None:
        return many  # type: ignore[no-any-return]
    if type(dataset) is tuple and columns_of(dataset):
        return lambda items: [tuple(column[item] for column in dataset) for item in items]
    return lambda items: [dataset[item] for item in items]


def _alone(column: Tensor) -> Fetch:
    return lambda items: torch.index_select(column, 0, items)


def _columns(columns: tuple[Tensor, ...]) -> Fetch:
    select = torch.index_select
    if len(columns) == 2:
        first, second = columns
        return lambda items: [select(first, 0, items), select(second, 0, items)]
    return lambda items: [select(column, 0, items) for column in columns]


def _columns_elsewhere(columns: tuple[Tensor, ...], *, alone: bool) -> Fetch:
    def fetch(items: Tensor) -> Any:
        found = [torch.index_select(column, 0, items.to(column.device)) for column in columns]
        return found[0] if alone else found

    return fetch
