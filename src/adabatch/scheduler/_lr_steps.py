"""LR schedulers of torch that count updates while the batch size changes, so that their course may not end in time."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any, Final
from weakref import ref

import torch
from torch.optim import lr_scheduler as torch_lr

from adabatch.lr_clock import MEANT, last_step, parts_of, steps_taken

_ENOUGH: Final = 3  # updates in a row in one epoch, in which one that counts epochs takes no step
_OVER: Final = 1e-3  # share of the LR now that counts as the end of a course
_NEAR: Final = 2  # updates before the end, where a course that ends there still moves
_OTHERS: Final = (torch_lr.ReduceLROnPlateau, torch_lr.ChainedScheduler)  # waits for a measurement; counts in its parts


class LRSteps:
    """Finds the LR schedulers of some optimizers, and tells which of them take as many steps at every update.

    Args:
        optimizers: the coupled ones.
    """

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        self._optimizers = list(optimizers)
        self._found: list[ref[torch_lr.LRScheduler]] | None = None
        self._epoch = -1
        self._updates = 0
        self._before: list[int] = []

    def after(self, epoch: int, *, ratio: float, updates: int | None) -> list[tuple[str, int]] | None:
        """Notes an update at a batch size that is not the first one. Call it at the same place after each.

        Args:
            epoch: of the batch.
            ratio: its size, as a multiple of the first one. A scheduler that takes so many steps may follow the data.
            updates: of the whole training, if known; a scheduler that ends with them is meant to count them.

        Returns:
            None until enough was seen; then the names of the LR schedulers that count updates, each with the steps
            that it takes at one: of several processes a framework's wrapper may take one for each.
        """
        if self._found is None:
            self._found = [ref(each) for each in _lr_schedulers_of(self._optimizers)]
        alive = [each for known in self._found if (each := known()) is not None]
        if not alive:
            return []
        taken = [steps_taken(each) for each in alive]
        if epoch != self._epoch or len(taken) != len(self._before):
            self._epoch, self._updates, self._before = epoch, 0, taken
            return None
        self._updates += 1
        if self._updates < _ENOUGH:
            return None
        steps = [(now - then) / _ENOUGH for now, then in zip(taken, self._before, strict=True)]
        self._updates, self._before = 0, taken
        stepped = [(each, int(k)) for each, k in zip(alive, steps, strict=True) if k >= 1 and k.is_integer()]
        stepped = [(each, k) for each, k in stepped if each not in MEANT]
        counting = [(each, k) for each, k in stepped if k != ratio]
        if not counting and stepped:
            return None  # another batch size tells
        return [
            (type(each).__name__, k)
            for each, k in counting
            if not _ends_after(each, None if updates is None else updates * k)
        ]


def _lr_schedulers_of(optimizers: list[torch.optim.Optimizer]) -> list[torch_lr.LRScheduler]:
    """The LR schedulers of some optimizers, without those inside others.

    No optimizer knows its LR schedulers; one that has any has a wrapped `step`, so few runs look for them at all.
    """
    if not any(hasattr(each.step, "_wrapped_by_lr_sched") for each in optimizers):
        return []
    wanted = {id(each) for each in optimizers}
    every: Iterable[Any] = gc.get_objects()
    found = [
        each
        for each in every
        if issubclass(type(each), torch_lr.LRScheduler) and id(getattr(each, "optimizer", None)) in wanted
    ]
    inner = {id(part) for each in found if not isinstance(each, _OTHERS) for part in parts_of(each) if part is not each}
    return [each for each in found if id(each) not in inner and not isinstance(each, _OTHERS)]


def _ends_after(lr_scheduler: torch_lr.LRScheduler, updates: int | None) -> bool:
    """Whether the course of a scheduler ends with the `updates` of the training, or was over before now.

    The first is meant to count them. The second, as a warm-up, changes nothing any more.
    """
    now, last, stays = steps_taken(lr_scheduler), *_end_of(lr_scheduler)
    if last is not None:
        return (stays and last <= now) or (updates is not None and abs(last - updates) <= 1)
    if updates is None or not isinstance(lr_scheduler, torch_lr.LambdaLR):
        return False
    try:
        return all(_falls_to(course, now, updates) for course in lr_scheduler.lr_lambdas)
    except Exception:  # a function of the user's need not go on so far
        return False


def _end_of(lr_scheduler: torch_lr.LRScheduler) -> tuple[int | None, bool]:
    """The step with which a course ends, None if it has no end, and whether the LR stays as it is from there on."""
    if isinstance(lr_scheduler, torch_lr.LinearLR | torch_lr.ConstantLR | torch_lr.PolynomialLR):
        return int(lr_scheduler.total_iters), True
    if isinstance(lr_scheduler, torch_lr.SequentialLR):
        *_, part = parts_of(lr_scheduler)
        last, stays = _end_of(part)
        return None if last is None else [0, *getattr(lr_scheduler, "_milestones", ())][-1] + last, stays
    return last_step(lr_scheduler), False


def _falls_to(course: Any, now: int, updates: int) -> bool:
    """Whether a function of the update ends with the training, at 0 or where it stays; or stays from `now` on."""
    end, beyond, before = course(updates), course(10 * updates), course(max(now, updates - _NEAR))
    if end == beyond == course(now) == before:
        return True
    return bool(0 <= end <= _OVER * course(now)) or (course(updates + 1) == end == beyond and before != end)
