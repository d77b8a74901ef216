"""Shards of all ranks in one folder: written aside, read by any number of ranks, and checked."""

from __future__ import annotations

import errno
import os
import pickle
import threading
from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from adabatch import _distributed
from adabatch._distributed import shards

WHOLE = torch.arange(35.0).view(7, 5).double()


def tensors(world):
    """A sharded tensor, one with fewer rows than ranks, and two that all ranks hold."""
    mesh = init_device_mesh("cpu", (world,))
    return {
        "rows": distribute_tensor(WHOLE.clone(), mesh, [Shard(0)]),
        "one": distribute_tensor(torch.ones(1, 2), mesh, [Shard(0)]),
        "all": torch.arange(4.0),
        "step": torch.tensor(3.0),
    }


def empty(like):
    return {name: _distributed.room_for(value, value).fill_(-1) for name, value in like.items()}


def same(found, expected=WHOLE):
    rows = found["rows"]
    rows = rows.full_tensor() if hasattr(rows, "full_tensor") else rows
    return torch.equal(rows, expected) and found["all"].tolist() == [0, 1, 2, 3] and float(found["step"]) == 3


def written(rank, world, *, folder):
    """What is written are the tensors as they were, although they change before the writing begins."""
    mine, go = tensors(world), threading.Event()
    original = shards._Files.write_data
    shards._Files.write_data = lambda *arguments: go.wait(60) and original(*arguments)
    writer = shards.Writer()
    writer.start(folder, mine)
    with torch.no_grad():
        for value in mine.values():
            value.zero_()
    _distributed.gathered(rank)  # collectives of training do not meet those of the writing
    assert writer.busy
    assert not (folder / ".metadata").exists()
    go.set()
    writer.wait()
    assert (folder / ".metadata").exists()
    writer.close()
    shards._Files.write_data = original


def read(rank, world, *, folder):
    found = empty(tensors(world))
    shards.read(folder, found)
    assert same(found)
    for wrong, words in (
        ({"rows": torch.empty(7, 5)}, "must hold rows as torch.float32, got torch.float64"),
        ({"more": torch.empty(7, 5)}, "must hold more as torch.float32, got None"),
    ):
        with pytest.raises(ValueError, match=words):
            shards.read(folder, wrong)
    with pytest.raises(ValueError, match="rows"):
        shards.read(folder, {"rows": torch.empty(5, 5).double()})


def unseen(rank, world, *, folder):
    with pytest.raises(ValueError, match=r"`checkpoint` .* must be there, got none on rank 1; every process must see"):
        shards.read(folder if rank == 0 else folder / "elsewhere", {})


def refused(rank, world, *, folder):
    """The disk of one rank is full: all ranks learn it, and may write again."""
    writer, original = shards.Writer(), os.fsync

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.fsync = full if rank == 1 else original
    writer.start(folder / "full", tensors(world))
    with pytest.raises(OSError, match="No space left"):
        writer.wait()
    os.fsync = original
    assert not (folder / "full" / ".metadata").exists()
    writer.start(folder / "again", tensors(world))
    writer.wait()
    writer.close()
    shards.check(folder / "again")


@pytest.mark.world_size(2)
def patient(rank, world):
    """Ranks wait for a dead one no longer than the world does."""
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=77))
    group = shards.Writer()._group
    assert group._get_backend(torch.device("cpu")).options._timeout == timedelta(seconds=77)


def test_ranks_wait_as_long_as_the_world_does():
    on_ranks(2, patient)


def test_what_ranks_write_any_number_reads(tmp_path):
    on_ranks(2, partial(written, folder=tmp_path / "of 2"), partial(refused, folder=tmp_path))
    shards.check(tmp_path / "of 2")
    alone = {
        "rows": torch.empty(7, 5).double(),
        "one": torch.empty(1, 2),
        "all": torch.empty(4),
        "step": torch.empty(()),
    }
    shards.read(tmp_path / "of 2", alone)
    assert same(alone)
    on_ranks(3, partial(read, folder=tmp_path / "of 2"), partial(unseen, folder=tmp_path / "of 2"))


@pytest.fixture
def folder(tmp_path):
    on_ranks(1, partial(written, folder=tmp_path / "at"))
    return tmp_path / "at"


def test_damaged_folders(folder):
    shards.check(folder)
    metadata, part = folder / ".metadata", folder / "__0_0.distcp"
    contents = {file: file.read_bytes() for file in (metadata, part)}

    def flipped(content):
        middle = content.index(WHOLE.numpy().tobytes()) + 9
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]

    for file, damage, words in (
        (part, lambda content: content[:-1], "File is not a zip file"),
        (part, lambda content: b"", "File is not a zip file"),
        (part, flipped, "data/0"),
        (part, None, "it is missing"),
        (metadata, lambda content: content[:50], ""),
        (metadata, lambda content: pickle.dumps({}), "it describes no tensors"),
        (metadata, None, "it is missing"),
    ):
        file.unlink() if damage is None else file.write_bytes(damage(contents[file]))
        with pytest.raises(ValueError, match=rf"a damaged {file} \(.*{words}.*\)"):
            shards.check(folder)
        file.write_bytes(contents[file])
    shards.check(folder)


def test_code_in_a_folder_is_not_run(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
    for reading in (shards.check, lambda folder: shards.read(folder, {})):
        with pytest.raises(ValueError, match=r"a damaged .*metadata \(it names (posix|nt).mkdir\)"):
            reading(folder)
    assert not (tmp_path / "owned").exists()
    (folder / ".metadata").write_bytes(b"\x80\x04\x8c\x05torch\x8c\x04load\x93.")
    with pytest.raises(ValueError, match=r"it names torch\.load"):
        shards.check(folder)


def test_no_folder_of_this_machine_is_in_it(folder):
    assert str(folder).encode() not in (folder / ".metadata").read_bytes()
