"""Checks a loader's arguments; tells the size of its data set, and the tensors that it is made of."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterable, Iterator
from multiprocessing.context import BaseContext
from typing import Any, Final

import numpy as np
import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from adabatch import _checks, _devices, _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.data.order import LARGEST

_SAID: Final[set[str]] = set()  # the warnings that a process gives once


def flags(**given: Any) -> Iterator[bool]:
    """The flags as bools; raises unless each is a bool, one of numpy's, 0 or 1."""
    for name, flag in given.items():
        if not (isinstance(flag, bool | np.bool_) or (isinstance(flag, int) and flag in (0, 1))):
            raise ArgumentTypeError(name, "must be True or False", value=flag)
    return map(bool, given.values())


def check_together(*, drop_last: bool, run_on: bool, seed: int | None, generator: Any) -> None:
    """Raises if two arguments exclude each other."""
    if drop_last and run_on:
        raise ArgumentError("drop_last", "and `run_on` must not both be True: a batch that runs on is never short")
    if seed is not None and generator is not None:
        remedy = "the generator only serves to draw a seed"
        raise ArgumentError("seed", "and `generator` must not both be given", remedy=remedy)


def check_samplers(sampler: Any, *, shuffle: bool) -> None:
    """Raises if a sampler is given that this loader cannot honour."""
    if isinstance(sampler, DistributedSampler):
        raise ArgumentError(
            "sampler",
            "must not be a DistributedSampler: this loader cuts each batch over the ranks itself",
            remedy="use `shuffle=True`, a `batch_size` that counts the samples of all ranks, and `group=` for another "
            "group than the world",
        )
    if sampler is not None and shuffle:
        rule = "must be False where a `sampler` gives the order"
        raise ArgumentError("shuffle", rule, value=shuffle, remedy="leave one of them out")


def check_formed(batch_sampler: Any, dataset: Any, **others: Any) -> None:
    """Raises unless `others` are left out where a sampler or the data set forms the batches, whole on every rank."""
    what = "`batch_size=None`, where the data set's items are batches" if batch_sampler is None else "`batch_sampler`"
    for name, given in others.items():
        if given:
            raise ArgumentError(name, f"must be left out with {what}", value=given, remedy="leave one of them out")
    if batch_sampler is not None and isinstance(dataset, IterableDataset):
        raise ArgumentError("batch_sampler", "must be None for an IterableDataset, which has no sample numbers")


def check_workers(num_workers: Any, prefetch: Any, persistent: Any, context: Any) -> Any:
    """The multiprocessing context, None for the default one; raises if an argument is wrong or needs workers."""
    workers = _checks.whole("num_workers", num_workers, minimum=0, remedy="0 fetches in the main process")
    given = {
        "prefetch_factor": prefetch is not None,
        "persistent_workers": persistent,
        "multiprocessing_context": context,
    }
    for name, is_given in given.items():
        if is_given and workers == 0:
            raise ArgumentError(name, "needs `num_workers` of at least 1", got="0 workers", remedy="leave it out")
    if prefetch is not None:
        _checks.whole("prefetch_factor", prefetch, remedy="it counts the runs that each worker fetches ahead")
    warn_of_crowd(workers)
    if isinstance(context, str):
        _checks.one_of("multiprocessing_context", context, multiprocessing.get_all_start_methods())
        return multiprocessing.get_context(context)
    if context is not None and not isinstance(context, BaseContext):
        raise ArgumentTypeError("multiprocessing_context", "must be a start method or a context", value=context)
    return context


