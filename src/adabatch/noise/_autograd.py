"""Two things that torch tells nobody: backward passes, and by how much a GradScaler multiplied a loss.

`torch.autograd.backward` and `GradScaler.scale` are wrapped while a tap is open.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet, finalize

import torch

_LISTENING: Final[WeakSet[Passes]] = WeakSet()
_LOCK: Final = threading.RLock()
_depth = threading.local()
_undo: dict[Callable[[], Any], Callable[[], bool]] = {}  # of what is wrapped; tells whether it could be undone


class Passes:
    """Hears of backward passes until `close()`, except of inner ones, as of checkpointing.

    Args:
        begins: called before each one.
        over: called after each one, unless it raised.

    Attributes:
        scaler: the GradScaler that scaled a loss last; None for none.
    """

    def __init__(self, begins: Callable[[], None], over: Callable[[], None]) -> None:
        self.begins, self.over = begins, over
        self.scaler: Any = None
        with _LOCK:
            for wrap in (_wrap_backward, _wrap_scale):
                if wrap not in _undo:
                    _undo[wrap] = wrap()
            _LISTENING.add(self)
        finalize(self, _let_go).atexit = False  # for those that nobody closes

    def factor(self) -> float:
        """The factor on the loss; 1 without a scaler."""
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())

    def close(self) -> None:
        """Hears no more."""
        with _LOCK:
            _LISTENING.discard(self)
        _let_go()


def _let_go() -> None:
    """Gives torch its functions back once nobody listens."""
    with _LOCK:
        if not any(True for _ in _LISTENING):
            for wrap, undo in list(_undo.items()):
                if undo():
                    del _undo[wrap]


def _wrap_backward() -> Callable[[], bool]:
    backward = torch.autograd.backward

    def told(*args: Any, **kwargs: Any) -> None:
        depth = _depth.now = getattr(_depth, "now", 0) + 1
        listening = tuple(_LISTENING) if depth == 1 else ()
        for each in listening:
            each.begins()
        try:
            backward(*args, **kwargs)
        finally:
            _depth.now -= 1
        for each in listening:
            each.over()

    def undo() -> bool:
        if torch.autograd.backward is not told:  # another wrapper calls it, as that of `accumulate`, and it stays
            return False
        torch.autograd.backward = backward
        return True

    torch.autograd.backward = told
    return undo


def _wrap_scale() -> Callable[[], bool]:
    kind: Any = torch.amp.GradScaler
    scale = kind.scale

    def told(self: Any, outputs: Any) -> Any:
        for each in tuple(_LISTENING):
            each.scaler = self if self.is_enabled() else None
        return scale(self, outputs)

    def undo() -> bool:
        if kind.scale is not told:
            return False
        kind.scale = scale
        return True

    kind.scale = told
    return undo
