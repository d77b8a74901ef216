"""`accumulate`: micro-batches whose weighted gradients add up to the gradient of the whole batch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

from adabatch.types import DrivenLoader, Part


class MicroBatch:
    """One micro-batch of a batch, entered with `with` to get its data.

    Attributes:
        weight: what to multiply the mean loss of the micro-batch by.
        is_last: whether the optimizer steps after this one.
        index: its number within the batch, from 0.
        count: micro-batches in the batch, the same on every rank.
        size: samples that count; 0 for a repeated sample that only keeps ranks in step.
    """

    __slots__ = ("_data", "_model", "_sync", "count", "entered", "index", "is_last", "size", "weight")

    def __init__(self, data: Any, part: Part, *, model: Any, averaged_over: int) -> None:
        self._data, self._model = data, model
        self._sync: AbstractContextManager[Any] | None = None
        self.entered = False
        self.weight = part.size * averaged_over / part.batch.size
        self.is_last, self.index, self.count, self.size = part.is_last, part.index, part.count, part.size

    def __enter__(self) -> Any:
        sync = nullcontext() if self.is_last else _no_sync(self._model)
        sync.__enter__()
        self._sync, self.entered = sync, True
        return self._data

    def __exit__(self, *error: Any) -> None:
        sync, self._sync = self._sync, None
        if sync is not None:
            sync.__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a micro-batch must be entered to get its data; write `with micro as (inputs, targets):`")


def accumulate(loader: DrivenLoader, model: Any = None) -> Iterator[MicroBatch]:
    """One epoch of `loader` as micro-batches of at most `loader.micro_batch_size` samples on each rank.

    Multiply the mean loss of each micro-batch by its weight; the sum of the gradients then is the gradient of the
    batch's mean loss, for models without batch statistics. With batch norm the micro-batch is the ghost batch.
    Without a `micro_batch_size` every batch is one micro-batch.

        weight = n / B; n * W / B where the model averages gradients over W ranks

    Args:
        loader: an `ab.DataLoader`; its `micro_batch_size` bounds one forward and backward pass.
        model: the model that is trained. Under DistributedDataParallel, FullyShardedDataParallel and `fully_shard`
            gradients are then synchronised in the last micro-batch of each batch only. One process may leave it out.

    Yields:
        Micro-batches, to be entered with `with`.

    Raises:
        TypeError: if `loader` is not an `ab.DataLoader`.
        ValueError: if batches are shared between ranks and `model` is missing.
        RuntimeError: if some micro-batches of a batch were entered and others not.

    Example:
        >>> import torch, adabatch as ab
        >>> data = torch.utils.data.TensorDataset(torch.arange(5.0))
        >>> loader = ab.DataLoader(data, batch_size=5)
        >>> loader.micro_batch_size = 2
        >>> mean = 0.0
        >>> for micro in accumulate(loader):
        ...     with micro as (values,):
        ...         mean += values.mean().item() * micro.weight
        >>> round(mean, 6)
        2.0
    """
    if not isinstance(loader, DrivenLoader):
        raise TypeError(
            f"`loader` must be an ab.DataLoader, got {type(loader).__module__}.{type(loader).__name__}; "
            "ab.DataLoader takes the arguments of torch's"
        )
    return _micro_batches(loader, _unwrapped(model))


def _micro_batches(loader: DrivenLoader, model: Any) -> Iterator[MicroBatch]:
    averaged_over = _averaged_over(model)
    before: MicroBatch | None = None
    for data, part in loader.parts():
        if model is None and part.batch.rank_size != part.batch.size:
            raise ValueError(
                "`model` must be given where batches are shared between ranks, since the weights depend on whether it "
                "averages gradients over them; write `accumulate(loader, model)`"
            )
        micro = MicroBatch(data, part, model=model, averaged_over=averaged_over)
        yield micro
        if before is not None and micro.index > 0 and micro.entered != before.entered:
            missing = before if micro.entered else micro
            raise RuntimeError(
                f"micro-batch {missing.index + 1} of {missing.count} was not entered, others of its batch were, so the "
                "gradient is not the batch's; write `with micro as (inputs, targets):` for each"
            )
        before = micro


class _FullyShardNoSync:
    """FSDP2's switch as a context: gradients stay on the rank inside and are reduced from the next backward on."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._model.set_requires_gradient_sync(False)

    def __exit__(self, *_error: object) -> None:
        self._model.set_requires_gradient_sync(True)


def _unwrapped(model: Any) -> Any:
    """The model inside `torch.compile`."""
    while hasattr(model, "_orig_mod"):
        model = model._orig_mod
    return model


def _no_sync(model: Any) -> AbstractContextManager[Any]:
    """A context without gradient synchronisation, for a model that has any."""
    if hasattr(model, "set_requires_gradient_sync"):
        return _FullyShardNoSync(model)
    if hasattr(model, "no_sync") and hasattr(model, "process_group"):
        context: AbstractContextManager[Any] = model.no_sync()
        return context
    return nullcontext()


def _averaged_over(model: Any) -> int:
    """Ranks that the model averages gradients over: 1 unless it is wrapped by DDP, FSDP or `fully_shard`."""
    if hasattr(model, "set_requires_gradient_sync"):
        return max((int(p.device_mesh.size()) for p in model.parameters() if hasattr(p, "device_mesh")), default=1)
    if hasattr(model, "no_sync") and hasattr(model, "process_group"):
        return int(model.process_group.size())
    return 1


class _Callable(ModuleType):
    """Lets `ab.accumulate(...)` call the function, also where an import of this module took the name in the package."""

    def __call__(self, loader: DrivenLoader, model: Any = None) -> Iterator[MicroBatch]:
        return accumulate(loader, model)


sys.modules[__name__].__class__ = _Callable
