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
        out: the run folder; None if the run has none, so that nothing is saved.
        number: of the signal.
        kept: words for what is kept, if that is not the state of one run.
    """

    def __init__(self, out: Path | None, number: int = signal.SIGINT, *, kept: str = "") -> None:
        self.out, self.number = out, number
        super().__init__(f"interrupted; {kept or (f'the run is saved in {out}' if out else 'nothing is saved')}")


class Interrupts:
    """While entered, notes Ctrl-C, SIGTERM and SIGHUP, in the main thread.

    Signals within a second of the first count as the same wish: a key is held down, or terminal and shell both send
    one. A later signal acts as usual, unless signals are `held`. A signal that the process ignores, such as SIGHUP
    under `nohup`, stays ignored. Several may be entered, one inside another: all of them see a signal, so a run that
    still ends well does not hide it from the outer ones.

    Args:
        waiting: leave signals alone until another one is entered inside; from then on note them.

    Attributes:
        number: of the first signal that came; None before.
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
        """While entered, a signal is only noted, so that files are written whole."""
        _HANDLERS.holding = True
        try:
            yield
        finally:
            _HANDLERS.holding = False


class _Handlers:
    """The signal handlers; they are in place while any `Interrupts` is entered."""

    def __init__(self) -> None:
        self.holding = False
        self._entered: list[Interrupts] = []  # in the main thread, the outermost first
        self._since = 0.0  # time of the first signal
        self._before: dict[int, Any] = {}  # the former handlers

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
        """Puts the former handlers back, unless someone else has replaced ours meanwhile."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}


_HANDLERS: Final = _Handlers()
