"""ImageNet from tiny generated files in both layouts, through a loader with workers and without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.lab.tasks.images import class_folders, encoded, parquet

import adabatch as ab
from adabatch.lab import models, tasks


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADABATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ADABATCH_DATA", raising=False)


def hub(folder: Path) -> Path:
    for split, count in (("train", 9), ("validation", 5)):
        images = [encoded(n, (40 + n, 60), kind="JPEG") for n in range(count)]
        parquet(folder / f"{split}-00000-of-00001.parquet", images, [n % 3 for n in range(count)], image="image")
    return folder


LAYOUTS = {"class folders": (class_folders, 12, 6), "hub": (hub, 9, 5)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_layouts(tmp_path: Path, layout: str) -> None:
    make, train, test = LAYOUTS[layout]
    make(tmp_path / "imagenet")
    data = tasks.get("imagenet").load(tmp_path)
    assert (len(data.dataset), len(data.x_test), data.classes) == (train, test, 3)
    assert sorted(data.y_train.tolist()) == sorted([0, 1, 2] * (train // 3))
    assert data.shape == {"in_channels": 3, "image_size": 224, "classes": 3}
    image, label = data.dataset[train - 1]
    assert image.shape == (3, 224, 224)
    assert label == data.y_train[train - 1] == 2
    inputs = data.test_inputs(data.x_test[2:5])
    assert inputs.shape == (3, 3, 224, 224)
    assert torch.equal(inputs, data.test_inputs(data.x_test)[2:5])
    assert data.to("cpu").x_test.device.type == "cpu"
    assert f"{train} to train, {test} to test" in data.note


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_trains_and_what_is_random_belongs_to_the_position(tmp_path: Path, layout: str) -> None:
    data = tasks.get("imagenet").load(LAYOUTS[layout][0](tmp_path))

    def epoch(batch_size: int, seed: int = 3, workers: int = 0) -> torch.Tensor:
        loader = ab.DataLoader(data.dataset, batch_size, shuffle=True, seed=seed, num_workers=workers)
        clock, seen = 0, []
        for inputs, _ in loader:
            seen.append(data.train_inputs(inputs, seed=seed, clock=clock))
            clock += len(inputs)
        return torch.cat(seen)

    whole = epoch(9)
    assert torch.equal(whole, epoch(4))
    assert torch.equal(whole, epoch(2, workers=2))
    assert not torch.equal(whole, epoch(9, seed=4))
    model = models.build("alexnet", **data.shape)
    scores = model(whole[:2])
    assert scores.shape == (2, 3)


def test_part_of_the_training_set(tmp_path: Path) -> None:
    from dataclasses import replace

    data = tasks.get("imagenet").load(class_folders(tmp_path))
    few = replace(data, x_train=data.x_train[4:7], y_train=data.y_train[4:7])
    assert [int(few.dataset[i][1]) for i in range(3)] == [1, 1, 1]


def test_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`data` must be a folder, got '.*nowhere', which is none"):
        tasks.get("imagenet").load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"`data` must hold train-\*.parquet or train with a folder of images"):
        tasks.get("imagenet").load(tmp_path)
    class_folders(tmp_path)
    (tmp_path / "val").rename(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match=r"`data` must hold a folder val or validation, got .* has neither"):
        tasks.get("imagenet").load(tmp_path)
    (tmp_path / "other").rename(tmp_path / "validation")
    assert tasks.get("imagenet").load(tmp_path).classes == 3


def test_class_folders_that_cannot_be_used(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / "train" / "n0009").mkdir()
    with pytest.raises(ValueError, match=r"train/n0009 must hold images \(.*\), got none; remove the folder or fetch"):
        tasks.get("imagenet").load(tmp_path)
    (tmp_path / "train" / "n0009").rename(tmp_path / "val" / "n0009")
    with pytest.raises(ValueError, match=r"val must hold classes of .*train, got n0009 besides"):
        tasks.get("imagenet").load(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_folder_without_images_but_with_other_files(tmp_path: Path, split: str) -> None:
    class_folders(tmp_path)
    place = tmp_path / split / "n0001"
    (place / "readme.txt").write_text("no image")
    (place / "0.JPEG").rename(place / "0.jPg")
    count = len(list(place.iterdir()))
    data = tasks.get("imagenet").load(tmp_path)
    labels = data.y_train if split == "train" else data.y_test
    assert int((labels == 1).sum()) == count - 1
    for file in place.iterdir():
        if file.name != "readme.txt":
            file.unlink()
    with pytest.raises(ValueError, match=rf"{split}/n0001 must hold images \(.*\.jpg.*\), got none; remove the folder"):
        tasks.get("imagenet").load(tmp_path)


def test_one_class_only(tmp_path: Path) -> None:
    class_folders(tmp_path, classes=1)
    with pytest.raises(ValueError, match="must hold a folder for each of at least 2 classes, got 1"):
        tasks.get("imagenet").load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1, 7]}, r"validation-\*.parquet must have labels from 0 to 2, got 7 in row 2"),
        ({"labels": [0, None, 1]}, "must have a label in every row, got 1 without one"),
        ({"image": "img"}, "must have the columns image .* and label .*, got img: struct"),
        ({"labels": []}, "must have at least one row, got none"),
    ],
)
def test_parquet_files_that_cannot_be_used(tmp_path: Path, change: dict, message: str) -> None:
    hub(tmp_path)
    labels = change.get("labels", [0, 1, 2])
    images = [encoded(n, 50) for n in range(len(labels))]
    parquet(tmp_path / "validation-00000-of-00001.parquet", images, labels, image=change.get("image", "image"))
    with pytest.raises(ValueError, match=message):
        tasks.get("imagenet").load(tmp_path)


def test_labels_that_are_missing_throughout(tmp_path: Path) -> None:
    hub(tmp_path)
    parquet(tmp_path / "train-00000-of-00001.parquet", [encoded(n, 50) for n in range(3)], [None] * 3, image="image")
    with pytest.raises(ValueError, match=r"train-\*.parquet must have a label in every row, got 3 without one"):
        tasks.get("imagenet").load(tmp_path)


def test_no_parquet_file(tmp_path: Path) -> None:
    hub(tmp_path)
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ValueError, match=r"train-00000-of-00001.parquet must be a Parquet file: .*; fetch it again"):
        tasks.get("imagenet").load(tmp_path)


def test_a_broken_image_is_named_when_its_turn_comes(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / "train" / "n0001" / "2.JPEG").write_bytes(b"no image")
    data = tasks.get("imagenet").load(tmp_path)
    with pytest.raises(ValueError, match=r"n0001/2.JPEG must hold an image file that can be decoded"):
        for _ in ab.DataLoader(data.dataset, 4, seed=0):
            pass
