"""Optimizers without a coupling that step in the place of a coupled one."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final
from weakref import WeakSet

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from adabatch._distributed import is_phantom
from adabatch._errors import UsageError
from adabatch.scheduler._coupled_step import COUPLED, CoupledStep
from adabatch.types import Batch, DrivenLoader

_IDLE_BATCHES: Final = 20  # GradScaler's first scale of 65,536 is halved 16 times until it is 1


class UncoupledSteps:
    """Notices when no coupled optimizer steps for a batch and another takes its place.

    It is an error if the other steps over parameters of a coupled one while the coupling changes something. It is none
    if both stepped for one batch before: then the coupled step was skipped this time. If nothing steps, or only an
    optimizer of other parameters, that may be meant, so a warning comes after `_IDLE_BATCHES`.

    Args:
        steps: of the coupled optimizers.
        loader: gives the current batch.
    """

    def __init__(self, steps: Sequence[CoupledStep], loader: DrivenLoader) -> None:
        self._steps, self._loader = steps, loader
        self._batch: Batch | None = None
        self._stepped: WeakSet[torch.optim.Optimizer] = WeakSet()  # for that batch
        self._beside: WeakSet[torch.optim.Optimizer] = WeakSet()
        self._idle = 0
        self._instead: set[str] = set()  # names of the optimizers that stepped in the idle batches
        self._warned = False
        weakref.finalize(self, _let_go).atexit = False
        _watching.add(self)
        if not _handles:
            _handles.append(register_optimizer_step_pre_hook(_before_any_step))

    def close(self) -> None:
        """Stops watching."""
        _watching.discard(self)
        _let_go()

    def note(self, optimizer: torch.optim.Optimizer) -> None:
        """Notes that an optimizer without a coupling steps."""
        batch = self._loader.current
        if is_phantom(optimizer):
            return
        if batch is not self._batch:
            self._batch = batch
            self._stepped.clear()
        self._stepped.add(optimizer)

    def check(self, batch: Batch, ratio: float, *, coupled: bool) -> None:
        """Checks the steps that were made for a batch.

        Args:
            batch: the current batch.
            ratio: its batch size / base batch size.
            coupled: whether a coupled optimizer stepped for it.

        Raises:
            RuntimeError: if another stepped over the same parameters, without the values of the coupling.
        """
        if coupled:
            if self._batch is batch:
                self._beside.update(self._stepped)
            if self._idle:
                self.forget()
            return
        stepped = list(self._stepped) if self._batch is batch else []
        taken = _names(each for each in stepped if each not in self._beside and self._shares(each))
        if taken and any(step.acts_at(ratio) for step in self._steps):
            raise UsageError(None, f"{self._none(batch)}, {_instead(taken, 'without')}")
        self._idle += 1
        self._instead.update(_names(stepped))
        if not (taken or self._idle == _IDLE_BATCHES) or self._warned:
            return
        self._warned = True
        if any(step.changes for step in self._steps):
            said = f"{self._none(batch)}, {_instead(taken, 'later without')}" if taken else self._idle_words()
            warnings.warn(said, RuntimeWarning, stacklevel=3)

    def forget(self) -> None:
        """Counts idle batches from here."""
        self._idle = 0
        self._instead.clear()

    def _shares(self, optimizer: torch.optim.Optimizer) -> bool:
        coupled = {id(param) for step in self._steps for param in _params(step.optimizer)}
        return any(id(param) in coupled for param in _params(optimizer))

    def _none(self, batch: Batch | None = None) -> str:
        where = f"{_IDLE_BATCHES} batches in a row" if batch is None else f"the batch at sample {batch.clock:,}"
        names = ", ".join(_names(step.optimizer for step in self._steps))
        return f"no optimizer of this BatchSizeScheduler ({names}) stepped for {where}"

    def _idle_words(self) -> str:
        if self._instead:
            others = ", another ".join(sorted(self._instead))
            return (
                f"{self._none()}, but another {others} did, which it does not couple; "
                "give a BatchSizeScheduler the optimizers that train, unless those of this one are meant to wait"
            )
        return (
            f"{self._none()}; call `optimizer.step()` before `step()`, give a BatchSizeScheduler the optimizers that "
            "train, or look for NaN in the loss if a guard skips every step"
        )


def _instead(taken: list[str], without: str) -> str:
    return (
        f"but another {', another '.join(taken)} did, over the same parameters and {without} what the coupling puts in "
        "force; `close()` this one and make a BatchSizeScheduler for the optimizer that steps: the one made last, of a "
        "wrapper such as SAM the one within, or a list of both"
    )


def _names(optimizers: Iterable[torch.optim.Optimizer]) -> list[str]:
    return sorted({type(each).__name__ for each in optimizers})


def _params(optimizer: torch.optim.Optimizer) -> Iterable[torch.Tensor]:
    return (param for group in optimizer.param_groups for param in group["params"])


# One hook for all, since it is called at each step of each optimizer there is.

_watching: Final[WeakSet[UncoupledSteps]] = WeakSet()
_handles: Final[list[RemovableHandle]] = []


def _before_any_step(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
    if weakref.ref(optimizer) not in COUPLED:
        _note(optimizer)


def _note(optimizer: torch.optim.Optimizer) -> None:
    for each in list(_watching):
        each.note(optimizer)


_untraced: Callable[..., Any] = torch.compiler.disable
_note = _untraced(_note)
_before_any_step = _untraced(_before_any_step, recursive=False)  # only marked: a wrapper would cost time at every step


_HOOKED: Final = torch.optim.Optimizer.profile_hook_step(lambda: None).__code__


def _let_go() -> None:
    """Takes the hook off when nobody watches any more.

    Garbage may be collected, and this called, while torch iterates over its hooks. Then the hook stays until next time.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not _HOOKED:
        frame = frame.f_back
    if frame is None and not list(_watching):
        while _handles:
            _handles.pop().remove()
