"""What a tap asks of models and optimizers: who averages gradients, which parameters are trained, and Adam's scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch._optimizers import is_steppable, unwrapped

_ROOT = "model"  # the name of a model among its layers


def trained(model: Any) -> list[nn.Module]:
    """The modules that are trained, without `torch.compile`.

    Raises:
        TypeError: if there is none, or another thing among them.
        ValueError: if one is sharded, or a part of one is wrapped.
    """
    found: list[nn.Module] = []
    for module in model if isinstance(model, list | tuple) else [model]:
        while (inner := getattr(module, "_orig_mod", None)) is not None:
            module = inner
        if not isinstance(module, nn.Module):
            remedy = "give the modules that are trained: `tap([encoder, head], optimizer, loader)`"
            raise ArgumentTypeError("model", "must be a torch.nn.Module or a list of them", got=type(module).__name__,
                                    remedy=remedy)  # fmt: skip
        _refuse_sharded(module)
        inside = [each for each in module.modules() if each is not module]
        if any(isinstance(each, DistributedDataParallel) for each in inside):
            raise ArgumentError(
                "model",
                "must be wrapped as a whole where gradients are averaged over ranks",
                got=f"a {type(module).__name__} with a wrapped part",
                remedy="wrap the model itself",
            )
        found.append(module)
    if not found:
        raise ArgumentTypeError("model", "must be a torch.nn.Module or a list of them", got="an empty list")
    return found


def _refuse_sharded(module: nn.Module) -> None:
    """Raises for parameters that are sharded, but by `fully_shard` on the whole."""
    sharded = any(hasattr(each, "device_mesh") or _is_flat(each) for each in module.parameters())
    if sharded and not (_is_fully_sharded(module) and hasattr(module, "reshard")):
        raise ArgumentError(
            "model",
            "must have whole parameters on each rank, or be sharded by `fully_shard` as a whole",
            got=f"a {type(module).__name__} that is sharded otherwise",
            remedy="call `fully_shard(model)` after its parts, or leave the tap out",
        )


def _is_fully_sharded(module: nn.Module) -> bool:
    return hasattr(module, "set_requires_gradient_sync")


def _is_flat(parameter: Tensor) -> bool:
    return bool(getattr(parameter, "_fsdp_flattened", False))  # torch has no public way


def sharded_parts(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """The modules, and those in them, whose gradients `fully_shard` averages, each once."""
    return list(dict.fromkeys(each for module in modules for each in module.modules() if _is_fully_sharded(each)))


def is_averaged(modules: Sequence[nn.Module]) -> bool:
    """Whether DistributedDataParallel, or `fully_shard`, averages all gradients."""
    return all(
        isinstance(module, DistributedDataParallel)
        or _is_fully_sharded(module)
        or not any(p.requires_grad for p in module.parameters())
        for module in modules
    )


def has_batch_norm(modules: Sequence[nn.Module]) -> bool:
    """Whether a layer takes statistics of the samples that pass together."""
    return any(isinstance(each, _BatchNorm) for module in modules for each in module.modules())


def optimized(optimizer: Any, *, preconditioned: bool) -> list[torch.optim.Optimizer]:
    """The optimizers given, without a framework's wrapper.

    Raises:
        TypeError: if there is none, or another thing among them.
        ValueError: if one has no second moments and they are asked for.
    """
    found = [unwrapped(each) for each in (optimizer if isinstance(optimizer, list | tuple) else [optimizer])]
    for each in found:
        if not is_steppable(each):
            raise ArgumentTypeError("optimizer", "must be a torch.optim.Optimizer or a list of them",
                                    got=type(each).__name__, remedy="unwrap one that is wrapped")  # fmt: skip
        keeps = {"betas", "eps"} <= set(each.defaults) and all(map(_has_moment, each.state.values()))
        if preconditioned and not keeps:
            raise _without_moments(each)
    if not found:
        raise ArgumentTypeError("optimizer", "must be a torch.optim.Optimizer or a list of them", got="an empty list")
    return found


def _has_moment(state: Mapping[str, Any]) -> bool:
    return "exp_avg_sq" in state and "step" in state


def _without_moments(optimizer: torch.optim.Optimizer) -> ArgumentError:
    return ArgumentError(
        "preconditioned",
        "must be False where the optimizer keeps no second moments",
        got=f"True with {type(optimizer).__name__}",
        remedy="leave it out, or train with Adam or AdamW",
    )


def held_by(optimizers: Sequence[torch.optim.Optimizer]) -> set[int]:
    """The ids of the parameters that optimizers have; groups may be added while a network trains."""
    return {id(p) for each in optimizers for group in each.param_groups for p in group["params"]}


def watched_parameters(
    modules: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]
) -> tuple[list[Tensor], list[str]]:
    """The parameters that modules have and optimizers train, each once, with the name of the layer that holds them.

    Raises:
        ValueError: if none of them is trained.
    """
    held = held_by(optimizers)
    found: dict[int, tuple[Tensor, str]] = {}
    for number, module in enumerate(modules):
        inner: nn.Module = module.module if isinstance(module, DistributedDataParallel) else module
        for name, layer in inner.named_modules():
            name = ".".join(part for part in name.split(".") if part != "_orig_mod") or _ROOT
            name = name if len(modules) == 1 else f"{number}.{name}"
            for parameter in layer.parameters(recurse=False):
                if id(parameter) in held:
                    found.setdefault(id(parameter), (parameter, name))
    if not any(parameter.requires_grad for parameter, _ in found.values()):
        raise ArgumentError(
            "optimizer",
            "must train parameters of the model",
            got="one that holds none which requires a gradient",
            remedy="give the optimizer that steps them",
        )
    return [parameter for parameter, _ in found.values()], [name for _, name in found.values()]


def scales_of(parameters: Sequence[Tensor], optimizers: Sequence[torch.optim.Optimizer]) -> dict[int, Tensor] | None:
    """Adam's `sqrt(v / (1 - beta2^t)) + eps` of each parameter that has been stepped, by its number; None before any.

    Raises:
        ValueError: if an optimizer that has stepped keeps no second moments, as Adamax.
    """
    number = {id(parameter): index for index, parameter in enumerate(parameters)}
    found: dict[int, Tensor] = {}
    for each in optimizers:
        for group in each.param_groups:
            for parameter in group["params"]:
                index = number.get(id(parameter))
                if index is None or not parameter.requires_grad:
                    continue
                state = each.state.get(parameter)
                if not state:
                    continue  # no gradient has reached it yet
                if not _has_moment(state):
                    raise _without_moments(each)
                correction = 1 - float(group["betas"][1]) ** float(state["step"])
                found[index] = (state["exp_avg_sq"].detach() / correction).sqrt_().add_(group["eps"])
    return found or None
