"""Checkpoints: written whole or not at all, and checked when read.

A run of one process keeps everything in one file. Where several train, the file holds tensors of the network and the
optimizer as shape and type alone, and names the folder beside it into which each rank wrote its shards of them.
"""

from __future__ import annotations

import filecmp
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from torch import Tensor

from adabatch import _distributed, _files
from adabatch._errors import ArgumentError

FORMAT: Final = 2
KIND: Final = "adabatch run"
SHARDS: Final = "at-"  # and the clock: folders of shards
AGAIN: Final = "remove the run folder to start again"
_SHARED: Final = ("model", "optimizer")


def write(path: Path, state: Mapping[str, Any], *, also: Path | None = None, former: Path | None = None) -> None:
    """Writes `state` to `path`: a reader finds the former file or the new one, never a part of it.

    Args:
        path: the file.
        state: of tensors, numbers, text, dicts and lists.
        also: a second name for the same content.
        former: a name under which the former content is kept.

    Raises:
        OSError: if it cannot be written; then no half of it is left.
    """

    def fill(file: BinaryIO) -> None:
        with _files.unwrapped():
            torch.save({"kind": KIND, "format": FORMAT, **state}, file)

    _files.write(path, fill, also=also, former=former)
    _files.sync(path.parent)


def finish(path: Path, *, also: Path) -> None:
    """Completes a `write` that a kill broke off after `also` and before `path`; else does nothing.

    Without it `also` would be of a later moment than `path`, and what goes on from `path` would not come to it again.

    Raises:
        OSError: if that fails.
    """
    draft = _files.draft_of(path)
    if draft.exists() and also.exists() and filecmp.cmp(draft, also, shallow=False):
        draft.replace(path)
        _files.sync(path.parent)


def read(path: Path, *, remedy: Callable[[], str] = lambda: AGAIN) -> dict[str, Any]:
    """The state that `write` wrote, and that the folder of shards is whole if it names one.

    Args:
        path: the file.
        remedy: tells the remedy if it is damaged or something else.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else.
        OSError: if it cannot be read.
    """
    try:
        _files.check_file(path)
    except ValueError as error:
        raise ArgumentError("checkpoint", f"{path} must be whole", got=str(error), remedy=remedy()) from None
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
            raise ArgumentError("checkpoint", rule, got="more", remedy=remedy()) from None
        except Exception as error:  # a damaged file may fail in any of the steps of reading it
            reason = str(error).strip().partition("\n")[0]
            got = f"a damaged file ({reason})"
            raise ArgumentError("checkpoint", f"{path} must be whole", got=got, remedy=remedy()) from None
    if broken is not None:
        raise ArgumentError("checkpoint", f"{path} must be whole", got=f"a damaged {broken}", remedy=remedy())
    if not isinstance(state, dict) or state.get("kind") != KIND:
        raise ArgumentError(
            "checkpoint", f"{path} must be one of adabatch's runs", got="something else", remedy=remedy()
        )
    if state.get("format") != FORMAT:
        rule, other = f"{path} must be of format {FORMAT}", "use the version of adabatch that wrote it"
        raise ArgumentError("checkpoint", rule, value=state.get("format"), remedy=other)
    if (folder := shards_in(state, path)) is not None:
        from adabatch._distributed import shards

        try:
            shards.check(folder)
        except ValueError as error:
            raise ArgumentError("checkpoint", f"{path} must be whole", got=str(error), remedy=remedy()) from None
    return state


def shards_in(state: Mapping[str, Any], path: Path) -> Path | None:
    """The folder of shards that the state in the file `path` names; None if it names none.

    Example:
        >>> str(shards_in({"shards": "at-128"}, Path("run/checkpoints/last.pt")))
        'run/checkpoints/at-128'
    """
    name = state.get("shards")
    return path.parent / name if isinstance(name, str) and name.startswith(SHARDS) and Path(name).name == name else None


def shards_of(path: Path) -> Path | None:
    """The folder of shards that a file names; reads no tensors, and takes a damaged file for one that names none."""
    try:
        state = torch.load(path, mmap=True, weights_only=True, map_location="cpu")
        return shards_in(state, path)
    except Exception:  # damaged bytes may fail in any way
        return None


def apart(parts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The parts of a state with tensors of network and optimizer as shape and type alone, and these tensors by name."""
    tensors: dict[str, Tensor] = {}

    def told(value: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            return {key: told(inner, f"{name}.{key}") for key, inner in value.items()}
        if not isinstance(value, Tensor):
            return value
        tensors[name] = value
        return torch.empty(value.shape, dtype=value.dtype, device="meta")

    return {name: told(part, name) if name in _SHARED else part for name, part in parts.items()}, tensors


def joined(
    parts: Mapping[str, Any], folder: Path, *, model: Mapping[str, Tensor], parameters: Sequence[Tensor]
) -> dict[str, Any]:
    """The parts of which `apart` left the shapes, with tensors from `folder`; all ranks call it together.

    Args:
        parts: of the state.
        folder: of the shards, which any number of ranks wrote.
        model: the network's own state, and
        parameters: its parameters in the optimizer's order: tensors of one shape are sharded like these.

    Raises:
        ValueError: if the folder holds others.
    """
    from adabatch._distributed import shards

    tensors: dict[str, Tensor] = {}
    trained = dict(enumerate(parameters))

    def room(value: Any, name: str, like: Tensor | None) -> Any:
        if isinstance(value, Tensor):
            tensors[name] = value = _distributed.room_for(value, like)
        return value

    network = {name: room(value, f"model.{name}", model.get(name)) for name, value in parts["model"].items()}
    moments = {
        number: {name: room(value, f"optimizer.{number}.{name}", trained.get(number)) for name, value in kept.items()}
        for number, kept in parts["optimizer"].items()
    }
    shards.read(folder, tensors)
    return {**parts, "model": network, "optimizer": moments}


def copied(state: Any) -> Any:
    """A deep copy of a state of tensors, numbers, text, dicts and lists.

    Example:
        >>> state = {"weights": torch.ones(2)}
        >>> copied(state)["weights"] is state["weights"]
        False
    """
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {name: copied(value) for name, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list | tuple) else state
