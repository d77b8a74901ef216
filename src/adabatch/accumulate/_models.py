"""The modules that are trained, as one: their parameters, and how their gradients are averaged over ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from operator import methodcaller
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch.nn.parallel import DistributedDataParallel

from adabatch import _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.norm import SyncBatchNorm

_SYNCED: Final[WeakKeyDictionary[Any, int]] = WeakKeyDictionary()
"""By DDP model with a static graph, the batches that it reduced itself."""
_STATIC_GRAPH_BATCHES: Final = 2
_SYNC_BUFFERS: Final = methodcaller("_sync_buffers")  # torch has no public way


class Wrapper:
    """How the gradients of one module, wrapped or not, are averaged over ranks; raises if only a part is wrapped.

    Attributes:
        model: the module without `torch.compile`.
        averaged_over: ranks that gradients are averaged over; 1 unless wrapped.
        ranks: those ranks; None if not wrapped or not known.
        group: their process group.
        reduces: whether the wrapper itself synchronises gradients, during the backward pass.
        sharded: whether parameters are sharded over ranks, so that a forward pass needs all of them.
        ignored: parameters that DDP was told to leave alone, by `id`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model = unwrapped(model)
        self.group: Any = None
        self.averaged_over, self.sharded = 1, False
        self.ranks: frozenset[int] | None = None
        self.ddp: Any = None
        _refuse_replicate(model)
        if _is_fully_sharded(model):
            _reshard(model)
            self.sharded = True
            self.averaged_over = max(
                (int(p.device_mesh.size()) for p in model.parameters() if hasattr(p, "device_mesh")), default=1
            )
            self.ranks = _distributed.fully_sharded_over(each for each in model.modules() if _is_fully_sharded(each))
        elif hasattr(model, "no_sync") and hasattr(model, "process_group"):
            self.group, self.averaged_over = model.process_group, int(model.process_group.size())
            self.ddp = model if isinstance(model, DistributedDataParallel) else None
            self.sharded = self.ddp is None
            if getattr(model, "_inter_node_pg", None) is None:  # else FullyShardedDataParallel has replicas too
                self.ranks = _distributed.members(self.group)
        elif any(_is_wrapper(module) for module in model.modules()):
            raise ArgumentError(
                "model",
                "must be wrapped as a whole where gradients are averaged over ranks",
                got=f"a {type(model).__name__} with a wrapped part, whose gradients would be averaged once too often",
                remedy="wrap the model itself, or call `fully_shard(model)` after its parts",
            )
        names = getattr(self.ddp, "parameters_to_ignore", ())
        self.ignored = {id(p) for name, p in self.ddp.module.named_parameters() if name in names} if names else set()
        self.reduces = self.sharded or self.ddp is not None
        self.synchronises_forward = self.averaged_over > 1 and any(
            isinstance(module, SyncBatchNorm | torch.nn.SyncBatchNorm) for module in model.modules()
        )

    def may_defer(self) -> bool:
        """Whether gradients may be averaged after the backward passes instead of during the last one."""
        ddp = self.ddp
        if ddp is None:
            return not self.sharded
        if _distributed.hooks_of(ddp) and _distributed.own_hook(ddp) is None:
            return False  # a hook of the user's must see the gradients
        return not self.must_sync()

    def compress(self, kind: str | None) -> None:
        """Sets how gradients travel; raises if the wrapper averages them in a way of its own."""
        ddp = self.ddp
        if kind is None:
            if ddp is not None and (own := _distributed.own_hook(ddp)) is not None:
                own.compress = None
        elif self.sharded:
            raise ArgumentError(
                "compress",
                "must be None where parameters are sharded, since FSDP averages gradients itself",
                value=kind,
                remedy="write `fully_shard(..., mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.bfloat16))`",
            )
        elif ddp is not None:
            _distributed.check_types([*ddp.parameters()])
            _distributed.hook_into(ddp, kind)

    def must_sync(self) -> bool:
        """Whether every backward pass must be synchronised, as in the first batches of a static graph."""
        ddp = self.ddp
        return ddp is not None and ddp.static_graph and _SYNCED.get(ddp, 0) < _STATIC_GRAPH_BATCHES

    def synced(self) -> None:
        """Counts a batch that the wrapper reduced itself."""
        if self.ddp is not None and self.ddp.static_graph:
            _SYNCED[self.ddp] = _SYNCED.get(self.ddp, 0) + 1

    def no_sync(self) -> AbstractContextManager[Any]:
        """A context without gradient synchronisation."""
        if _is_fully_sharded(self.model):
            return _no_sync_of_fsdp2(self.model)
        if self.reduces:
            context: AbstractContextManager[Any] = self.model.no_sync()
            return context
        return nullcontext()

    def sync_buffers(self) -> None:
        """Gives all ranks rank 0's buffers, as DDP does at its first forward pass after a reduction."""
        if self.ddp is not None and self.ddp.will_sync_module_buffers():
            _SYNC_BUFFERS(self.ddp)
        self.expect_sync(False)

    def expect_sync(self, value: bool) -> None:
        """Sets whether DDP takes rank 0's buffers at its next forward pass."""
        if self.ddp is not None:
            self.ddp.require_forward_param_sync = value


