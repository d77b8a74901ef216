"""Optimizers by name, all torch's own. Importing this loads no torch; what makes or checks one does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from adabatch._errors import ArgumentError

if TYPE_CHECKING:
    import torch
    from torch import nn

CLASSES: Final = {"sgd": "SGD", "nesterov": "SGD", "adam": "Adam", "adamw": "AdamW"}
"""Names of torch's classes."""
NAMES: Final = tuple(CLASSES)


def build(
    name: str, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer `name` over `parameters`.

    Args:
        name: one of `NAMES`.
        parameters: what it trains.
        lr: learning rate.
        momentum: of SGD and its Nesterov variant; the others have betas of their own.
        weight_decay: as the optimizer itself defines it (decoupled in AdamW).
    """
    import torch

    of_sgd = {"momentum": momentum, "nesterov": name == "nesterov"} if CLASSES[name] == "SGD" else {}
    made: torch.optim.Optimizer = getattr(torch.optim, CLASSES[name])(
        parameters, lr=lr, weight_decay=weight_decay, **of_sgd
    )
    return made


def check_moments(moments: Any, *, like: Mapping[int, Mapping[str, Any]], parameters: Sequence[nn.Parameter]) -> None:
    """Checks what an optimizer is to go on from: torch takes anything, and stumbles at its next step.

    Args:
        moments: for each parameter's number what the optimizer keeps, as `state_dict()["state"]` has it.
        like: the same of an optimizer with one parameter of one dimension, after a step.
        parameters: what the optimizer trains.

    Raises:
        ValueError: if something is missing, of another kind or shape, or negative where it counts steps.
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
    """Whether a moment is one of a parameter of that shape, or counts at least one step, as the example does."""
    import torch

    if not isinstance(example, torch.Tensor):
        return type(value) is type(example)
    if not isinstance(value, torch.Tensor) or value.dtype != example.dtype:
        return False
    return value.shape == shape if example.dim() else value.dim() == 0 and value.item() >= 1
