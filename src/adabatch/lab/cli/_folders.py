"""The folders that commands write: new names for new folders, and earlier files kept beside new ones."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from adabatch import _files
from adabatch._errors import naming


@contextmanager
def new(wanted: Path) -> Iterator[Path]:
    """A new folder that no other command uses, however many start at once; removed again if it stays empty.

    Args:
        wanted: its path; a number follows if the name is taken. The folder above is made if missing.

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
            folder.mkdir()  # atomic: the second to try gets an error
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


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """A context with a folder, made if missing; after an error it is removed again, if it was made and is empty.

    Raises:
        OSError: if it cannot be made.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # something is in it
            for each in made:
                each.rmdir()
        raise


def set_aside(folder: Path, *names: str) -> str | None:
    """Renames earlier files, all with the same number, so that new ones do not replace them.

    Returns:
        The new name of the first file; None if it is missing, and then nothing is renamed.

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


def check_free(folder: Path, kind: str) -> None:
    """Raises FileExistsError if another kind of command wrote to the folder, since its page would be replaced."""
    others = {"config.json": "run", "comparison.json": "comparison"}
    others |= {f"{other}.json": other for other in ("plan", "probe", "study", "branch")}
    others["advice.json"] = "piece of advice"
    # unfinished ones
    others |= {"study.db": "study", "branches.json": "branch", "measured.json": "piece of advice"}
    for file, other in others.items():
        if other != kind and (folder / file).exists():
            raise FileExistsError(f"`out` must not hold a {other}, got {str(folder)!r}; take another folder")


def write_found(folder: Path, kind: str, values: Mapping[str, Any], draw: Callable[[Path], object]) -> list[str]:
    """Writes a command's findings: JSON, a picture if matplotlib is installed, and a page; earlier files are kept.

    Args:
        folder: made if missing.
        kind: `"plan"` or `"probe"`.
        values: content of the JSON.
        draw: draws the picture to a path.

    Returns:
        The names of the files.

    Raises:
        OSError: if the folder cannot be written, or holds what another command wrote.
    """
    from adabatch.lab.report import page
    from adabatch.lab.training import writing

    check_free(folder, kind)
    names = [f"{kind}.json"]
    with writing(folder), naming(folder="out"):
        folder.mkdir(parents=True, exist_ok=True)
        kept = set_aside(folder, f"{kind}.json", f"{kind}.png", page.NAME)
        _files.write_json(folder / f"{kind}.json", values)
        if importlib.util.find_spec("matplotlib") is not None:
            draw(folder / f"{kind}.png")
            names.append(f"{kind}.png")
        names.append(page.write(folder).name)
    if kept is not None:
        print(f"note: the {kind} that was in {folder} before is {kept} now", file=sys.stderr)
    return names
