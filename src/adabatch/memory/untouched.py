"""Restores random states, and everything that a training step changes."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from adabatch import _random


def holders(loader: Any) -> list[Any]:
    """A loader and its samplers, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    found = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
    return list({id(holder): holder for holder in found if holder is not None}.values())


@contextlib.contextmanager
def generators_kept(loader: Any) -> Iterator[list[torch.Generator]]:
    """A context that gives the generators of a loader and its samplers, and restores them."""
    found = [getattr(holder, "generator", None) for holder in holders(loader)]
    generators = [generator for generator in found if isinstance(generator, torch.Generator)]
    with _random.kept(generators=generators):
        yield generators


class Untouched:
    """A context that restores a model, optimizers and random states, bit for bit, in the same tensors.

    The copies lie in host memory. Inside, LRs are 0, so that a step takes its usual time and changes no weight, and the
    optimizers' hooks are off.
    """

    def __init__(self, model: torch.nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        self._model, self._optimizers = model, list(optimizers)

    def __enter__(self) -> None:
        parameters = all_parameters(self._model, self._optimizers)
        devices = {p.device for p in parameters if p.device.type not in ("cpu", "meta")}
        self._random = _random.RandomState(devices)
        self._modes = [(module, module.training) for module in self._model.modules()]
        slots = [vars(module)["_buffers"] for module in self._model.modules()]
        self._slots = [(buffers, name, buffer) for buffers in slots for name, buffer in buffers.items()]
        # Layers of `norm.last_batch`, a room that this one may not import.
        self._so_far = [(each, each.batch_so_far) for each in self._model.modules() if hasattr(each, "batch_so_far")]
        self._ddp_syncs = getattr(self._model, "require_forward_param_sync", None)
        self._gradients = [(p, p.grad, _kept(p.grad)) for p in parameters]
        tensors: list[Tensor] = [*parameters, *(buffer for _, _, buffer in self._slots if buffer is not None)]
        self._tensors = [(tensor, _kept(tensor)) for tensor in tensors]
        self._states = [_State(optimizer) for optimizer in self._optimizers]

    @torch.no_grad()
    def __exit__(self, *_error: object) -> None:
        for buffers, name, buffer in self._slots:
            buffers[name] = buffer
        for tensor, kept in self._tensors:
            tensor.copy_(kept)
        for parameter, gradient, kept in self._gradients:
            parameter.grad = gradient
            if gradient is not None:
                gradient.copy_(kept)
        for module, training in self._modes:
            module.training = training
        for layer, so_far in self._so_far:
            layer.batch_so_far = so_far
        if self._ddp_syncs is not None:
            self._model.require_forward_param_sync = self._ddp_syncs
        for state in self._states:
            state.restore()
        self._random.restore()


def all_parameters(model: torch.nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> list[Tensor]:
    """The parameters of the model and of the optimizers, each once."""
    more = (p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"])
    return list({id(p): p for p in (*model.parameters(), *more)}.values())


class _State:
    """State, settings and hooks of an optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._state = {
            p: {name: (value, _kept(value)) for name, value in s.items()} for p, s in optimizer.state.items()
        }
        self._groups = [
            {name: (value, _kept(value)) for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        names = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
        self._hooks = [(getattr(optimizer, name), list(getattr(optimizer, name).items())) for name in names]
        for hooks, _ in self._hooks:
            hooks.clear()
        for group in optimizer.param_groups:
            group["lr"] = torch.zeros_like(group["lr"]) if isinstance(group.get("lr"), Tensor) else 0.0

    def restore(self) -> None:
        state = self._optimizer.state
        for parameter in [parameter for parameter in state if parameter not in self._state]:
            del state[parameter]
        for parameter, values in self._state.items():
            state[parameter].clear()
            state[parameter].update({name: _back(value, kept) for name, (value, kept) in values.items()})
        for group, values in zip(self._optimizer.param_groups, self._groups, strict=True):
            for name in [name for name in group if name not in values and name != "params"]:
                del group[name]
            group.update({name: _back(value, kept) for name, (value, kept) in values.items()})
        for hooks, items in self._hooks:
            hooks.clear()
            hooks.update(items)


def _kept(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    return copy.deepcopy(value)


def _back(value: Any, kept: Any) -> Any:
    return value.copy_(kept) if isinstance(value, Tensor) else kept


def is_out_of_memory(error: Any) -> bool:
    """Whether memory ran out: on an accelerator, in cuBLAS, or on the CPU, which has no error class of its own."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error) if isinstance(error, RuntimeError) else ""
    return "DefaultCPUAllocator: can't allocate memory" in text or "CUBLAS_STATUS_ALLOC_FAILED" in text
