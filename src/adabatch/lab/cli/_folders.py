"""Folders that nobody named: new ones under a name of their own, and what was in one before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path


@contextmanager
def new(wanted: Path) -> Iterator[Path]:
    """A folder that no other command has, however many start at once; gone again if nothing came into it.

    Args:
        wanted: its path; with a number behind it where another has the name. The folder above is made when missing.

    Raises:
        OSError: if no folder can be made there.
    """
    had_above = wanted.parent.is_dir()
    folder = _made(wanted)
    try:
        yield folder
    finally:
        with suppress(OSError):  # something is in it
            folder.rmdir()
            if not had_above:
                folder.parent.rmdir()


def _made(wanted: Path) -> Path:
    folder, numbers = wanted, count(2)
    while True:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _nowhere(error, folder) from error
        try:
            folder.mkdir()  # in one step: who comes second is told
            return folder
        except FileExistsError:
            folder = wanted.with_name(f"{wanted.name}-{next(numbers)}")
        except FileNotFoundError:
            continue  # another command took the empty folder above away
        except OSError as error:
            raise _nowhere(error, folder) from error


def _nowhere(error: OSError, folder: Path) -> OSError:
    return type(error)(
        f"`out` must be given where no folder can be made in {folder.parent}, got none ({error.strerror}: "
        f"{error.filename}); name one that can be written"
    )


def set_aside(folder: Path, *names: str) -> str | None:
    """Renames files that are there from before, all with one number, so that new ones take no place of theirs.

    Args:
        folder: that holds them.
        *names: of the files; the first one says whether there are any.

    Returns:
        The new name of the first one; None if it is not there.

    Example:
        >>> set_aside(Path("no such folder"), "probe.json") is None
        True
    """
    files = [folder / name for name in names]
    if not files[0].exists():
        return None
    number = next(n for n in count(1) if not any(_numbered(file, n).exists() for file in files))
    for file in files:
        if file.exists():
            file.rename(_numbered(file, number))
    return _numbered(files[0], number).name


def _numbered(file: Path, number: int) -> Path:
    return file.with_name(f"{file.stem}-{number}{file.suffix}")
