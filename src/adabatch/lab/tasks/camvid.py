"""CamVid: street scenes in which each pixel has a class, from Parquet files in the layout of the Hugging Face hub."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adabatch._errors import ArgumentError
from adabatch.lab.tasks import parquet
from adabatch.lab.tasks.decode import Decoder
from adabatch.lab.tasks.objective import Classification
from adabatch.lab.tasks.task import Data, first_line, needs

SIZE: Final = 72
CLASSES: Final = 11
VOID: Final = 11  # the class number of pixels without a label
_GIVE: Final = "give a folder with the Parquet files of CamVid, columns `image` and `annotation`"


def load(data: Path | str | None = None) -> Data:
    """Reads images and the class of each of their pixels, made small: 72x72, from a centred square.

    Of images with a shorter side of `72 k` pixels or a little more, the square has `72 k`, and each block of `k` by `k`
    pixels becomes one: the mean of the image's, the middle one of the annotation's.

    Args:
        data: the folder with `train-*.parquet` and `test-*.parquet`, or one above that has them in a folder `camvid`;
            None takes the environment variable ADABATCH_DATA.

    Returns:
        The images, normalised by mean and standard deviation of each channel of the training pixels, `[samples, 3, 72,
        72]`; classes from 0 to 10, and 11 for a pixel without a label, `[samples, 72, 72]`. The objective leaves those
        out of the loss, which is still divided by all pixels, and out of the accuracy.

    Raises:
        FileNotFoundError: if no folder is given, or the folder or the files are missing.
        ValueError: if a file has another layout, images differ in size, an annotation has another size than its image,
            a class number is out of range, or no pixel has a label.
    """
    folder = parquet.data_folder(data, name="camvid", remedy=_GIVE)
    if folder is None:
        raise FileNotFoundError(f"`data` must be given for camvid, which is not downloaded, got none; {_GIVE}")
    train, test = (
        parquet.read(folder, split=split, label="annotation", labels_are_images=True) for split in ("train", "test")
    )
    size = _size(train)
    (x_train, y_train), (x_test, y_test) = _reduced(train, *size), _reduced(test, *size)
    mean, std = (of(x_train, dim=(0, 2, 3), keepdim=True) for of in (torch.mean, torch.std))
    std = std.clamp_min(1.0)
    return Data(
        x_train=(x_train - mean) / std,
        y_train=y_train,
        x_test=(x_test - mean) / std,
        y_test=y_test,
        classes=CLASSES,
        note=f"{len(x_train):,} to train, {len(x_test):,} to test, reduced to {SIZE}x{SIZE}, from {folder}",
        objective=Classification(void=VOID),
    )


def _reduced(found: parquet.Split, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Images, float32 from 0 to 255, and classes of a split whose images have this size."""
    images, annotations, many = found.images(), found.images("label"), min(width, height) // SIZE
    x, y = np.empty((len(found), 3, SIZE, SIZE), np.float32), np.empty((len(found), SIZE, SIZE), np.int64)
    image, annotation = (np.empty((channels, height, width), np.uint8) for channels in (3, 1))
    for row in range(len(found)):
        place = found.where(row)
        _decode(images[row], image, place)
        _decode(annotations[row], annotation, place := f"the annotation in {place}")
        if (most := annotation.max()) > VOID:
            raise ArgumentError(None, f"{place} must have class numbers from 0 to {VOID}", got=str(most))
        x[row] = _blocks(image, many).mean((2, 4), dtype=np.float32)
        y[row] = _blocks(annotation, many)[0, :, many // 2, :, many // 2]
    if (y == VOID).all():
        raise ArgumentError(
            None, f"{found.source} must have a pixel with a label in the squares of its images", got="none"
        )
    return torch.from_numpy(x), torch.from_numpy(y)


def _decode(content: bytes | None, pixels: npt.NDArray[np.uint8], place: str) -> None:
    """Decodes an image into `pixels`, `[channels, height, width]`."""
    with Decoder(workers=0) as decoder:
        decoder.decode([content], pixels[None], where=lambda _: place)


def _blocks(pixels: npt.NDArray[np.uint8], many: int) -> npt.NDArray[np.uint8]:
    """The centred square of `[channels, height, width]` as blocks, `[channels, SIZE, many, SIZE, many]`."""
    side = SIZE * many
    top, left = ((length - side) // 2 for length in pixels.shape[1:])
    return pixels[:, top : top + side, left : left + side].reshape(-1, SIZE, many, SIZE, many)


def _size(found: parquet.Split) -> tuple[int, int]:
    """Width and height of the first image."""
    content, where = found.images()[0], found.where(0)
    with needs("decoding images needs pillow"):
        from PIL import Image
    try:
        with Image.open(io.BytesIO(content or b"")) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ArgumentError(None, f"{where} must hold an image file that can be decoded: {first_line(error)}") from None
    if min(width, height) < SIZE:
        raise ArgumentError(None, f"{where} must be an image of at least {SIZE}x{SIZE}", got=f"{width}x{height}")
    return width, height
