"""What the scheduler is given, checked."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch

from adabatch import couplings
from adabatch.scheduler._coupled_step import COUPLED
from adabatch.schedules import Schedule
from adabatch.types import DrivenLoader


def checked_optimizers(given: Any, coupling: couplings.Coupling) -> list[torch.optim.Optimizer]:
    """One optimizer or several as a list.

    Raises:
        TypeError: if one is no torch optimizer.
        ValueError: if there is none or one twice, it has no LR or a scheduler already, or the coupling is not for it.
    """
    optimizers = list(given) if isinstance(given, Iterable) else [given]
    if not optimizers or len({id(each) for each in optimizers}) < len(optimizers):
        raise ValueError(
            f"`optimizer` must be one optimizer or a list of different ones, got {len(optimizers)}; name each once"
        )
    for each in optimizers:
        if not isinstance(each, torch.optim.Optimizer) or not hasattr(each, "_optimizer_step_pre_hooks"):
            raise TypeError(
                f"`optimizer` must be a torch.optim.Optimizer, got {type(each).__name__}; "
                "of a wrapper pass the optimizer that it wraps"
            )
        coupling.check_optimizer(each)
        if any(group.get("lr") is None for group in each.param_groups):
            raise ValueError(
                f"`optimizer` must have an LR in every parameter group, got {type(each).__name__} without; set `lr`"
            )
        if weakref.ref(each) in COUPLED:
            raise ValueError(
                f"`optimizer` must have one BatchSizeScheduler, this {type(each).__name__} has one already; "
                "call `close()` on that one first"
            )
    return optimizers


def checked_loader(loader: Any) -> DrivenLoader:
    """The loader.

    Raises:
        TypeError: if it is no loader that can be driven.
    """
    if not isinstance(loader, DrivenLoader):
        raise TypeError(
            f"`loader` must be an ab.DataLoader, got {type(loader).__module__}.{type(loader).__name__}; "
            "ab.DataLoader takes the arguments of torch's"
        )
    if loader.batch_size is None:
        raise ValueError(
            "`loader` must form its batches itself to be driven by a schedule, got one with a `batch_sampler` or "
            "`batch_size=None`; build it with a `batch_size`, or wrap another loader in `ab.micro_batches`"
        )
    return loader


def checked_schedule(schedule: Any) -> Schedule:
    """The schedule.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(f"`schedule` must be a schedule, got {schedule!r}; write for example `ab.schedules.constant()`")
    return schedule
