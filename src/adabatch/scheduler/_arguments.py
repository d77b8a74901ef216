"""The arguments of a `BatchSizeScheduler`, checked."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch

from adabatch import couplings
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch._optimizers import is_steppable, unwrapped
from adabatch.policies import Policy
from adabatch.scheduler._coupled_step import COUPLED
from adabatch.schedules import Schedule
from adabatch.types import DrivenLoader


def check_belongs(schedule: Any, **given: Any) -> None:
    """Raises if it is neither a schedule nor a policy nor None, or an argument belongs to another of these."""
    if not isinstance(schedule, Schedule | Policy | None):
        remedy = "write for example `ab.schedules.constant()`"
        raise ArgumentTypeError("schedule", "must be a schedule or a policy", value=schedule, remedy=remedy)
    if isinstance(schedule, Policy) and schedule.needs_branches:
        rule = f"must not be the policy {schedule.name!r}, which goes back and forth in the whole training"
        remedy = f"write `adabatch train TASK --policy {schedule.name}`, or take a policy that measures the noise"
        raise ArgumentError("schedule", rule, remedy=remedy)
    names: tuple[str, ...]
    if isinstance(schedule, Schedule):
        names, under, remedy = ("noise",), "a schedule", "a tap is for a policy; a schedule looks at nothing"
    elif isinstance(schedule, Policy):
        names, under, remedy = ("epochs", "tokens_per_sample"), "a policy", "there is no plan that could end"
    else:
        names, under = ("epochs", "tokens_per_sample", "noise"), "sizes that you assign"
        remedy = "give a schedule or a policy to have one drive the loader"
    for name in names:
        if given[name] is not None:
            rule = f"must be left out under {under}"
            raise ArgumentError(name, rule, got=type(given[name]).__name__, remedy=remedy)


def check_follows(coupling: couplings.Coupling, schedule: Any, noise: Any) -> couplings.Coupling:
    """The coupling before any noise was measured; raises if nobody tells one the noise that it follows."""
    if coupling.follows_noise and (not isinstance(schedule, Policy) or noise is None):
        rule = f"{coupling.name!r} follows the gradient's noise, which a policy with a tap tells"
        remedy = f"give both, or a noise that stays, such as `ab.couplings.{coupling.name}(noise=8.0)`"
        raise ArgumentError("coupling", rule, got="none", remedy=remedy)
    if coupling.follows_noise and getattr(noise, "norm", "l2") != "l2":
        rule = f"{coupling.name!r} was derived for the noise scale in the l2 norm"
        raise ArgumentError("coupling", rule, got=f"a tap in {noise.norm}", remedy="use `sqrt` for sign descent")
    return coupling.with_noise(0.0)


def checked_optimizers(given: Any, coupling: couplings.Coupling) -> list[torch.optim.Optimizer]:
    """One optimizer or several as a list.

    Raises:
        TypeError: if one is no torch optimizer.
        ValueError: if there is none or one twice, it has no LR or a scheduler already, or the coupling is not for it.
    """
    optimizers = [unwrapped(each) for each in (given if isinstance(given, Iterable) else [given])]
    if not optimizers or len({id(each) for each in optimizers}) < len(optimizers):
        raise ArgumentError(
            "optimizer", "must be one or a list of different ones", value=len(optimizers), remedy="name each once"
        )
    for each in optimizers:
        name = type(each).__name__
        if not is_steppable(each):
            raise ArgumentTypeError(
                "optimizer", "must be a torch.optim.Optimizer", got=name, remedy="unwrap one that is wrapped"
            )
        coupling.check_optimizer(each)
        if any(group.get("lr") is None for group in each.param_groups):
            rule = "must have an LR in every parameter group"
            raise ArgumentError("optimizer", rule, got=f"{name} without", remedy="set `lr`")
        if weakref.ref(each) in COUPLED:
            rule = f"must have one BatchSizeScheduler, this {name} has one already"
            raise ArgumentError("optimizer", rule, remedy="call `close()` on that one first")
    return optimizers


def checked_loader(loader: Any) -> DrivenLoader:
    """The loader, if it can be driven.

    Raises:
        TypeError: if it is no ab.DataLoader.
        ValueError: if it does not form its batches itself.
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


def brought(schedule: Schedule | Policy | None) -> str:
    """The coupling that it brings."""
    return "linear" if schedule is None else schedule.coupling
