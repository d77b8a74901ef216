"""CamVid from tiny generated files, and the real data if they are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.lab.tasks.checks import REAL
from tests.lab.tasks.images import camvid, classes, encoded, pixels, segmented
from tests.lab.tasks.images import parquet as labelled

from adabatch.lab import tasks
from adabatch.lab.tasks.camvid import SIZE, VOID
from adabatch.lab.training import RunConfig, train

TRAIN = "camvid/train-00000-of-00001.parquet"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ADABATCH_DATA", raising=False)
    return camvid(tmp_path, size=(160, 151))  # blocks of 2 by 2, from a square of 144


def test_images_and_classes_of_the_centred_square(folder: Path) -> None:
    data = tasks.get("camvid").load(folder)
    assert (data.x_train.shape, data.x_train.dtype) == ((6, 3, SIZE, SIZE), torch.float32)
    assert (data.y_train.shape, data.y_train.dtype) == ((6, SIZE, SIZE), torch.int64)
    assert data.shape == {"in_channels": 3, "image_size": SIZE, "classes": 11}
    wanted, labels = np.empty((9, 3, SIZE, SIZE)), np.empty((9, SIZE, SIZE))
    for n in range(9):
        image, annotation = (made(n, (160, 151))[3:147, 8:152].astype(float) for made in (pixels, classes))
        corners = [image[top::2, left::2] for top in (0, 1) for left in (0, 1)]
        wanted[n] = (sum(corners) / 4).transpose(2, 0, 1)
        labels[n] = annotation[1::2, 1::2]
    mean, std = wanted[:6].mean((0, 2, 3)), wanted[:6].std((0, 2, 3), ddof=1)
    wanted = (wanted - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(data.x_train, wanted[:6], atol=1e-4)
    np.testing.assert_allclose(data.x_test, wanted[6:], atol=1e-4)
    assert np.array_equal(data.y_train, labels[:6])
    assert np.array_equal(data.y_test, labels[6:])
    assert set(data.y_train.unique().tolist()) == set(range(VOID + 1))


SIZED = (80, 75)


def bad(row_image=None, row_annotation=None, **more):
    """Three rows, of which the second has something else."""
    images, annotations = [pixels(n, SIZED) for n in range(3)], [classes(n, SIZED) for n in range(3)]
    images[1] = images[1] if row_image is None else row_image
    annotations[1] = annotations[1] if row_annotation is None else row_annotation
    return {"images": images, "annotations": annotations, **more}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (bad(pixels(1, (80, 76))), "row 1 of .*train.* must be an image of 80x75 in mode RGB, got 80x76 in mode RGB"),
        (bad(pixels(1, SIZED, channels=1)), "row 1 of .* must be an image of 80x75 in mode RGB, got 80x75 in mode L"),
        (
            bad(None, classes(1, (75, 80))),
            "the annotation in row 1 of .* must be an image of 80x75 in mode L, got 75x80 in mode L",
        ),
        (bad(None, pixels(1, SIZED)), "the annotation in row 1 of .* mode L, got 80x75 in mode RGB"),
        (
            bad(None, np.full(SIZED[::-1], 12, np.uint8)),
            "the annotation in row 1 of .* must have class numbers from 0 to 11, got 12",
        ),
        (bad(b"no image"), "row 1 of .* must hold an image file that can be decoded"),
        (bad(None, b"no image"), "the annotation in row 1 of .* must hold an image file that can be decoded"),
        (
            bad(names=("image", "label")),
            r"must have the columns image \(a struct with bytes\) and annotation \(a struct with bytes\), got image",
        ),
        ({"images": [pixels(0, (71, 90))], "annotations": [classes(0, (71, 90))]}, "at least 72x72, got 71x90"),
        ({"images": [None], "annotations": [classes(0, SIZED)]}, "row 0 of .* must hold an image file that can be"),
        (
            {"images": [pixels(0, SIZED)], "annotations": [np.full(SIZED[::-1], VOID, np.uint8)]},
            "train.* must have a pixel with a label in the squares of its images, got none",
        ),
        ({"images": [], "annotations": []}, "must have at least one row, got none"),
    ],
)
def test_bad_files(folder: Path, found, message: str) -> None:
    segmented(folder / TRAIN, **found)
    with pytest.raises(ValueError, match=message):
        tasks.get("camvid").load(folder)


def test_missing_and_other_files(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`data` must be given for camvid, which is not downloaded, got none"):
        tasks.get("camvid").load(None)
    with pytest.raises(FileNotFoundError, match=r"which holds neither; give a folder with the Parquet files of CamVid"):
        tasks.get("camvid").load(folder.parent)
    (folder / "camvid" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"`data` must hold test-\*.parquet"):
        tasks.get("camvid").load(folder)
    labelled(folder / TRAIN, [encoded(0)], [3], image="image", label="annotation")
    with pytest.raises(ValueError, match=r"annotation \(a struct with bytes\), got image: struct.*, annotation: int64"):
        tasks.get("camvid").load(folder)


def test_void_pixels_count_in_no_accuracy(folder: Path) -> None:
    """Training on whole batches: `test_right` is for targets of samples, chance for labelled pixels."""
    data = tasks.get("camvid").load(folder)
    config = RunConfig.for_task("camvid", batch_size=3, max_batch_size=None, epochs=1, threads=1)
    result = train(config, data=data)
    labelled = data.y_test[data.y_test != VOID]
    assert result.chance == torch.bincount(labelled).max().item() / len(labelled)
    assert round(result.test_accuracy * len(labelled)) / len(labelled) == result.test_accuracy
    assert result.test_right is None


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "camvid").is_dir(), reason="no CamVid: set ADABATCH_DATA to a folder that holds it")
def test_real_images() -> None:
    data = tasks.get("camvid").load(REAL)
    assert (len(data.x_train), len(data.x_test)) == (367, 233)
    shares = torch.bincount(data.y_train.flatten()) / data.y_train.numel()
    published = torch.tensor([0.169, 0.233, 0.010, 0.317, 0.045, 0.097, 0.012, 0.011, 0.059, 0.006, 0.003, 0.040])
    assert shares.argsort(descending=True)[:3].tolist() == [3, 1, 0]
    torch.testing.assert_close(shares, published, atol=0.05, rtol=0)  # of whole images, these are of their squares
