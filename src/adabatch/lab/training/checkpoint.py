"""Checkpoints: written whole or not at all, and checked when read."""

from __future__ import annotations

import filecmp
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch

from adabatch import _files
from adabatch._errors import ArgumentError

FORMAT: Final = 2
KIND: Final = "adabatch run"


def write(path: Path, state: Mapping[str, Any], *, also: Path | None = None) -> None:
    """Writes `state` to `path`: a reader finds the former file or the new one, never a part of it.

    Raises:
        OSError: if it cannot be written; then no half of it is left.
    """

    def fill(file: BinaryIO) -> None:
        try:
            torch.save({"kind": KIND, "format": FORMAT, **state}, file)
        except RuntimeError as error:  # torch wraps the system's error
            raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error

    _files.write(path, fill, also=also)
    _files.sync(path.parent)


def finish(path: Path, *, also: Path) -> None:
    """Completes a first `write` that a kill broke off after `also` and before `path`; else does nothing.

    Raises:
        OSError: if that fails.
    """
    draft = _files.draft_of(path)
    if not path.exists() and draft.exists() and also.exists() and filecmp.cmp(draft, also, shallow=False):
        draft.replace(path)
        _files.sync(path.parent)


def read(path: Path, *, remedy: str = "remove the run folder to start again") -> dict[str, Any]:
    """The state that `write` wrote.

    Args:
        path: the file.
        remedy: the remedy if it is damaged or something else.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else.
        OSError: if it cannot be read.
    """
    try:
        _files.check_file(path)
    except ValueError as error:
        raise ArgumentError("checkpoint", f"{path} must be whole", got=str(error), remedy=remedy) from None
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                broken = archive.testzip()
            file.seek(0)
            state = None if broken is not None else torch.load(file, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except pickle.UnpicklingError:  # torch's own message advises to load it unsafely
            rule = f"{path} must hold tensors, numbers and text alone"
            raise ArgumentError("checkpoint", rule, got="more", remedy=remedy) from None
        except Exception as error:  # a damaged file may fail in any of the steps of reading it
            reason = str(error).strip().partition("\n")[0]
            got = f"a damaged file ({reason})"
            raise ArgumentError("checkpoint", f"{path} must be whole", got=got, remedy=remedy) from None
    if broken is not None:
        raise ArgumentError("checkpoint", f"{path} must be whole", got=f"a damaged {broken}", remedy=remedy)
    if not isinstance(state, dict) or state.get("kind") != KIND:
        raise ArgumentError("checkpoint", f"{path} must be one of adabatch's runs", got="something else", remedy=remedy)
    if state.get("format") != FORMAT:
        rule, remedy = f"{path} must be of format {FORMAT}", "use the version of adabatch that wrote it"
        raise ArgumentError("checkpoint", rule, value=state.get("format"), remedy=remedy)
    return state