@contextmanager
def _no_sync_of_fsdp2(model: Any) -> Iterator[None]:
    """FSDP2's switch as a context: inside, gradients stay on the rank."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def _reshard(model: torch.nn.Module) -> None:
    """Brings back the sharded parameters: after a forward pass alone, as in evaluation, the root holds others."""
    for module in model.modules():
        if _is_fully_sharded(module):
            module.reshard()  # type: ignore[operator]


def _is_fully_sharded(module: Any) -> bool:
    return hasattr(module, "set_requires_gradient_sync")


def _is_wrapper(module: Any) -> bool:
    return isinstance(module, DistributedDataParallel) or _is_fully_sharded(module)


def _refuse_replicate(model: torch.nn.Module) -> None:
    """Raises for torch's composable `replicate`, which has the switch of `fully_shard` but not its other methods."""
    if any(_is_fully_sharded(module) and not hasattr(module, "reshard") for module in model.modules()):
        raise ArgumentError(
            "model",
            "must be wrapped in DistributedDataParallel or by `fully_shard`",
            got="one wrapped by `replicate`",
            remedy="write `DistributedDataParallel(model)`",
        )


def unwrapped(model: Any) -> Any:
    """The model inside `torch.compile`."""
    while (inner := getattr(model, "_orig_mod", None)) is not None:
        model = inner
    return model


class Models:
    """The model of an accumulation: no module, one, or several, all averaged over the same ranks.

    Args:
        given: a module, a list or tuple of modules, each wrapped or not, or None.

    Attributes:
        modules: the modules without `torch.compile`.
        parameters: their parameters, each once, frozen ones too.
        ids: the `id` of each parameter.
        averaged_over, ranks, reduces, sharded, ignored: see `Wrapper`, over all modules.
        is_ddp: whether DistributedDataParallel averages gradients.
        group: its process group.
        synchronises_forward: whether a forward pass waits for the other ranks.
    """

    def __init__(self, given: Any) -> None:
        self._wrappers = [Wrapper(module) for module in _listed(given)]
        self.modules = [wrapper.model for wrapper in self._wrappers]
        self.parameters = list({id(p): p for module in self.modules for p in module.parameters()}.values())
        self.ids = {id(p) for p in self.parameters}
        self.ignored = {name for wrapper in self._wrappers for name in wrapper.ignored}
        self.reduces = any(wrapper.reduces for wrapper in self._wrappers)
        self.sharded = any(wrapper.sharded for wrapper in self._wrappers)
        self.synchronises_forward = any(wrapper.synchronises_forward for wrapper in self._wrappers)
        self.averaged_over = max((wrapper.averaged_over for wrapper in self._wrappers), default=1)
        known = [wrapper.ranks for wrapper in self._wrappers if wrapper.ranks is not None]
        self.ranks = frozenset.intersection(*known) if known else None
        ddps = [wrapper for wrapper in self._wrappers if wrapper.ddp is not None]
        self.is_ddp, self.group = bool(ddps), ddps[0].group if ddps else None
        if self.averaged_over > 1:
            self._check_alike()

    def _check_alike(self) -> None:
        """Raises unless all trained parameters are averaged over the same ranks."""
        averaged = {id(p) for wrapper in self._wrappers if wrapper.reduces for p in wrapper.model.parameters()}
        for wrapper in self._wrappers:
            module, ranks = wrapper.model, wrapper.averaged_over
            if wrapper.reduces:
                if ranks != self.averaged_over:
                    raise ArgumentError(
                        "model",
                        "must hold modules whose gradients are averaged over the same ranks",
                        got=f"{self.averaged_over} and {ranks}",
                        remedy="wrap them over one process group",
                    )
            elif any(p.requires_grad and id(p) not in averaged for p in module.parameters()):
                raise ArgumentError(
                    "model",
                    "must hold wrapped modules only where gradients are averaged over ranks",
                    got=f"a {type(module).__name__} whose gradients nobody would average",
                    remedy="wrap it as the others are",
                )

    def __bool__(self) -> bool:
        return bool(self._wrappers)

    @property
    def device(self) -> torch.device:
        """The device of the first parameter."""
        return self.parameters[0].device if self.parameters else torch.device("cpu")

    def may_defer(self) -> bool:
        """See `Wrapper.may_defer`."""
        return all(wrapper.may_defer() for wrapper in self._wrappers)

    def compress(self, kind: str | None) -> None:
        """See `Wrapper.compress`."""
        for wrapper in self._wrappers:
            wrapper.compress(kind)

    def must_sync(self) -> bool:
        """See `Wrapper.must_sync`."""
        return any(wrapper.must_sync() for wrapper in self._wrappers)

    def synced(self) -> None:
        """See `Wrapper.synced`."""
        for wrapper in self._wrappers:
            wrapper.synced()

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """See `Wrapper.no_sync`."""
        with ExitStack() as stack:
            for wrapper in self._wrappers:
                stack.enter_context(wrapper.no_sync())
            yield

    def sync_buffers(self) -> None:
        """See `Wrapper.sync_buffers`."""
        for wrapper in self._wrappers:
            wrapper.sync_buffers()

    def expect_sync(self, value: bool) -> None:
        """See `Wrapper.expect_sync`."""
        for wrapper in self._wrappers:
            wrapper.expect_sync(value)


def _listed(given: Any) -> list[torch.nn.Module]:
    modules = list(given) if isinstance(given, list | tuple) else [] if given is None else [given]
    if given is not None and not modules:
        raise ArgumentError(
            "model", "must name at least one module", got="an empty list", remedy="leave it out, or give what trains"
        )
    for module in modules:
        if not isinstance(module, torch.nn.Module):
            raise ArgumentTypeError(
                "model",
                "must be a torch.nn.Module or a list of them",
                got=type(module).__name__,
                remedy="give the modules that are trained: `accumulate(loader, [encoder, head])`",
            )
    return modules
