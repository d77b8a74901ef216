"""What a wrapper around a model does with gradients: averages them over ranks, when, and who else can."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch.nn.parallel import DistributedDataParallel

from adabatch._errors import ArgumentError

_SYNCED: Final[WeakKeyDictionary[Any, int]] = WeakKeyDictionary()
"""Batches that a DDP model with a static graph reduced itself."""
_STATIC_GRAPH_BATCHES: Final = 2


class Wrapper:
    """How the gradients of `model` come together over ranks.

    Args:
        model: a module that is trained, wrapped or not.

    Attributes:
        model: it, without `torch.compile`.
        averaged_over: ranks that gradients are averaged over; 1 unless wrapped.
        group: their process group.
        reduces: whether the wrapper itself synchronises gradients, during the backward pass.
        sharded: whether parameters are sharded over ranks, so that a forward pass needs all of them.
        ignored: parameters that DDP was told to leave alone, by `id`.

    Raises:
        ValueError: if a part of `model` is wrapped and `model` itself is not.
    """

    def __init__(self, model: Any) -> None:
        self.model = model = unwrapped(model)
        self.group: Any = None
        self.averaged_over, self.sharded = 1, False
        self.ddp: Any = None
        if _is_fully_sharded(model):
            _reshard(model)
            self.sharded = True
            self.averaged_over = max(
                (int(p.device_mesh.size()) for p in model.parameters() if hasattr(p, "device_mesh")), default=1
            )
        elif hasattr(model, "no_sync") and hasattr(model, "process_group"):
            self.group, self.averaged_over = model.process_group, int(model.process_group.size())
            self.ddp = model if isinstance(model, DistributedDataParallel) else None
            self.sharded = self.ddp is None
        elif any(_is_wrapper(module) for module in model.modules()):
            raise ArgumentError(
                "model",
                "must be wrapped as a whole where gradients are averaged over ranks",
                got=(f"a {type(model).__name__} with a wrapped part, whose gradients would be averaged once too often"),
                remedy="wrap the model itself, or call `fully_shard(model)` after its parts",
            )
        names = getattr(self.ddp, "parameters_to_ignore", ())
        self.ignored = {id(p) for name, p in self.ddp.module.named_parameters() if name in names} if names else set()
        self.reduces = self.sharded or self.ddp is not None
        self.synchronises_forward = self.averaged_over > 1 and any(
            isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules()
        )

    def may_defer(self) -> bool:
        """Whether gradients may be averaged after the backward passes instead of during the last one."""
        ddp = self.ddp
        if ddp is None:
            return not self.sharded
        if getattr(ddp, "_comm_hooks", ()):
            return False  # a hook of the user's must see the gradients
        return not self.must_sync()

    def must_sync(self) -> bool:
        """Whether every backward pass must be synchronised: the first ones of a static graph, from which DDP learns."""
        ddp = self.ddp
        return ddp is not None and ddp.static_graph and _SYNCED.get(ddp, 0) < _STATIC_GRAPH_BATCHES

    def synced(self) -> None:
        """The wrapper reduced the gradients of a batch itself."""
        if self.ddp is not None and self.ddp.static_graph:
            _SYNCED[self.ddp] = _SYNCED.get(self.ddp, 0) + 1

    def no_sync(self) -> AbstractContextManager[Any]:
        """A context without gradient synchronisation, for a model that has any."""
        if _is_fully_sharded(self.model):
            return _FullyShardNoSync(self.model)
        if self.reduces:
            context: AbstractContextManager[Any] = self.model.no_sync()
            return context
        return nullcontext()

    def sync_buffers(self) -> None:
        """What DDP does at its first forward pass after a reduction, done now: rank 0's buffers for all."""
        if self.ddp is not None and self.ddp.will_sync_module_buffers():
            self.ddp._sync_buffers()
        self.expect_sync(False)

    def expect_sync(self, value: bool) -> None:
        """Whether DDP takes rank 0's buffers at its next forward pass."""
        if self.ddp is not None:
            self.ddp.require_forward_param_sync = value


class _FullyShardNoSync:
    """FSDP2's switch as a context: gradients stay on the rank inside and are reduced from the next backward on."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._model.set_requires_gradient_sync(False)

    def __exit__(self, *_error: object) -> None:
        self._model.set_requires_gradient_sync(True)


def _reshard(model: torch.nn.Module) -> None:
    """Lets `fully_shard` show its parameters: after a forward pass alone, as in evaluation, the root holds others."""
    for module in model.modules():
        if _is_fully_sharded(module):
            module.reshard()  # type: ignore[operator]


def _is_fully_sharded(module: Any) -> bool:
    return hasattr(module, "set_requires_gradient_sync")


def _is_wrapper(module: Any) -> bool:
    return isinstance(module, DistributedDataParallel) or _is_fully_sharded(module)


def unwrapped(model: Any) -> Any:
    """The model inside `torch.compile`."""
    while hasattr(model, "_orig_mod"):
        model = model._orig_mod
    return model
