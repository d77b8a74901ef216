"""Parquet files in the hub's layout: their places, their content, and the download from the hub."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.lab.tasks.checks import png, random_set, table, write
from tests.lab.tasks.images import bomb

from adabatch.lab import tasks


@pytest.fixture
def no_variable(monkeypatch):
    monkeypatch.delenv("ADABATCH_DATA", raising=False)


@pytest.fixture
def folder(tmp_path, no_variable):
    """A folder that holds a small `mnist`, in several files."""
    write(tmp_path / "mnist", "train", *random_set(20, seed=0), files=3)
    write(tmp_path / "mnist", "test", *random_set(7, seed=1))
    return tmp_path


def test_missing_folders_and_files(tmp_path, folder, monkeypatch):
    mnist = tasks.get("mnist")
    with pytest.raises(
        FileNotFoundError, match=r"`data` must be a folder, got '.*nowhere', which is none; leave it out"
    ):
        mnist.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"`data` must hold fashion_mnist/train-\*.parquet or train-\*.parquet"):
        tasks.get("fashion_mnist").load(folder)
    monkeypatch.setenv("ADABATCH_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="`ADABATCH_DATA` must be a folder"):
        mnist.load(None)
    (folder / "mnist" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"`data` must hold test-\*.parquet, got .*, which holds none"):
        mnist.load(folder)


def broken(folder: Path, found: pa.Table) -> None:
    """Puts `found` in place of the test split."""
    pq.write_table(found, folder / "mnist" / "test-00000-of-00001.parquet")


IMAGES, LABELS = random_set(5, seed=2)
FILES: list[bytes | None] = [png(image) for image in IMAGES]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            pa.table({"img": [b"x"], "label": [1]}),
            r"must have the columns image \(a struct with bytes\) and label \(whole numbers\), got img: .*, label",
        ),
        (pa.table({"image": [b"x"], "label": [1]}), "must have the columns image .*, got image: binary"),
        (table(FILES, LABELS.tolist()).drop(["label"]), "must have the columns .* label"),
        (
            table(FILES, [0, 1, 10, 3, 4]),
            r"test-00000-of-00001.parquet must have labels from 0 to 9, got 10 in row 2",
        ),
        (table(FILES, [0, 1, 2, 3, -1]), "must have labels from 0 to 9, got -1 in row 4"),
        (table(FILES, [0, None, 2, 3, 4]), "must have a label in every row, got 1 without one"),
        (
            table([*FILES[:3], b"no image", FILES[4]], LABELS.tolist()),
            "row 3 of .* must hold an image file that can be",
        ),
        (table([*FILES[:3], FILES[3][:60], FILES[4]], LABELS.tolist()), "row 3 of .* must hold an image file that can"),
        (
            table([*FILES[:3], bomb(), FILES[4]], LABELS.tolist()),
            "row 3 of .*: Image size .* decompression bomb",
        ),
        (table([*FILES[:3], None, FILES[4]], LABELS.tolist()), "row 3 of .* must hold an image file that can be"),
        (
            table([png(random_set(1, seed=0, size=8)[0][0])], [1]),
            "row 0 of .* must be an image of 28x28 in mode L, got 8x8 in mode L",
        ),
        (
            table([png(np.zeros((28, 28, 3), np.uint8))], [1]),
            "row 0 of .* must be an image of 28x28 in mode L, got 28x28 in mode RGB",
        ),
        (table([], []), "must have at least one row, got none"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_other_layouts_and_unusable_rows(folder, found, message):
    broken(folder, found)
    with pytest.raises(ValueError, match=message):
        tasks.get("mnist").load(folder)


def test_a_file_that_is_no_parquet(folder):
    (folder / "mnist" / "test-00000-of-00001.parquet").write_text("hello")
    with pytest.raises(ValueError, match=r"test-00000-of-00001.parquet must be a Parquet file: .*; fetch it again"):
        tasks.get("mnist").load(folder)


def test_without_a_folder_it_is_downloaded(tmp_path, no_variable, monkeypatch):
    """A folder stands in for the hub, from which `datasets` reads by name."""
    datasets = pytest.importorskip("datasets")
    write(tmp_path / "ylecun" / "mnist", "train", *random_set(20, seed=0))
    write(tmp_path / "ylecun" / "mnist", "test", *random_set(7, seed=1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = tasks.get("mnist").load(None)
    assert torch.equal(data.x_train, tasks.get("mnist").load(tmp_path / "ylecun" / "mnist").x_train)
    assert data.note == "20 to train, 7 to test, from the hub: ylecun/mnist"


def test_a_download_that_fails(tmp_path, no_variable, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(OSError, match=r"could not download zalando-datasets/fashion_mnist: .*; give `data`, a folder"):
        tasks.get("fashion_mnist").load(None)


@pytest.mark.parametrize("name", ["pyarrow", "PIL", "datasets"])
def test_a_missing_package_is_named(folder, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"run: pip install 'adabatch\[data\]'"):
        tasks.get("mnist").load(None if name == "datasets" else folder)
