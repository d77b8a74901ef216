from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys

import pytest
import torch

from adabatch import _files
from adabatch.lab.training import checkpoint


def test_what_is_written_is_read(tmp_path):
    state = {"weights": torch.arange(5.0), "count": 3, "names": ["a"], "nested": {"x": (1, 2.5)}}
    checkpoint.write(tmp_path / "last.pt", state, also=tmp_path / "best.pt")
    for name in ("last.pt", "best.pt"):
        read = checkpoint.read(tmp_path / name)
        assert torch.equal(read["weights"], state["weights"])
        assert (read["count"], read["names"], read["nested"]) == (3, ["a"], {"x": (1, 2.5)})
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt"]


def test_the_second_name_stays_when_the_first_changes(tmp_path):
    checkpoint.write(tmp_path / "last.pt", {"count": 1}, also=tmp_path / "best.pt")
    checkpoint.write(tmp_path / "last.pt", {"count": 2})
    assert checkpoint.read(tmp_path / "best.pt")["count"] == 1
    assert checkpoint.read(tmp_path / "last.pt")["count"] == 2


def no_links(*_):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def test_where_a_file_has_one_name_only(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    checkpoint.write(tmp_path / "last.pt", {"count": 1}, also=tmp_path / "best.pt")
    checkpoint.write(tmp_path / "last.pt", {"count": 2})
    assert checkpoint.read(tmp_path / "best.pt")["count"] == 1
    checkpoint.write(tmp_path / "last.pt", {"count": 3}, also=tmp_path / "best.pt")
    assert [checkpoint.read(tmp_path / name)["count"] for name in ("last.pt", "best.pt")] == [3, 3]
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt"]


def test_a_disk_that_fills_up_while_it_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    checkpoint.write(tmp_path / "last.pt", {"count": 1}, also=tmp_path / "best.pt")

    def full(source, file):
        file.write(source.read(10))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(tmp_path / "last.pt", {"count": 2}, also=tmp_path / "best.pt")
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt"]
    assert [checkpoint.read(tmp_path / name)["count"] for name in ("last.pt", "best.pt")] == [1, 1]


def test_a_draft_of_a_killed_run_is_no_hindrance(tmp_path):
    (tmp_path / ".last.pt.draft").write_bytes(b"half")
    (tmp_path / ".best.pt.draft").write_bytes(b"half")
    checkpoint.write(tmp_path / "last.pt", {"count": 1}, also=tmp_path / "best.pt")
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt"]


def test_when_writing_fails_the_former_file_stays_and_no_half_one(tmp_path):
    checkpoint.write(tmp_path / "last.pt", {"count": 1})
    with pytest.raises(Exception, match=r"pickle|get local object"):
        checkpoint.write(tmp_path / "last.pt", {"weights": torch.zeros(9999), "bad": lambda: None})
    assert os.listdir(tmp_path) == ["last.pt"]
    assert checkpoint.read(tmp_path / "last.pt")["count"] == 1


def test_a_full_disk_is_an_error_of_the_file_system(tmp_path):
    """A limit on the size of files stands for a disk that fills up while the file is written."""
    code = (
        "import sys, resource, torch; from pathlib import Path; from adabatch.lab.training import checkpoint\n"
        "path = Path(sys.argv[1]); checkpoint.write(path, {'count': 1})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "try: checkpoint.write(path, {'weights': torch.zeros(100_000)})\n"
        "except OSError as error: print('refused', checkpoint.read(path)['count'])\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "last.pt"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "refused 1\n"
    assert os.listdir(tmp_path) == ["last.pt"]


def damages() -> dict[str, object]:
    def flip(content: bytes) -> bytes:
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]

    return {
        "empty": lambda content: b"",
        "cut": lambda content: content[: len(content) // 2],
        "one bit": flip,
        "text": lambda content: b"hello",
    }


@pytest.mark.parametrize("name", damages())
def test_damaged_files(tmp_path, name):
    path = tmp_path / "last.pt"
    checkpoint.write(path, {"weights": torch.zeros(10_000)})
    path.write_bytes(damages()[name](path.read_bytes()))
    with pytest.raises(
        ValueError, match=r"`checkpoint` .*last.pt must be whole, got a damaged .*; remove the run folder"
    ):
        checkpoint.read(path)


def test_foreign_files(tmp_path):
    path = tmp_path / "last.pt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="must be one of adabatch's runs, got something else"):
        checkpoint.read(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="must be one of adabatch's runs, got something else"):
        checkpoint.read(path)
    torch.save({"kind": checkpoint.KIND, "format": 99}, path)
    with pytest.raises(ValueError, match="must be of format 2, got 99; use the version of adabatch that wrote it"):
        checkpoint.read(path)
    torch.save({"kind": checkpoint.KIND, "format": 1, "history": []}, path)  # which held all evaluations
    with pytest.raises(ValueError, match="must be of format 2, got 1; use the version of adabatch that wrote it"):
        checkpoint.read(path)


def test_code_in_a_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"kind": checkpoint.KIND, "format": 2, "evil": Evil()}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="must hold tensors, numbers and text alone, got more; remove"):
        checkpoint.read(tmp_path / "last.pt")
    assert not (tmp_path / "owned").exists()


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.read(tmp_path / "last.pt")


def test_what_is_no_file_is_said_and_nothing_waits(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, words in (("folder", "a folder"), ("pipe", "a pipe"), ("device", "a device")):
        path = tmp_path / name
        with pytest.raises(
            ValueError, match=rf"`checkpoint` {path} must be whole, got {words} in place of a file; remove"
        ):
            checkpoint.read(path)


def test_the_remedy_is_the_callers(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"got a damaged file \(.*\); take the other one$"):
        checkpoint.read(tmp_path / "last.pt", remedy=lambda: "take the other one")


def test_a_second_name_for_one_file_stays_one(tmp_path):
    checkpoint.write(tmp_path / "last.pt", {"count": 1}, also=tmp_path / "best.pt")
    _files.name_also(tmp_path / "best.pt", tmp_path / "last.pt")
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt"]
    checkpoint.write(tmp_path / "last.pt", {"count": 2})
    _files.name_also(tmp_path / "best.pt", tmp_path / "last.pt")
    assert checkpoint.read(tmp_path / "last.pt")["count"] == 1
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt"]


def test_where_a_folder_cannot_be_opened_as_on_windows(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    checkpoint.write(tmp_path / "last.pt", {"count": 1})
    monkeypatch.undo()
    assert checkpoint.read(tmp_path / "last.pt")["count"] == 1
