"""Images of any size, read from disk one by one: random resized crops to train on, centre crops to evaluate on."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from adabatch._errors import ArgumentError, MissingPackageError
from adabatch.lab.tasks.parquet import first_line

if TYPE_CHECKING:
    from torch import Tensor

SIZE: Final = 224  # of a crop
SHORTER_SIDE: Final = 256  # to which an image is resized before its centre is cut out
SCALE: Final = (0.08, 1.0)
RATIO: Final = (3 / 4, 4 / 3)
TRIES: Final = 10


class Encoded(Protocol):
    """Image files by number."""

    def __len__(self) -> int: ...

    def read(self, number: int) -> tuple[bytes | None, str]:
        """One image file, and what to call it in an error."""


class Rows:
    """The rows of a data set of the package datasets.

    Args:
        rows: its column `image` undecoded.
        source: what to call it in an error.
    """

    def __init__(self, rows: Any, source: str) -> None:
        self._rows, self._source = rows, source

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, number: int) -> tuple[bytes | None, str]:
        """One image file, and what to call it in an error."""
        return self._rows[number]["image"]["bytes"], f"row {number} of {self._source}"


class Files:
    """Files of a folder.

    Args:
        folder: that they lie in.
        names: of the files, relative to it.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self._names = str(folder), np.array(names)  # not a list: workers would copy it page by page

    def __len__(self) -> int:
        return len(self._names)

    def read(self, number: int) -> tuple[bytes | None, str]:
        """One image file, and what to call it in an error."""
        path = Path(self._folder, str(self._names[number]))
        return path.read_bytes(), str(path)


class TrainImages:
    """Random resized crops with their classes, for a loader with workers.

    What is random comes from python's generator, which the loader sets from (seed, epoch, position) for each sample.

    Args:
        encoded: the image files.
        labels: their classes, int64 `[images]`.
    """

    def __init__(self, encoded: Encoded, labels: Tensor) -> None:
        self._encoded, self._labels = encoded, labels

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Pixels, uint8 `[3, 224, 224]`, and the class."""
        import torch

        content, where = self._encoded.read(number)
        return torch.from_numpy(_pixels(content, where, train=True)), self._labels[number]


def centres(encoded: Encoded, numbers: Sequence[int], *, pool: ThreadPoolExecutor) -> npt.NDArray[np.uint8]:
    """Centre crops, uint8 `[images, 3, 224, 224]`, decoded by the threads of `pool`.

    Args:
        encoded: the image files.
        numbers: which of them.
        pool: its threads decode; pillow works beside the interpreter's lock.
    """
    found = np.empty((len(numbers), 3, SIZE, SIZE), dtype=np.uint8)

    def one(place: int) -> None:
        content, where = encoded.read(numbers[place])
        found[place] = _pixels(content, where, train=False)

    list(pool.map(one, range(len(numbers))))
    return found


def _pixels(content: bytes | None, where: str, *, train: bool) -> npt.NDArray[np.uint8]:
    """One crop, `[3, 224, 224]`."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            None, "decoding images needs pillow", remedy="run: pip install 'adabatch[data]'"
        ) from error
    try:
        with Image.open(io.BytesIO(content or b"")) as image:
            rgb = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = first_line(error) if content else "there is none"
        raise ArgumentError(None, f"{where} must hold an image file that can be decoded: {reason}") from None
    width, height = rgb.size
    bilinear = Image.Resampling.BILINEAR
    if train:
        crop = rgb.crop(random_box(width, height)).resize((SIZE, SIZE), bilinear)
    else:
        scale = SHORTER_SIDE / min(width, height)
        width, height = max(SHORTER_SIDE, int(width * scale)), max(SHORTER_SIDE, int(height * scale))
        left, top = round((width - SIZE) / 2), round((height - SIZE) / 2)
        crop = rgb.resize((width, height), bilinear).crop((left, top, left + SIZE, top + SIZE))
    return np.ascontiguousarray(np.asarray(crop).transpose(2, 0, 1))


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """A random part of an image: left, top, right and bottom in pixels.

    Its area is uniform in 8 % to 100 % of the image's, the logarithm of its aspect ratio uniform from 3/4 to 4/3; after
    ten that do not fit it is the largest centred part whose aspect ratio is allowed.

    Args:
        width: of the image in pixels.
        height: of the image in pixels.

    Example:
        >>> random.seed(0)
        >>> random_box(500, 400)
        (26, 1, 472, 385)

    Source: Szegedy et al., 2014, 1409.4842, section 6, as AdaBatch's code trains ImageNet.
    """
    for _ in range(TRIES):
        area = random.uniform(*SCALE) * width * height
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = random.randint(0, width - wide), random.randint(0, height - high)
            return left, top, left + wide, top + high
    wide = min(width, max(1, round(height * RATIO[1])))
    high = min(height, max(1, round(width / RATIO[0])))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high
