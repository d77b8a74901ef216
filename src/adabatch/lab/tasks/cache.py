"""Decoded images on disk: files of arrays that are there whole or not at all.

A file holds a header (format, names, types, shapes), then the arrays. It lies in the folder that the environment
variable ADABATCH_CACHE names, else in `adabatch` under XDG_CACHE_HOME or `~/.cache`. Its name carries the key, a hash
of the encoded data and the decoder's version, so a file never serves other data or another decoder.

It is written under another name, forced to disk and renamed. The writer locks a file beside it, and the kernel releases
the lock when the process ends, however it ends. So two runs never decode the same images, and the next run deletes what
a killed one left.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from adabatch import _files
from adabatch._errors import ArgumentError
from adabatch._files import CACHE

FORMAT: Final = 1
MAGIC: Final = b"adabatch arrays\n"
ALIGNMENT: Final = 4096
HEADER: Final = 2**16

Arrays = Mapping[str, npt.NDArray[Any]]
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]


def arrays(name: str, *, key: str, shapes: Callable[[], Shapes], fill: Callable[[Arrays], None]) -> Arrays:
    """The arrays stored under `name` and `key`; made and stored first if they are not there.

    Args:
        name: what they are, for the file's name.
        key: hash of everything that they depend on.
        shapes: called if they are missing; gives each array's type, such as `"uint8"`, and shape.
        fill: called if they are missing; fills the arrays, all zero and on disk, in place.

    Returns:
        The arrays, mapped from the file; changes to them stay in this process.

    Raises:
        OSError: if the folder cannot be written or has too little room; raised before anything is filled.

    Example:
        >>> import tempfile
        >>> os.environ["ADABATCH_CACHE"] = tempfile.mkdtemp()
        >>> found = arrays("one", key="0", shapes=lambda: {"x": ("uint8", (3,))}, fill=lambda a: a["x"].fill(7))
        >>> found["x"].tolist()
        [7, 7, 7]
        >>> del os.environ["ADABATCH_CACHE"]
    """
    folder = _files.cache_folder()
    path = folder / f"{name}-{key[:32]}.arrays"
    if (found := _open(path)) is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if (found := _open(path)) is None:  # else another process made it meanwhile
                _make(path, shapes(), fill)
                found = _open(path)
    except (NotADirectoryError, FileExistsError, PermissionError) as error:
        raise OSError(
            f"the cache folder must be one that can be written, got {str(folder)!r} ({error.strerror}); set {CACHE}"
        ) from error
    assert found is not None
    return found


def _open(path: Path, mode: Any = "c") -> dict[str, npt.NDArray[Any]] | None:
    """The arrays in `path`; None if the file is missing or, with a warning, unusable."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER)
            size = os.fstat(file.fileno()).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if not header.startswith(MAGIC):
            raise ArgumentError(None, "it is of another kind")
        described = json.loads(header[len(MAGIC) :].rstrip(b"\0"))
        if described["format"] != FORMAT:
            raise ArgumentError(None, f"its format is {described['format']}, not {FORMAT}")
        if described["size"] != size:
            raise ArgumentError(None, f"it has {size:,} bytes, not {described['size']:,}")
        return {name: _mapped(path, mode, *place) for name, place in described["arrays"].items()}
    except (ValueError, KeyError, TypeError) as error:
        warnings.warn(f"the cached file {path} is not used: {error}; it is made anew", UserWarning, stacklevel=3)
        return None


def _mapped(path: Path, mode: Any, kind: str, shape: list[int], offset: int) -> npt.NDArray[Any]:
    """One array of a file."""
    if not math.prod(shape):
        return np.empty(shape, dtype=kind)
    return np.memmap(path, dtype=kind, mode=mode, shape=tuple(shape), offset=offset)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock on making `path`; waits for whoever holds it."""
    try:
        import fcntl
    except ModuleNotFoundError:  # no such locks on this system: at worst two processes make the same file
        yield
        return
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(path: Path, shapes: Shapes, fill: Callable[[Arrays], None]) -> None:
    """Writes `path`, whole or not at all."""
    places: dict[str, tuple[str, tuple[int, ...], int]] = {}
    size = HEADER
    for name, (kind, shape) in shapes.items():
        places[name] = (kind, shape, size)
        size += -(-math.prod(shape) * np.dtype(kind).itemsize // ALIGNMENT) * ALIGNMENT
    header = MAGIC + json.dumps({"format": FORMAT, "size": size, "arrays": places}).encode()
    for left in path.parent.glob(f".{path.name}.*.draft"):  # left by a killed process, since the lock is ours
        left.unlink(missing_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OSError(
            f"the cache must have {size / 1e6:,.1f} MB of free disk for {path.name}, got {free / 1e6:,.1f} MB in "
            f"{str(path.parent)!r}; free some, or set {CACHE} to a folder on another disk"
        )

    def write(file: BinaryIO) -> None:
        file.write(header.ljust(HEADER, b"\0"))
        file.truncate(size)
        file.flush()
        draft = Path(file.name)
        fill({name: _mapped(draft, "r+", kind, list(shape), offset) for name, (kind, shape, offset) in places.items()})

    _files.write(path, write, alone=False)
