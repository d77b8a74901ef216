"""ImageNet from tiny generated files in both layouts, through a loader with workers and without."""

from __future__ import annotations

import io
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.lab.tasks.images import class_folders, encoded, parquet, pixels

import adabatch as ab
from adabatch.lab import models, tasks
from adabatch.lab.tasks.imagenet import Files, TrainImages, centres, random_box


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


# Crops of images of any size.


class Memory:
    def __init__(self, *images: bytes | None) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, number: int) -> tuple[bytes | None, str]:
        return self.images[number], f"image {number}"


@settings(max_examples=100, deadline=None)
@given(width=st.integers(1, 3000), height=st.integers(1, 3000), seed=st.integers(0, 2**32))
def test_boxes_lie_in_the_image(width: int, height: int, seed: int) -> None:
    random.seed(seed)
    left, top, right, bottom = random_box(width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_boxes_are_distributed_as_the_paper_says() -> None:
    random.seed(1)
    boxes = np.array([random_box(1000, 1000) for _ in range(4000)])
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    ratio = wide / high
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.02)
    area = wide * high / 1e6
    assert area.min() == pytest.approx(0.08, abs=0.01)
    assert area.mean() == pytest.approx(
        0.4777, abs=0.02
    )  # the integral: above 3/4 fewer fit, -ln(area) / ln(4/3) of all
    centre = (boxes[:, 0] + boxes[:, 2]) / 2000
    assert centre.mean() == pytest.approx(0.5, abs=0.02)


def test_boxes_reach_every_edge_and_may_be_as_wide_or_as_high_as_the_image() -> None:
    random.seed(2)
    boxes = np.array([random_box(8, 8) for _ in range(2000)])
    assert boxes.min(0)[:2].tolist() == [0, 0]
    assert boxes.max(0)[2:].tolist() == [8, 8]
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert ((wide == 8) & (high < 8)).any()
    assert ((wide < 8) & (high == 8)).any()
    assert set(map(tuple, boxes[high == 7][:, [1, 3]].tolist())) == {(0, 7), (1, 8)}
    assert set(map(tuple, boxes[wide == 7][:, [0, 2]].tolist())) == {(0, 7), (1, 8)}


@pytest.mark.parametrize(
    ("size", "box"), [((2000, 20), (986, 0, 1013, 20)), ((20, 2000), (0, 986, 20, 1013)), ((1, 1), (0, 0, 1, 1))]
)
def test_images_too_long_for_any_box(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    random.seed(0)
    assert random_box(*size) == box


def test_a_crop_to_train_on_is_that_part_of_the_image() -> None:
    data = TrainImages(Memory(encoded(3, (300, 250))), torch.tensor([4]))
    random.seed(5)
    found, label = data[0]
    random.seed(5)
    box = random_box(300, 250)
    expected = Image.fromarray(pixels(3, (300, 250))).crop(box).resize((224, 224), Image.Resampling.BILINEAR)
    assert np.array_equal(found, np.asarray(expected).transpose(2, 0, 1))
    assert label == 4


def test_centres_are_the_middle_of_the_resized_image() -> None:
    memory = Memory(encoded(0, (512, 1024)), encoded(1, (256, 256)), encoded(2, (100, 37)))
    with ThreadPoolExecutor(2) as pool:
        found = centres(memory, [1, 0, 2], pool=pool)
    assert np.array_equal(found[0], pixels(1, 256)[16:240, 16:240].transpose(2, 0, 1))
    half = Image.fromarray(pixels(0, (512, 1024))).resize((256, 512), Image.Resampling.BILINEAR)
    assert np.array_equal(found[1], np.asarray(half)[144:368, 16:240].transpose(2, 0, 1))
    assert found[2].std() > 0


def test_grey_palette_and_transparent_images_become_colour() -> None:
    images = []
    for mode in ("L", "P", "RGBA", "CMYK", "1", "I;16"):
        file = io.BytesIO()
        Image.fromarray(pixels(0, 64)).convert("L" if mode == "I;16" else mode).save(file, "TIFF")
        images.append(file.getvalue())
    data = TrainImages(Memory(*images), torch.zeros(6))
    assert [data[i][0].shape for i in range(6)] == [(3, 224, 224)] * 6


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, "there is none"),
        (b"", "there is none"),
        (b"text", "cannot identify"),
        (encoded(0, 64)[:-90], "truncated"),
    ],
)
def test_images_that_pillow_refuses_are_named(tmp_path: Path, image: bytes | None, reason: str) -> None:
    message = f"image 0 must hold an image file that can be decoded: .*{reason}"
    with pytest.raises(ValueError, match=message):
        TrainImages(Memory(image), torch.zeros(1))[0]
    with pytest.raises(ValueError, match=message), ThreadPoolExecutor(1) as pool:
        centres(Memory(image), [0], pool=pool)
    (tmp_path / "a.png").write_bytes(image or b"")
    with pytest.raises(ValueError, match=r"a.png must hold an image file"):
        TrainImages(Files(tmp_path, ["a.png"]), torch.zeros(1))[0]
