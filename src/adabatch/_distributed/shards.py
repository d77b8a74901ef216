"""Tensors of all ranks in one folder, by torch.distributed.checkpoint: each rank writes its own part of them."""

from __future__ import annotations

import gc
import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Final, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from adabatch import _files
from adabatch._distributed import gathered, is_together
from adabatch._errors import ArgumentError

_METADATA: Final = ".metadata"
_ROOM: Final = "torch.distributed.checkpoint."
# All that torch writes into the metadata: records, and the names of types and layouts.
_HARMLESS: Final = {
    *((f"{_ROOM}metadata", name) for name in ("Metadata", "TensorStorageMetadata", "TensorProperties")),
    *((f"{_ROOM}metadata", name) for name in ("ChunkStorageMetadata", "MetadataIndex", "StorageMeta")),
    *((f"{_ROOM}metadata", name) for name in ("_MEM_FORMAT_ENCODING", "BytesStorageMetadata")),
    (f"{_ROOM}filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
}


def _patience() -> timedelta:
    """How long ranks wait for each other in the world; torch would let a further group wait half an hour."""
    world = cast("Any", dist.group.WORLD)
    backend = world._get_backend(world._device_types[0])  # noqa: SLF001, torch has no other way to ask
    patience: timedelta = backend.options._timeout  # noqa: SLF001, likewise
    return patience


class Writer:
    """Writes tensors into folders while training goes on. All ranks make one and call it together.

    It has a process group of its own, so that what its thread sends does not mix with what training sends.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo", timeout=_patience())
        self._stager: DefaultStager | None = None
        self._writing: Future[Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether a folder is still being written; only this rank's part of it is looked at."""
        return self._writing is not None and not self._writing.done()

    def start(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Copies the tensors and begins to write them; `wait` must have been called for the folder before."""
        self._stager = DefaultStager(StagingOptions(*[False] * 4))  # torch 2.11 closes it, so it serves once
        self._writing = cast(
            "Future[Any]",
            async_save(
                dict(tensors), storage_writer=_Files(folder), process_group=self._group, async_stager=self._stager
            ),
        )

    def wait(self) -> None:
        """Waits until the folder is written by all ranks.

        Raises:
            Exception: of the first rank that failed.
        """
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                _done(writing.result)
        finally:
            self._close_stager()

    def close(self) -> None:
        """Waits for what is being written, whatever becomes of it, and leaves the group."""
        with suppress(Exception):
            self.wait()
        self._close_stager()
        gc.collect()
        if is_together():
            dist.destroy_process_group(self._group)

    def _close_stager(self) -> None:
        if self._stager is not None:
            self._stager.close()
            self._stager = None


def check(folder: Path) -> None:
    """Reads all that is in a folder, in this process alone.

    Raises:
        ValueError: if something is damaged or missing; names it.
    """
    places = sorted(
        (place.relative_path, place.offset, place.length) for place in _metadata(folder).storage_data.values()
    )
    for name, parts in groupby(places, key=lambda place: place[0]):
        try:
            with (folder / name).open("rb") as file:
                for _, offset, length in parts:
                    file.seek(offset)
                    with zipfile.ZipFile(io.BytesIO(file.read(length))) as archive:
                        if (broken := archive.testzip()) is not None:
                            raise zipfile.BadZipFile(broken)
        except (OSError, zipfile.BadZipFile) as error:
            reason = "it is missing" if isinstance(error, FileNotFoundError) else str(error)
            raise ArgumentError(None, f"a damaged {folder / name} ({reason})") from None


def read(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fills tensors, whole or sharded, from a folder that any number of ranks wrote; all ranks call it together.

    Raises:
        ValueError: if the folder lacks one of them, or has one of another shape or type; or if a rank does not see it.
    """
    blind = [rank for rank, sees in enumerate(gathered((folder / _METADATA).is_file())) if not sees]
    if blind:
        remedy = "every process must see the run folder"
        raise ArgumentError("checkpoint", f"{folder} must be there", got=f"none on rank {blind[0]}", remedy=remedy)
    found = _metadata(folder).state_dict_metadata
    for name, tensor in tensors.items():
        kind = getattr(getattr(found.get(name), "properties", None), "dtype", None)
        if kind != tensor.dtype:
            raise ArgumentError("checkpoint", f"{folder} must hold {name} as {tensor.dtype}", got=f"{kind}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        _done(lambda: load(tensors, storage_reader=_Reader(folder), no_dist=not is_together()))


def _done(work: Any) -> None:
    """Does the work; torch wraps the errors of all ranks, of which the first is raised."""
    try:
        work()
    except CheckpointException as wrapped:
        error, _ = next(iter(wrapped.failures.values()))
        if not isinstance(error, Exception):
            raise RuntimeError(str(error)) from None
        raise error from None


class _Files(FileSystemWriter):
    """torch's writer of files, with the system's own errors and without names of folders of this machine."""

    def write_data(self, plan: Any, planner: Any) -> Any:
        with _files.unwrapped():
            return super().write_data(plan, planner)

    def finish(self, metadata: Metadata, results: list[list[Any]]) -> None:
        super().finish(metadata, results)
        _files.sync(Path(self.path))

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()


class _Reader(FileSystemReader):
    """torch's reader of files, which runs no code that a damaged or foreign file may name."""

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        return _metadata(Path(self.path))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HARMLESS or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _metadata(folder: Path) -> Metadata:
    """The description of a folder's tensors."""
    file = folder / _METADATA
    try:
        _files.check_file(file)
        with file.open("rb") as opened:
            found = _Unpickler(opened).load()
        if not isinstance(found, Metadata) or not found.storage_data:
            raise ValueError("it describes no tensors")
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes may fail in any way
        reason = "it is missing" if isinstance(error, FileNotFoundError) else str(error).strip().partition("\n")[0]
        raise ArgumentError(None, f"a damaged {file} ({reason})") from None
    return found
