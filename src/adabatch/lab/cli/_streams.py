"""Standard output and standard error that never end a command, even if they are closed or their reader goes away."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TextIO, cast

READER_GONE: Final = 141
"""The exit code if the reader of the output went away; shells give it for a tool that SIGPIPE ended."""


class Stream:
    """A text stream that drops what is written once its reader has gone away.

    Args:
        stream: the stream; its other attributes are available too.
        forgives_all: whether any system error counts as a reader that went away: on standard error, because it cannot
            be reported anywhere. Otherwise errors such as a full disk are raised.

    Attributes:
        gone: whether the reader has gone away.
    """

    def __init__(self, stream: TextIO, *, forgives_all: bool = False) -> None:
        self._stream, self._forgives_all = stream, forgives_all
        self._terminal = stream.isatty()  # a closed stream cannot answer
        self.gone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes text while there is a reader; returns its length."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flushes while there is a reader."""
        self._try(self._stream.flush)

    def end(self) -> None:
        """Drops unwritten text, which would raise when the interpreter ends."""
        try:
            self._stream.flush()
        except (OSError, ValueError):  # a ValueError: somebody has closed it
            _lead_nowhere(self._stream)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            hung_up = self._terminal and error.errno == errno.EIO
            if not (self._forgives_all or hung_up or isinstance(error, BrokenPipeError)):
                raise
            self.gone = True
            _lead_nowhere(self._stream)


@contextmanager
def forgiving() -> Iterator[Stream]:
    """Keeps standard output and standard error from ending the program; yields standard output."""
    before = sys.stdout, sys.stderr
    _open_what_is_closed()
    out, err = Stream(sys.stdout), Stream(sys.stderr, forgives_all=True)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out
    finally:
        out.end()
        err.end()
        sys.stdout, sys.stderr = before


def _open_what_is_closed() -> None:
    """Opens /dev/null for standard streams that the process was started without.

    In this order each gets the descriptor of the closed one; else a file of the run could, and get a library's output.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, it stays open as long as the process


def _lead_nowhere(stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # the stream may be no file, as in a notebook
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
