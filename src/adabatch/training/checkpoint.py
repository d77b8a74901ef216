"""Checkpoints: written whole or not at all, read with every doubt."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

FORMAT: Final = 1
KIND: Final = "adabatch run"


def write(path: Path, state: Mapping[str, Any], *, also: Path | None = None) -> None:
    """Writes `state` to `path`: a reader finds the former file or the new one, never a part of it.

    Args:
        path: the file.
        state: tensors, numbers, text, dicts and lists.
        also: a second name for the same content, which is there before `path` changes.

    Raises:
        OSError: if it cannot be written; then no half of it is left.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("wb") as file:
            try:
                torch.save({"kind": KIND, "format": FORMAT, **state}, file)
            except RuntimeError as error:  # torch hides the system's error behind one of its own
                raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error
            file.flush()
            os.fsync(file.fileno())
        if also is not None:
            _name_also(draft, also)
        draft.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read(path: Path) -> dict[str, Any]:
    """The state that `write` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else.
    """
    remedy = "remove the run folder to start again"
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise ValueError(f"`checkpoint` {path} must be whole, got a damaged {broken}; {remedy}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own advice would be to run what is in there
        raise ValueError(f"`checkpoint` {path} must hold tensors, numbers and text alone, got more; {remedy}") from None
    except (zipfile.BadZipFile, EOFError, RuntimeError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"`checkpoint` {path} must be whole, got a damaged file ({reason}); {remedy}") from None
    if not isinstance(state, dict) or state.get("kind") != KIND:
        raise ValueError(f"`checkpoint` {path} must be one of adabatch's runs, got something else; {remedy}")
    if state.get("format") != FORMAT:
        raise ValueError(
            f"`checkpoint` {path} must be of format {FORMAT}, got {state.get('format')!r}; "
            "use the version of adabatch that wrote it"
        )
    return state


def _name_also(draft: Path, also: Path) -> None:
    """Gives the draft a second name, in one step; a copy has it where a file has but one name, as on exFAT."""
    link = also.with_name(f".{also.name}.draft")
    link.unlink(missing_ok=True)
    try:
        try:
            os.link(draft, link)
        except OSError:
            _copy(draft, link)
        link.replace(also)
    except BaseException:
        link.unlink(missing_ok=True)
        raise


def _copy(path: Path, to: Path) -> None:
    with path.open("rb") as source, to.open("wb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes a change of names last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
