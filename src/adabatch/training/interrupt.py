"""Ctrl-C and SIGTERM end a run at its next update instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ClassVar, Self


class Interrupted(KeyboardInterrupt):
    """A run was interrupted; its state is saved if it has a run folder.

    Attributes:
        out: the run folder; None if the run has none, and then nothing is saved.
    """

    def __init__(self, out: Path | None) -> None:
        self.out = out
        super().__init__(f"interrupted; the run is saved in {out}" if out else "interrupted; nothing is saved")


class Interrupts:
    """While it is entered, notes SIGINT and SIGTERM; a second one acts at once, as does any outside the main thread.

    One that the process ignores, as SIGINT behind `nohup ... &`, stays ignored. They nest: one that comes while an
    inner is entered is seen by those around it too, so that a run which ends well in spite of it does not hide it.

    Attributes:
        seen: whether one came.
    """

    _entered: ClassVar[list[Interrupts]] = []  # of the main thread, the outermost first

    def __init__(self) -> None:
        self.seen = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
            if any(around.seen for around in self._entered):
                self.seen = True
                self._restore()
            self._entered.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        if self in self._entered:
            self._entered.remove(self)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        for entered in (self, *reversed(self._entered)):
            entered.seen = True
            entered._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
