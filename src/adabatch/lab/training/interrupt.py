"""Ctrl-C, SIGTERM and SIGHUP end a run at its next update instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

SIGNALS: Final = tuple(number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)))
GRACE_SECONDS: Final = 1.0


class Interrupted(KeyboardInterrupt):
    """A run was interrupted; its state is saved if it has a run folder.

    Args:
        out: the run folder; None if the run has none, and then nothing is saved.
        number: of the signal.
        kept: what is kept, in words, where it is not one run's state.
    """

    def __init__(self, out: Path | None, number: int = signal.SIGINT, *, kept: str = "") -> None:
        self.out, self.number = out, number
        super().__init__(f"interrupted; {kept or (f'the run is saved in {out}' if out else 'nothing is saved')}")


class Interrupts:
    """While it is entered, notes Ctrl-C, SIGTERM and SIGHUP, in the main thread.

    Those that follow within a second are the same wish: of a key that is held down, or of a terminal and a shell that
    both tell it. A later one acts as if nothing was entered, unless something is `held` meanwhile. One that the process
    ignores, as SIGHUP under `nohup`, stays ignored. They nest: one that comes is seen by all that are entered, so that
    a run which ends well in spite of it does not hide it from those around.

    Args:
        waiting: leave signals alone until another one is entered, and from then on note them until this one is left.

    Attributes:
        number: of the first signal that came; None while none did.
    """

    def __init__(self, *, waiting: bool = False) -> None:
        self.number: int | None = None
        self._waiting = waiting

    @property
    def seen(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            _HANDLERS.enter(self, waiting=self._waiting)
        return self

    def __exit__(self, *_error: object) -> None:
        _HANDLERS.leave(self)

    @contextmanager
    def held(self) -> Iterator[None]:
        """While it is entered no signal does more than to be noted: what is written then is written whole."""
        _HANDLERS.holding = True
        try:
            yield
        finally:
            _HANDLERS.holding = False


class _Handlers:
    """The handlers of signals, which are there for the outermost of all that are entered."""

    def __init__(self) -> None:
        self.holding = False
        self._entered: list[Interrupts] = []  # in the main thread, the outermost first
        self._since = 0.0  # the first signal
        self._before: dict[int, Any] = {}  # handlers

    def enter(self, interrupts: Interrupts, *, waiting: bool) -> None:
        self._entered.append(interrupts)
        interrupts.number = self._entered[0].number
        if waiting or self._before:
            return
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)

    def leave(self, interrupts: Interrupts) -> None:
        if self._entered[:1] == [interrupts]:
            self._restore()
        if interrupts in self._entered:
            self._entered.remove(interrupts)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if not self._entered[0].seen:
            self._since = time.monotonic()
            for interrupts in self._entered:
                interrupts.number = number
        elif time.monotonic() - self._since >= GRACE_SECONDS and not self.holding:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        """Puts the handlers back that were there before, but for one that another has replaced meanwhile."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}


_HANDLERS: Final = _Handlers()
