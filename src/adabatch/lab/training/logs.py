"""The logs of a run: lines of JSON, added whole or not at all, read back as far as a checkpoint knows them."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from adabatch import _files
from adabatch._errors import ArgumentError
from adabatch.lab.training.records import checked

_Record = TypeVar("_Record")


def append(path: Path, record: Any) -> None:
    """Adds one line whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    line = (json.dumps(asdict(record), allow_nan=False) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except BaseException:
            file.truncate(before)
            raise


def sync(path: Path) -> None:
    """Makes what was added last, also where the machine loses its power.

    Raises:
        OSError: if that fails.
    """
    with path.open("ab", buffering=0) as file:
        os.fsync(file.fileno())


def read(path: Path, kind: type[_Record], count: int) -> tuple[list[_Record], int]:
    """The first lines of a log.

    Args:
        path: the log; it need not be there where `count` is 0.
        kind: of record that a line holds.
        count: how many lines.

    Returns:
        The records, and how many bytes their lines take.

    Raises:
        ValueError: if there are fewer, or one is damaged; says which, but not of which file.
        OSError: if it cannot be read.
    """
    if not count:
        return [], 0
    try:
        _files.check_file(path)
        lines = path.read_bytes().split(b"\n", count)
    except FileNotFoundError:
        lines = [b""]
    if len(lines) <= count:  # what follows the last line break is no whole line
        raise ArgumentError(None, f"{len(lines) - 1:,} whole lines of {count:,}")
    found = []
    for number, line in enumerate(lines[:count], 1):
        try:
            found.append(checked(kind(**_files.values_of(line.decode()))))
        except (TypeError, ValueError) as error:
            raise ArgumentError(None, f"line {number:,}: {error}") from None
    return found, sum(len(line) + 1 for line in lines[:count])
