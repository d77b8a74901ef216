"""Ctrl-C, SIGTERM and SIGHUP end a run at its next update instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ClassVar, Final, Self

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
    ignores, as SIGHUP behind `nohup`, stays ignored. They nest: one that comes is seen by all that are entered, so that
    a run which ends well in spite of it does not hide it from those around.

    Args:
        waiting: leave signals alone until another one is entered, and from then on note them until this one is left.

    Attributes:
        number: of the first signal that came; None while none did.
    """

    _entered: ClassVar[list[Interrupts]] = []  # of the main thread, the outermost first; that one has the handlers
    _holding: ClassVar[bool] = False

    def __init__(self, *, waiting: bool = False) -> None:
        self.number: int | None = None
        self._waiting = waiting
        self._since = 0.0
        self._before: dict[int, Any] = {}

    @property
    def seen(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._entered.append(self)
            outermost = self._entered[0]
            self.number = outermost.number
            if not (self._waiting or outermost._before):
                outermost._install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        if self in self._entered:
            self._entered.remove(self)

    @contextmanager
    def held(self) -> Iterator[None]:
        """While it is entered no signal does more than to be noted: what is written then is written whole."""
        Interrupts._holding = True
        try:
            yield
        finally:
            Interrupts._holding = False

    def _install(self) -> None:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if not self.seen:
            self._since = time.monotonic()
            for entered in self._entered:
                entered.number = number
        elif time.monotonic() - self._since >= GRACE_SECONDS and not self._holding:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        """Puts the handlers back that were there before, but for one that another has replaced meanwhile."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
