"""Optimizers as frameworks wrap them."""

from __future__ import annotations

from typing import Any

import torch


def unwrapped(given: Any) -> Any:
    """The optimizer inside a framework's wrapper that shows its parameter groups and steps it, as Accelerate's does."""
    inner = getattr(given, "optimizer", None)
    if hasattr(given, "_optimizer_step_pre_hooks") or not isinstance(inner, torch.optim.Optimizer):
        return given
    same = getattr(given, "param_groups", None) is inner.param_groups
    return unwrapped(inner) if same else given


def is_steppable(given: Any) -> bool:
    """Whether hooks can be set on its steps; a wrapper may be an `Optimizer` by name alone."""
    return isinstance(given, torch.optim.Optimizer) and hasattr(given, "_optimizer_step_pre_hooks")
