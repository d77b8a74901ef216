"""Standard output and standard error that end no command: closed ones, and ones whose reader has gone away."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TextIO, cast

READER_GONE: Final = 141
"""The exit code after output that nobody read to its end; a shell says it of a tool that SIGPIPE ended."""


class Stream:
    """A stream of text until nobody reads it any more; what is written from then on is dropped.

    Args:
        stream: the stream; whatever is not said here is its own.
        forgives_all: whether any error of the system is taken for that: on standard error, since there is no place
            left to tell of it. Else a full disk, for one, stays an error.

    Attributes:
        gone: whether nobody reads it any more.
    """

    def __init__(self, stream: TextIO, *, forgives_all: bool = False) -> None:
        self._stream, self._forgives_all = stream, forgives_all
        self._terminal = stream.isatty()  # one that was closed no longer says so
        self.gone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes what somebody reads."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Hands on what is held back."""
        self._try(self._stream.flush)

    def end(self) -> None:
        """Drops what could not be written, over which the interpreter would stumble at its end."""
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
    """While it is entered, standard output and standard error end nothing when they are closed or their reader goes.

    Yields:
        Standard output.
    """
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
    """Makes streams that lead nowhere of those that the process was started without.

    In this order each gets the number of the closed one, so that no file of a run does, and what a library prints.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, it stays open as long as the process


def _lead_nowhere(stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # one that is no file, as in a notebook
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
