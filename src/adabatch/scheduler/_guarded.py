"""What must be done when an exception leaves `optimizer.step()`: step hooks do not see it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any, Final

import torch

_MARK: Final = "_adabatch_guard"  # `functools.wraps` hands it on to what wraps the step later, as LR schedulers do


class Guard:
    """A wrapper of one optimizer's `step()` that calls back when an exception leaves it.

    It stands where torch's LR schedulers put theirs, on the instance, is a bound method as they expect, and carries
    their mark on where it lies over one. It is no part of copies. An optimizer has one, used again by whoever couples
    it next: what lies under the wrapper of another cannot be taken out, and passes the call on.

    Args:
        optimizer: the optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        held = vars(optimizer).get("step")
        inner = type(optimizer).step if held is None else held

        def step(self: torch.optim.Optimizer, /, *args: Any, **kwargs: Any) -> Any:
            try:
                return inner(self, *args, **kwargs) if held is None else inner(*args, **kwargs)
            except BaseException:
                if guard.on_exception is not None:
                    guard.on_exception()
                raise

        guard = self
        self.on_exception: Callable[[], Any] | None = None
        self._held, self._step = held, functools.update_wrapper(step, inner)
        setattr(step, _MARK, self)
        optimizer.step = MethodType(step, optimizer)  # type: ignore[method-assign]

    @staticmethod
    def of(optimizer: torch.optim.Optimizer) -> Guard:
        """The guard that the optimizer's `step()` has, else a new one."""
        found = getattr(optimizer.step, _MARK, None)
        return found if isinstance(found, Guard) else Guard(optimizer)

    def remove(self, optimizer: torch.optim.Optimizer) -> None:
        """Calls back no longer, and takes the wrapper off if nothing wraps it in turn."""
        self.on_exception = None
        if getattr(vars(optimizer).get("step"), "__func__", None) is self._step:
            if self._held is None:
                del optimizer.step
            else:
                optimizer.step = self._held  # type: ignore[method-assign]
