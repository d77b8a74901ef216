"""Files that are written whole or not at all, and checked when they are read."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from adabatch._errors import ArgumentError

CACHE: Final = "ADABATCH_CACHE"  # the environment variable that names the folder of the cache
LEVELS: Final = 50  # of nested values at most; no file of this package has as many


def cache_folder() -> Path:
    """The cache's folder: ADABATCH_CACHE, else `adabatch` in XDG_CACHE_HOME or `~/.cache`."""
    if given := os.environ.get(CACHE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adabatch"


def write(
    path: Path,
    fill: Callable[[BinaryIO], object],
    *,
    also: Path | None = None,
    former: Path | None = None,
    alone: bool = True,
) -> None:
    """Writes a file and forces it to disk: a reader finds the former file or the new one, never a part of it.

    Args:
        path: the file.
        fill: writes the content into the file that it is given.
        also: a second name for the same content, set before `path` changes.
        former: a name under which the former content is kept, set before that.
        alone: whether no other process writes it at the same time; else each has a draft of its own.

    Raises:
        OSError: if it cannot be written; then nothing of it is left.
    """
    with _drafted(path, alone=alone) as draft:
        with draft.open("wb") as file:
            fill(file)
            _sync(file)
        if former is not None and path.exists():
            name_also(path, former)
        if also is not None:
            name_also(draft, also)


def write_text(path: Path, text: str) -> None:
    """Writes text in UTF-8, whole or not at all."""
    write(path, lambda file: file.write(text.encode()))


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def name_also(path: Path, also: Path) -> None:
    """Gives a file the second name `also`, in one step, in place of another file; as a copy where links fail."""
    if also.exists() and also.samefile(path):
        return
    with _drafted(also) as link:
        link.unlink(missing_ok=True)
        try:
            os.link(path, link)
        except OSError:
            with path.open("rb") as source, link.open("wb") as file:
                shutil.copyfileobj(source, file)
                _sync(file)


def draft_of(path: Path, *, alone: bool = True) -> Path:
    """The name that a file has while it is written."""
    return path.with_name(f".{path.name}.draft" if alone else f".{path.name}.{os.getpid()}.draft")


@contextmanager
def _drafted(path: Path, *, alone: bool = True) -> Iterator[Path]:
    """A context that gives a draft's name; at the end the draft replaces `path`, after an error it is removed."""
    draft = draft_of(path, alone=alone)
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):  # if that fails, nothing was written
            draft.unlink()
        raise


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def unwrapped() -> Iterator[None]:
    """A context in which torch writes a file, and an error of the system that it wraps is raised as that."""
    try:
        yield
    except RuntimeError as error:
        raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error


def append(path: Path, line: bytes) -> None:
    """Adds a line to a file, whole or not at all; only `sync` makes it survive a loss of power."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except BaseException:
            file.truncate(before)
            raise


def sync(path: Path) -> None:
    """Forces a file or folder to disk; does nothing for a folder on Windows, which cannot open one."""
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_WRONLY)
    except PermissionError:
        if folder:
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_file(path: Path) -> None:
    """Raises unless `path` is a file, or a link to one.

    Raises:
        FileNotFoundError: if nothing is there, or a broken link.
        ValueError: if a folder, a pipe or a device is there, whose reading would fail or wait.
    """
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe" if path.is_fifo() else "a device"
        raise ArgumentError(None, f"{what} in place of a file")


def json_of(path: Path) -> Any:
    """The values in a JSON file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is something else, damaged or nested too deep.
        OSError: if it cannot be read.
    """
    check_file(path)
    return values_of(path.read_text(encoding="utf-8"))


def values_of(text: str) -> Any:
    """The values in JSON text.

    Raises:
        ValueError: if it is no JSON, or nested too deep for its readers.
    """
    try:
        values = json.loads(text)
    except RecursionError:
        values = None
    else:
        if _fits(values, LEVELS):
            return values
    raise ArgumentError(None, f"more than {LEVELS} levels of values in each other")


def _fits(values: Any, levels: int) -> bool:
    """Whether values are nested in at most so many levels."""
    inner = values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
    return levels > 0 and all(_fits(value, levels - 1) for value in inner if isinstance(value, dict | list))
