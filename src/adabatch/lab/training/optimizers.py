"""Optimizers by name: torch's, and those of `adabatch.optim`. Importing this loads no torch; making one does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from adabatch._errors import ArgumentError

if TYPE_CHECKING:
    import torch
    from torch import nn

CLASSES: Final = {
    "sgd": "SGD", "nesterov": "SGD", "adam": "Adam", "adamw": "AdamW",
    "rmsprop-warmup": "RMSpropWarmup", "lars": "LARS", "lamb": "LAMB",
}  # fmt: skip
"""Names of the classes."""
OURS: Final = ("RMSpropWarmup", "LARS", "LAMB")
FUSED: Final = ("SGD", "Adam", "AdamW")
OF_MOMENTUM: Final = ("SGD", "RMSpropWarmup", "LARS")
NAMES: Final = tuple(CLASSES)


def build(
    name: str, parameters: Iterable[Any], *, lr: float, momentum: float, weight_decay: float, **more: Any
) -> torch.optim.Optimizer:
    """The optimizer `name` over `parameters`.

    Args:
        name: one of `NAMES`.
        parameters: the parameters to train, or groups of them.
        lr: learning rate.
        momentum: of SGD and its kin; Adam and LAMB have betas of their own.
        weight_decay: as the optimizer defines it (decoupled in AdamW).
        more: settings that this optimizer alone has.
    """
    import torch

    from adabatch import optim

    kind = CLASSES[name]
    if kind in OF_MOMENTUM:
        more["momentum"] = momentum
    if name == "nesterov":
        more["nesterov"] = True
    if kind == "RMSpropWarmup":
        more.setdefault("epochs", float)  # none have passed
    home: Any = optim if kind in OURS else torch.optim
    made: torch.optim.Optimizer = getattr(home, kind)(parameters, lr=lr, weight_decay=weight_decay, **more)
    return made


def stand_in(name: str, *, momentum: float) -> object:
    """An object with the class name and the momentum of an optimizer, for checks that need no torch.

    Args:
        name: one of `NAMES`.
        momentum: of SGD and its kin.

    Example:
        >>> type(stand_in("nesterov", momentum=0.9)).__name__, stand_in("nesterov", momentum=0.9).param_groups
        ('SGD', [{'momentum': 0.9}])
    """
    kind = CLASSES[name]
    return type(kind, (), {"param_groups": [{"momentum": momentum if kind in OF_MOMENTUM else 0.0}]})()


def has_fused(name: str, device: torch.device) -> bool:
    """Whether torch steps the optimizer in one kernel on the device, and runs there use it.

    Torch has such kernels for the CPU too. There a run goes on bit for bit as it was begun, and they round differently.
    """
    return device.type == "cuda" and CLASSES[name] in FUSED


def check_moments(moments: Any, *, like: Mapping[int, Mapping[str, Any]], parameters: Sequence[nn.Parameter]) -> None:
    """Checks an optimizer's saved moments, since torch loads anything and fails at the next step.

    Args:
        moments: an optimizer's `state_dict()["state"]`.
        like: the same of an optimizer with one parameter of one dimension, after a step.
        parameters: the parameters that the optimizer trains.

    Raises:
        ValueError: if something is missing or of another kind or shape, or a count of steps is below 1.
    """
    wanted = like.get(0, {})
    numbers = list(range(len(parameters))) if wanted else []
    if not isinstance(moments, Mapping) or sorted(moments) != numbers:
        raise ArgumentError("optimizer", f"must have moments of {len(numbers):,} parameters")
    for number in numbers:
        found, shape = moments[number], parameters[number].shape
        if not isinstance(found, Mapping) or set(found) != set(wanted):
            raise ArgumentError("optimizer", f"must keep {', '.join(wanted)} of parameter {number}")
        for name, example in wanted.items():
            value = found[name]
            if not _is_like(value, example, shape):
                rule = f"must keep another {name} of parameter {number}"
                raise ArgumentError("optimizer", rule, got=repr(value)[:40])


def _is_like(value: Any, example: Any, shape: torch.Size) -> bool:
    """Whether a value is of the example's kind: a moment of that shape, or a count of at least one step."""
    import torch

    if not isinstance(example, torch.Tensor):
        return type(value) is type(example)
    if not isinstance(value, torch.Tensor) or value.dtype != example.dtype:
        return False
    return value.shape == shape if example.dim() else value.dim() == 0 and value.item() >= 1
