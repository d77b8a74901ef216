"""Crops of images of any size."""

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
from tests.lab.tasks.images import encoded, pixels

from adabatch.lab.tasks.image_files import Files, TrainImages, centres, random_box


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
