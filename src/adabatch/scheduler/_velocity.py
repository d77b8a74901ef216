"""The velocity of momentum where a coupling takes the momentum to 0 and up again.

At a momentum of 0 there is no velocity, and one that begins later begins afresh, as it does in a run that starts at 0.
torch's optimizers leave their buffer alone at 0, so that it would come back, however old, once the momentum is above 0
again. RMSprop makes none at 0, and then fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch

_BUFFER: Final = "momentum_buffer"


def settle_velocities(optimizer: torch.optim.Optimizer, in_force: Iterable[Mapping[str, Any]]) -> None:
    """Before a step: forgets the velocities that it forgets, and gives RMSprop those that it lacks.

    Args:
        optimizer: the optimizer.
        in_force: what each of its parameter groups holds during the step.
    """
    for group, values in zip(optimizer.param_groups, in_force, strict=True):
        states = [(param, optimizer.state[param]) for param in group["params"] if optimizer.state.get(param)]
        if values.get("momentum") == 0:
            stale = [state for _, state in states if isinstance(state.get(_BUFFER), torch.Tensor)]
            if stale and not skips(optimizer):
                _forget(optimizer, stale)
        elif "momentum" in values and isinstance(optimizer, torch.optim.RMSprop):
            for param, state in states:
                if _BUFFER not in state:
                    state[_BUFFER] = torch.zeros_like(param, memory_format=torch.preserve_format)


def skips(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the step is one that GradScaler has a fused optimizer skip; on an accelerator, this waits for it."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)


def _forget(optimizer: torch.optim.Optimizer, states: list[dict[str, Any]]) -> None:
    for state in states:
        if isinstance(optimizer, torch.optim.SGD):  # begins with the gradient itself, also where it dampens
            del state[_BUFFER]
        else:
            state[_BUFFER].detach().zero_()
