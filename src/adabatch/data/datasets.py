"""What a data set is: its size, and its tensors if it is made of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import TensorDataset

from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.data.order import LARGEST


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
        raise ArgumentTypeError(
            "dataset",
            "must have a length and be indexed by sample number",
            got=type(dataset).__name__,
            remedy="give it `__len__` and `__getitem__`",
        ) from None
    if size < 1:
        raise ArgumentError(
            "dataset", "must hold at least one sample", got="none", remedy="check the path or the filter that made it"
        )
    if size > LARGEST:
        raise ArgumentError("dataset", "must hold at most 2^48 samples", value=size, remedy="use a stream")
    return size


def columns_of(dataset: Any) -> tuple[Tensor, ...]:
    """The tensors of a tensor data set (a `TensorDataset`, a tensor, a tuple of tensors of one length), else none.

    One that is read in a way of its own is no tensor data set.
    """
    if isinstance(dataset, TensorDataset) and _reads_as(dataset, TensorDataset):
        return tuple(dataset.tensors) if all(map(_has_rows, dataset.tensors)) else ()
    if isinstance(dataset, Tensor) and _reads_as(dataset, Tensor) and _has_rows(dataset):
        return (dataset,)
    if type(dataset) is tuple and dataset and all(isinstance(column, Tensor) for column in dataset):
        if len({len(column) for column in dataset}) > 1:
            lengths = ", ".join(str(len(column)) for column in dataset)
            raise ArgumentError(
                "dataset", "must be tensors of one length", got=lengths, remedy="put samples of a kind in a list"
            )
        return dataset
    return ()


def _reads_as(dataset: Any, kind: type) -> bool:
    """Whether `dataset` has the length and gives the samples that a `kind` does."""
    own = type(dataset)
    same = all(getattr(own, name, None) is getattr(kind, name, None) for name in ("__getitem__", "__len__"))
    return same and getattr(dataset, "__getitems__", None) is None


def _has_rows(tensor: Tensor) -> bool:
    return not tensor.is_nested


def length_of_sampler(sampler: Any) -> int:
    """Samples that `sampler` draws in an epoch.

    Raises:
        TypeError: if it has no length.
        ValueError: if that is 0.
    """
    try:
        size = len(sampler)
    except TypeError:
        raise ArgumentTypeError(
            "sampler",
            "must have a length, the samples of an epoch",
            got=type(sampler).__name__,
            remedy="give it `__len__`",
        ) from None
    if size < 1:
        raise ArgumentError("sampler", "must draw at least one sample", got="a length of 0")
    return size


def length_of_stream(dataset: Any) -> int | None:
    """Samples in a pass by the word of a stream's own `__len__`; None without one."""
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


def indexable(dataset: Any) -> Any:
    """`dataset`, or what gives its samples by number if it is a tuple of tensors."""
    columns = columns_of(dataset)
    return TensorDataset(*columns) if columns and type(dataset) is tuple else dataset
