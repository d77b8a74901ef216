"""The optimizer steps by which `torch.distributed.checkpoint` fills an empty state."""

from __future__ import annotations

import torch


def is_phantom(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step now is one of those by which torch.distributed.checkpoint fills an empty state.

    They have an LR of 0, which by itself is as good as any other, no state, and gradients of 0 throughout. LRs on an
    accelerator are not looked at, since that would wait for it.
    """
    if optimizer.state:
        return False
    lrs = [group["lr"] for group in optimizer.param_groups]
    if any((isinstance(lr, torch.Tensor) and lr.device.type != "cpu") or float(lr) != 0 for lr in lrs):
        return False
    return not any(_moves(param.grad) for group in optimizer.param_groups for param in group["params"])


def _moves(grad: torch.Tensor | None) -> bool:
    """Whether there is a gradient that is not 0 throughout."""
    if grad is None:
        return False
    local = grad.to_local() if hasattr(grad, "to_local") else grad
    return local.layout != torch.strided or bool(local.count_nonzero())
