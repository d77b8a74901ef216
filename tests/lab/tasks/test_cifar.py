"""CIFAR-10 and CIFAR-100 from tiny generated files, their cache, and the real data if they are there."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.lab.tasks.checks import REAL
from tests.lab.tasks.images import cifar, encoded, pixels
from tests.lab.tasks.images import parquet as write

from adabatch.lab import tasks
from adabatch.lab.tasks import cifar as cifar_module
from adabatch.lab.tasks import parquet


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADABATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ADABATCH_DATA", raising=False)
    return tmp_path / "cache"


@pytest.mark.parametrize(("name", "label", "classes"), [("cifar10", "label", 10), ("cifar100", "fine_label", 100)])
def test_reads_the_layout_of_the_hub(tmp_path: Path, name: str, label: str, classes: int) -> None:
    cifar(tmp_path / name, label=label, classes=classes, train=130, test=8)
    data = tasks.get(name).load(tmp_path)
    assert data.x_train.shape == (130, 3, 32, 32)
    assert data.x_train.dtype == torch.uint8
    assert data.y_train.tolist() == [n % classes for n in range(130)]
    assert data.y_test.tolist() == [n % classes for n in range(130, 138)]
    for row, image in ((0, data.x_train[0]), (129, data.x_train[129]), (130, data.x_test[0])):
        assert np.array_equal(image, pixels(row).transpose(2, 0, 1))
    assert data.shape == {"in_channels": 3, "image_size": 32, "classes": classes}
    assert data.note == f"130 to train, 8 to test, from {tmp_path / name}"


def test_inputs_of_a_network(tmp_path: Path) -> None:
    data = tasks.get("cifar10").load(cifar(tmp_path))
    seen = data.train_inputs(data.x_train, seed=1, clock=240)
    assert seen.shape == (24, 3, 32, 32)
    assert torch.equal(seen[3:5], data.train_inputs(data.x_train[3:5], seed=1, clock=243))
    assert not torch.equal(seen, data.train_inputs(data.x_train, seed=1, clock=264))
    red = (data.x_test[:, 0].float() / 255 - 0.4914) / 0.2023
    torch.testing.assert_close(data.test_inputs(data.x_test)[:, 0], red, atol=1e-5, rtol=1e-5)
    moved = data.to("cpu")
    assert torch.equal(moved.train_inputs(moved.x_train, seed=1, clock=240), seen)


def test_the_second_time_nothing_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tasks.get("cifar10").load(cifar(tmp_path))
    monkeypatch.setattr(cifar_module, "Decoder", None)
    monkeypatch.setattr(parquet, "read", None)
    again = tasks.get("cifar10").load(tmp_path)
    assert torch.equal(again.x_train, first.x_train)
    assert torch.equal(again.y_test, first.y_test)


def test_other_content_is_decoded_anew(tmp_path: Path) -> None:
    tasks.get("cifar10").load(cifar(tmp_path))
    images = [encoded(n + 1000) for n in range(24)]
    write(tmp_path / "train-00000-of-00001.parquet", images, [1] * 24)
    data = tasks.get("cifar10").load(tmp_path)
    assert np.array_equal(data.x_train[0], pixels(1000).transpose(2, 0, 1))
    assert data.y_train.unique().tolist() == [1]


def test_several_files_are_one_split(tmp_path: Path) -> None:
    cifar(tmp_path, train=5)
    write(tmp_path / "train-00001-of-00002.parquet", [encoded(500)], [7])
    data = tasks.get("cifar10").load(tmp_path)
    assert data.y_train.tolist() == [0, 1, 2, 3, 4, 7]
    assert np.array_equal(data.x_train[5], pixels(500).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("images", "labels", "columns", "message"),
    [
        ([encoded(0), None], [0, 1], {}, "row 1 of .* must hold an image file that can be decoded: there is none"),
        ([encoded(0)[:60]], [0], {}, "row 0 of .* must hold an image file that can be decoded"),
        ([encoded(0), encoded(1, 31)], [0, 1], {}, "row 1 of .* must be an image of 32x32 in mode RGB, got 31x31"),
        ([encoded(0)], [10], {}, "must have labels from 0 to 9, got 10 in row 0"),
        ([encoded(0)], [-1], {}, "must have labels from 0 to 9, got -1 in row 0"),
        ([encoded(0)], [None], {}, "must have a label in every row, got 1 without one"),
        ([], [], {}, "must have at least one row, got none"),
        ([encoded(0)], [0], {"image": "image"}, r"must have the columns img .* and label .*, got image: struct.*"),
        (
            [encoded(0)],
            [0],
            {"label": "fine_label"},
            r"must have the columns img .* and label .*, got img: struct.*fine",
        ),
    ],
)
def test_bad_files(tmp_path: Path, cache_folder: Path, images, labels, columns, message: str) -> None:
    cifar(tmp_path)
    write(tmp_path / "train-00000-of-00001.parquet", images, labels, **columns)
    with pytest.raises(ValueError, match=message):
        tasks.get("cifar10").load(tmp_path)
    assert not [path for path in cache_folder.glob("*") if path.suffix != ".lock"]


def test_no_parquet_file(tmp_path: Path) -> None:
    cifar(tmp_path)
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(ValueError, match=r"train-00000-of-00001.parquet must be a Parquet file: .*; fetch it again"):
        tasks.get("cifar10").load(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`data` must hold cifar10/train-\*.parquet or train-\*.parquet"):
        tasks.get("cifar10").load(tmp_path)
    cifar(tmp_path)
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"`data` must hold test-\*.parquet"):
        tasks.get("cifar10").load(tmp_path)


def test_a_killed_decode_leaves_no_broken_cache(tmp_path: Path, cache_folder: Path) -> None:
    """A real process is killed while its own processes decode; the next one finds nothing broken."""
    cifar(tmp_path)
    images = [encoded(n) for n in range(40)]
    write(tmp_path / "train-00000-of-00001.parquet", images * 60, [n % 10 for n in range(2400)])
    load = f"tasks.get('cifar10').load({str(tmp_path)!r})"
    code = f"from adabatch.lab import tasks; from adabatch.lab.tasks import decode; decode.FEW = 0; {load}"
    child = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not list(cache_folder.glob(".cifar10-*.draft")):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not list(cache_folder.glob("*.arrays"))
    data = tasks.get("cifar10").load(tmp_path)
    for row in (0, 1199, 1200, 2399):
        assert np.array_equal(data.x_train[row], pixels(row % 40).transpose(2, 0, 1))
    assert not list(cache_folder.glob(".*.draft"))


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "cifar10").is_dir(), reason="no CIFAR-10: set ADABATCH_DATA to a folder that holds it")
def test_real_images() -> None:
    data = tasks.get("cifar10").load(REAL)
    assert data.x_train.shape == (50_000, 3, 32, 32)
    assert torch.bincount(data.y_train).tolist() == [5000] * 10
    assert torch.bincount(data.y_test).tolist() == [1000] * 10
    means = data.x_train.float().mean((0, 2, 3)) / 255
    torch.testing.assert_close(means, torch.tensor([0.4913, 0.4821, 0.4465]), atol=1e-4, rtol=0)
    again = tasks.get("cifar10").load(REAL)
    assert torch.equal(again.x_test, data.x_test)
