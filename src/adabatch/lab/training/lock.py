"""The folder that a command writes to: one process at a time, and errors that name it. No torch here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

NAME: Final = ".lock"
LOOK_SECONDS: Final = 0.05  # between two looks whether someone still holds
_held: set[int] = set()  # handles of this process


def _forked() -> None:
    """In a forked child: only the parent holds, so that a worker that outlives it by a moment does not."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@contextmanager
def held(folder: Path, *, patience: float = 0.0) -> Iterator[None]:
    """While it is entered, no other process, and no one else in this one, enters it for `folder`.

    The kernel releases the lock when the process ends in whatever way; the file that a killed one left is no hindrance.
    Where there are no such locks (Windows, some network and read-only file systems) nothing is held.

    Args:
        folder: an existing folder.
        patience: seconds to wait for whoever holds it.

    Raises:
        BlockingIOError: if someone holds it already, and still after `patience`.
    """
    handle = _waited(folder, time.monotonic() + patience)
    if handle is None:
        yield
        return
    _held.add(handle)
    try:
        yield
    finally:
        if handle in _held:
            _held.remove(handle)
            with suppress(OSError):
                (folder / NAME).unlink()  # while it is held: who opened it before looks whether it is still there
            os.close(handle)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns an error of the file system into one of the same kind that names `out`, the reason and a remedy.

    Raises:
        OSError: when writing fails.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        reason = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
        raise type(error)(
            f"`out` must be a folder that can be written, got {str(folder)!r} ({reason}); "
            "free space or take another folder"
        ) from error


def _waited(folder: Path, until: float) -> int | None:
    while True:
        try:
            return _locked(folder)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
        time.sleep(LOOK_SECONDS)


def _locked(folder: Path) -> int | None:
    """The handle of the lock file, locked; None where there are no such locks."""
    try:
        import fcntl
    except ModuleNotFoundError:
        return None
    while True:
        try:
            handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_there(folder / NAME, handle):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise BlockingIOError(
                f"`out` must be a folder in which no other process trains, got {str(folder)!r}, in which one does; "
                "wait for it, end it or take another folder"
            ) from None
        except OSError:
            os.close(handle)
            return None
        os.close(handle)  # the one before removed it meanwhile


def _is_there(path: Path, handle: int) -> bool:
    """Whether `path` still names the file that was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
