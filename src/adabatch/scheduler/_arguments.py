"""What the scheduler is given, checked."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch

from adabatch import couplings
from adabatch._errors import ArgumentError, ArgumentTypeError
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
        raise ArgumentError(
            "optimizer",
            "must be one optimizer or a list of different ones",
            value=len(optimizers),
            remedy="name each once",
        )
    for each in optimizers:
        if not isinstance(each, torch.optim.Optimizer) or not hasattr(each, "_optimizer_step_pre_hooks"):
            raise ArgumentTypeError(
                "optimizer",
                "must be a torch.optim.Optimizer",
                got=type(each).__name__,
                remedy="of a wrapper pass the optimizer that it wraps",
            )
        coupling.check_optimizer(each)
        if any(group.get("lr") is None for group in each.param_groups):
            raise ArgumentError(
                "optimizer",
                "must have an LR in every parameter group",
                got=f"{type(each).__name__} without",
                remedy="set `lr`",
            )
        if weakref.ref(each) in COUPLED:
            raise ArgumentError(
                "optimizer",
                f"must have one BatchSizeScheduler, this {type(each).__name__} has one already",
                remedy="call `close()` on that one first",
            )
    return optimizers


def checked_loader(loader: Any) -> DrivenLoader:
    """The loader.

    Raises:
        TypeError: if it is no loader that can be driven.
    """
    if not isinstance(loader, DrivenLoader):
        raise ArgumentTypeError(
            "loader",
            "must be an ab.DataLoader",
            got=f"{type(loader).__module__}.{type(loader).__name__}",
            remedy="ab.DataLoader takes the arguments of torch's",
        )
    if loader.batch_size is None:
        raise ArgumentError(
            "loader",
            "must form its batches itself to be driven by a schedule",
            got="one with a `batch_sampler` or `batch_size=None`",
            remedy="build it with a `batch_size`, or wrap another loader in `ab.micro_batches`",
        )
    return loader


def checked_schedule(schedule: Any) -> Schedule:
    """The schedule.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(schedule, Schedule):
        raise ArgumentTypeError(
            "schedule", "must be a schedule", value=schedule, remedy="write for example `ab.schedules.constant()`"
        )
    return schedule
