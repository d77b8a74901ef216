"""Files of arrays: there whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from adabatch.lab.tasks import cache

SHAPES = {"images": ("uint8", (5, 3)), "labels": ("int64", (5,)), "none": ("float32", (0, 2))}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADABATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(arrays: cache.Arrays) -> None:
    arrays["images"][:] = np.arange(15).reshape(5, 3)
    arrays["labels"][:] = range(-2, 3)


def forbidden(*_: object) -> None:
    raise AssertionError("made again")


def test_made_once_and_found_again(folder: Path) -> None:
    first = cache.arrays("set", key="ab", shapes=lambda: SHAPES, fill=fill)
    again = cache.arrays("set", key="ab", shapes=forbidden, fill=forbidden)
    for found in (first, again):
        assert found["images"].tolist() == np.arange(15).reshape(5, 3).tolist()
        assert found["labels"].tolist() == [-2, -1, 0, 1, 2]
        assert found["none"].shape == (0, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["set-ab.arrays", "set-ab.lock"]


def test_changes_stay_in_the_process() -> None:
    cache.arrays("set", key="ab", shapes=lambda: SHAPES, fill=fill)["images"][:] = 77
    assert cache.arrays("set", key="ab", shapes=forbidden, fill=forbidden)["images"][0, 0] == 0


def test_another_key_is_another_file() -> None:
    cache.arrays("set", key="ab", shapes=lambda: SHAPES, fill=fill)
    other = cache.arrays("set", key="cd", shapes=lambda: SHAPES, fill=lambda arrays: arrays["labels"].fill(9))
    assert other["labels"].tolist() == [9] * 5


def test_an_error_while_filling_leaves_nothing(folder: Path) -> None:
    def broken(arrays: cache.Arrays) -> None:
        fill(arrays)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.arrays("set", key="ab", shapes=lambda: SHAPES, fill=broken)
    assert [path.name for path in folder.iterdir()] == ["set-ab.lock"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[:-1], "it has 73,727 bytes, not 73,728"),
        (lambda content: content + b"x", "it has 73,729 bytes, not 73,728"),
        (lambda content: content.replace(b'"format": 1', b'"format": 2'), "its format is 2, not 1"),
        (lambda content: b"x" + content[1:], "it is of another kind"),
        (lambda content: content[:40], "it is made anew"),
        (lambda content: b"", "it is of another kind"),
    ],
)
def test_a_cache_of_another_version_or_a_broken_one_is_made_anew(folder: Path, change, reason: str) -> None:
    cache.arrays("set", key="ab", shapes=lambda: SHAPES, fill=fill)
    path = folder / "set-ab.arrays"
    path.write_bytes(change(path.read_bytes()))
    with pytest.warns(UserWarning, match=f"set-ab.arrays is not used: .*{reason}|{reason}"):
        found = cache.arrays("set", key="ab", shapes=lambda: SHAPES, fill=fill)
    assert found["labels"].tolist() == [-2, -1, 0, 1, 2]
    cache.arrays("set", key="ab", shapes=forbidden, fill=forbidden)


def test_too_little_disk_is_said_before_anything_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 2_000_000))
    shapes = {"images": ("uint8", (5_000_000,))}
    with pytest.raises(
        OSError, match=r"must have 5.1 MB of free disk for set-ab.arrays, got 2.0 MB in .*ADABATCH_CACHE"
    ):
        cache.arrays("set", key="ab", shapes=lambda: shapes, fill=forbidden)


def test_a_folder_that_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("ADABATCH_CACHE", str(place))
        with pytest.raises(
            OSError, match=r"the cache folder must be one that can be written, got .*; set ADABATCH_CACHE"
        ):
            cache.arrays("set", key="ab", shapes=lambda: SHAPES, fill=fill)


CHILD = """
import sys, time
from adabatch.lab.tasks import cache
def fill(arrays):
    arrays["x"][:500] = 1
    print("filling", flush=True)
    time.sleep(60)
cache.arrays("set", key="ab", shapes=lambda: {"x": ("uint8", (1000,))}, fill=fill)
"""


def test_a_killed_process_leaves_no_broken_cache(folder: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, env=dict(os.environ))
    assert child.stdout is not None
    assert child.stdout.readline() == b"filling\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert len(list(folder.glob(".*.draft"))) == 1
    assert not list(folder.glob("*.arrays"))
    shapes = {"x": ("uint8", (1000,))}
    found = cache.arrays("set", key="ab", shapes=lambda: shapes, fill=lambda arrays: arrays["x"].fill(3))
    assert (found["x"] == 3).all()
    assert not list(folder.glob(".*.draft"))


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    code = CHILD.replace("time.sleep(60)", f"open({str(tmp_path / 'made')!r}, 'a').write('x'); time.sleep(0.3)")
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) for _ in range(2)]
    deadline = time.monotonic() + 60
    assert [child.wait(deadline - time.monotonic()) for child in children] == [0, 0]
    assert (tmp_path / "made").read_text() == "x"