def warn_of_crowd(workers: int) -> None:
    """Warns if there are more workers than processors, as torch's loader does."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers > processors:
        warnings.warn(
            f"`num_workers` of {workers} is more than the {processors} processors that this process may use; fewer are"
            " faster, unless samples are waited for rather than computed",
            UserWarning,
            stacklevel=4,
        )


def warn_of_pinning() -> None:
    """Warns if there is no accelerator to pin memory for."""
    if not torch.accelerator.is_available():
        warnings.warn("`pin_memory` has no effect: no accelerator was found", UserWarning, stacklevel=3)


def warn_of_sharing(dataset: Any, batch_size: int, rank: int, world: int) -> None:
    """Says once, on rank 0 of several that torchrun started, that the script also counts the samples of one rank.

    A loop whose batch size is that of all ranks looks like one that kept that of one rank. So there must be a sign.
    """
    if rank or "RANK" not in os.environ or _distributed.launched() is None or "sharing" in _SAID:
        return  # launchers of frameworks set LOCAL_RANK alone
    sign = _sign_of_ranks(dataset, batch_size)
    if sign is None:
        return
    _SAID.add("sharing")
    warnings.warn(
        f"`batch_size` of {batch_size:,} counts the samples of all {world:,} ranks, so a rank gets about "
        f"{-(-batch_size // world):,}; but {sign}. If it was meant for each rank, write "
        f"`batch_size={batch_size * world}`; to say that it is right, give `group=torch.distributed.group.WORLD`",
        UserWarning,
        stacklevel=6,
    )


def _sign_of_ranks(dataset: Any, batch_size: int) -> str | None:
    """What in this process counts samples as torch does, by rank; None for nothing.

    A DistributedSampler of the same data that no loader uses was left over by a loader of torch's. One in a loader of
    the same number (of test data, say) shards it, so that number is of one rank there.
    """
    every: Iterable[Any] = gc.get_objects()  # no data set knows its samplers
    samplers: dict[int, Any] = {}
    used: dict[int, Any] = {}
    for each in every:
        kind = type(each)  # asks no proxy for its class
        if issubclass(kind, DistributedSampler):
            samplers[id(each)] = each
        elif issubclass(kind, BatchSampler | DataLoader):
            used[id(getattr(each, "sampler", None))] = each
    for key, sampler in samplers.items():
        if key not in used and sampler.dataset is dataset:
            return "a DistributedSampler of the same data is left over, whose loader counted those of one rank"
        if key in used and getattr(used[key], "batch_size", None) == batch_size:
            return "another loader, with a DistributedSampler, takes as many on each rank"
    return None


def check_sharding(sharding: Any, dataset: Any) -> str:
    """`sharding`, if it is known and goes with the data set."""
    _checks.one_of("sharding", sharding, ("stride", "dataset"))
    if sharding == "dataset" and not isinstance(dataset, IterableDataset):
        rule = "must be 'stride' for a data set with sample numbers"
        raise ArgumentError("sharding", rule, value=sharding, remedy="the loader shares it out")
    return str(sharding)


def check_stream(*, shuffle: bool, sampler: Any, run_on: bool) -> None:
    """Raises if an argument does not go with a stream."""
    if shuffle:
        rule = "must be False for an IterableDataset, whose order is its own"
        raise ArgumentError("shuffle", rule, remedy="shuffle inside it")
    if sampler is not None:
        raise ArgumentError("sampler", "must be None for an IterableDataset, which has no sample numbers")
    if run_on:
        raise ArgumentError("run_on", "must be False for an IterableDataset", remedy="let the stream itself repeat")


def checked_device(device: Any) -> torch.device | None:
    """`device` as torch's, with its index; raises if it is no device or this machine lacks it."""
    if device is None:
        return None
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ArgumentError("device", "must name a device such as 'cuda:0' or 'cpu'", value=device) from None
    if found.type == "cuda":
        if not torch.cuda.is_available():
            rule = "must be one that this machine has"
            raise ArgumentError("device", rule, value=device, remedy="use 'cpu' or leave it out")
        index: int | None = found.index
        if index is None:
            found = torch.device("cuda", torch.cuda.current_device())
    return found


def size_of(dataset: Any) -> int:
    """Samples in `dataset`; raises if it has no length, is empty or too large."""
    columns, rule = columns_of(dataset), "must have a length and be indexed by sample number"
    size = len(columns[0]) if columns else _length("dataset", dataset, rule, "give it `__len__` and `__getitem__`")
    if size < 1:
        remedy = "check the path or the filter that made it"
        raise ArgumentError("dataset", "must hold at least one sample", got="none", remedy=remedy)
    if size > LARGEST:
        raise ArgumentError("dataset", "must hold at most 2^48 samples", value=size, remedy="use a stream")
    return size


def _length(name: str, given: Any, rule: str, remedy: str) -> int:
    try:
        return len(given)
    except TypeError:
        raise ArgumentTypeError(name, rule, got=type(given).__name__, remedy=remedy) from None


def columns_of(dataset: Any) -> tuple[Tensor, ...]:
    """The tensors of a `TensorDataset`, a tensor or a tuple of tensors; none for others and for own ways to read."""
    if isinstance(dataset, TensorDataset) and _reads_as(dataset, TensorDataset):
        return tuple(dataset.tensors) if all(map(_has_rows, dataset.tensors)) else ()
    if isinstance(dataset, Tensor) and _reads_as(dataset, Tensor) and _has_rows(dataset):
        return (dataset,)
    if type(dataset) is tuple and dataset and all(isinstance(column, Tensor) for column in dataset):
        if len({len(column) for column in dataset}) > 1:
            lengths = ", ".join(str(len(column)) for column in dataset)
            remedy = "put samples of a kind in a list"
            raise ArgumentError("dataset", "must be tensors of one length", got=lengths, remedy=remedy)
        return dataset
    return ()


def home_of(columns: tuple[Tensor, ...]) -> torch.device | None:
    """The device on which all tensors lie, if an order can be computed there; None for the CPU and for several."""
    home = columns[0].device
    return home if _devices.counts_alike(home) and all(column.device == home for column in columns) else None


def _reads_as(dataset: Any, kind: type) -> bool:
    """Whether `dataset` has the length and gives the samples that a `kind` does."""
    own = type(dataset)
    same = all(getattr(own, name, None) is getattr(kind, name, None) for name in ("__getitem__", "__len__"))
    return same and getattr(dataset, "__getitems__", None) is None


def _has_rows(tensor: Tensor) -> bool:
    return not tensor.is_nested


def length_of_sampler(sampler: Any) -> int:
    """Samples that `sampler` draws in an epoch; raises if it has no length or draws none."""
    size = _length("sampler", sampler, "must have a length, the samples of an epoch", "give it `__len__`")
    if size < 1:
        raise ArgumentError("sampler", "must draw at least one sample", got="a length of 0")
    return size


def length_of_stream(dataset: Any) -> int | None:
    """Samples in a pass, from the stream's own `__len__`; None without one."""
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


def indexable(dataset: Any) -> Any:
    """`dataset`; a tuple of tensors as a `TensorDataset`."""
    columns = columns_of(dataset)
    return TensorDataset(*columns) if columns and type(dataset) is tuple else dataset
