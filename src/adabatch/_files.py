"""Reading files of which nothing is sure: what is no file, no text or no JSON is said in words, and nothing waits."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, Final

from adabatch._errors import ArgumentError

LEVELS: Final = 50  # in which values may lie in each other; no file of this package has as many


def check_file(path: Path) -> None:
    """Raises unless `path` is a file, or a link to one.

    Raises:
        FileNotFoundError: if nothing is there; a link that leads nowhere, or in a circle, is nothing.
        ValueError: if a folder, a pipe or a device is there, which would fail or wait.
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
        ValueError: if it is something else, damaged or nested without end.
        OSError: if it cannot be read.
    """
    check_file(path)
    return values_of(path.read_text(encoding="utf-8"))


def values_of(text: str) -> Any:
    """The values that JSON text stands for.

    Raises:
        ValueError: if it is no JSON, or nested without end, on which others would stumble later.
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
    """Whether values lie in each other in no more than so many levels."""
    inner = values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
    return levels > 0 and all(_fits(value, levels - 1) for value in inner if isinstance(value, dict | list))
