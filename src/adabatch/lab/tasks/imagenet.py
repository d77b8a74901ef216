"""ImageNet: Parquet files in the layout of the Hugging Face hub, or a folder of class folders; read from disk.

Images of any size are decoded one by one: random resized crops to train on, centre crops to evaluate on.
"""

from __future__ import annotations

import io
import math
import os
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adabatch._errors import ArgumentError
from adabatch.lab.tasks import parquet
from adabatch.lab.tasks.augment import CropFlip
from adabatch.lab.tasks.decode import cores
from adabatch.lab.tasks.task import Data, first_line, needs

HUB: Final = "ILSVRC/imagenet-1k"
VALIDATION: Final = ("validation", "val")  # names of the folder of class folders
SUFFIXES: Final = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")  # of images
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
SIZE: Final = 224  # of a crop
SHORTER_SIDE: Final = 256  # after an image is resized, before its centre is cut out
SCALE: Final = (0.08, 1.0)
RATIO: Final = (3 / 4, 4 / 3)
TRIES: Final = 10


def load(data: Path | str | None = None) -> Data:
    """Finds the images; they are decoded when they are needed.

    Args:
        data: a folder with `train-*.parquet` and `validation-*.parquet`, or with `train` and `val` (or `validation`)
            that hold a folder of images for each class; or one above, whose folder `imagenet` is like that. None takes
            the environment variable ADABATCH_DATA and, when that is not set, downloads.

    Returns:
        Indices of images, with a data set that reads them and a transform.

    Raises:
        FileNotFoundError: if the folder or the files are missing.
        ValueError: if a file has another layout, or a label or a class folder is unusable.
        OSError: if the download fails or there is too little room to unpack Parquet files.
    """
    what = "train-*.parquet or train with a folder of images for each class, directly or in a folder imagenet"
    folder = parquet.data_folder(data, name="imagenet", fits=_fits, what=what)
    if folder is not None and (folder / "train").is_dir():
        train, test, classes = _class_folders(folder)
    else:
        train, test, classes = _hub(folder)
    labels = torch.as_tensor(train[1])
    normalise = CropFlip(MEAN, STD, image_size=SIZE, classes=classes, padding=0)
    return Data(
        x_train=torch.arange(len(train[0])),
        y_train=labels,
        x_test=torch.arange(len(test[0])),
        y_test=torch.as_tensor(test[1]),
        classes=classes,
        note=f"{len(train[0]):,} to train, {len(test[0]):,} to test, from {folder or 'the hub: ' + HUB}",
        transform=FromFiles(test[0], normalise),
        files=TrainImages(train[0], labels),
    )


def _fits(place: Path) -> bool:
    """Whether a folder holds the data set, in either layout."""
    return (place / "train").is_dir() or parquet.holds(place)


_Split = tuple["Encoded", Any]


def _class_folders(folder: Path) -> tuple[_Split, _Split, int]:
    """Training and test images with labels, and the number of classes, from folders of class folders."""
    places = [folder / name for name in VALIDATION if (folder / name).is_dir()]
    if not places:
        raise FileNotFoundError(f"`data` must hold a folder val or validation, got {str(folder)!r}, which has neither")
    classes = _names(folder / "train")
    if len(classes) < 2:
        raise ArgumentError(
            None, f"{folder / 'train'} must hold a folder for each of at least 2 classes", value=len(classes)
        )
    unknown = sorted(set(_names(places[0])) - set(classes))
    if unknown:
        raise ArgumentError(
            None, f"{places[0]} must hold classes of {folder / 'train'}", got=f"{', '.join(unknown[:5])} besides"
        )
    splits = []
    for place in (folder / "train", places[0]):
        names: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            if place != folder / "train" and not (place / name).is_dir():
                continue
            with os.scandir(place / name) as entries:
                found = sorted(entry.name for entry in entries if entry.is_file() and _is_image(entry.name))
            if not found:
                raise ArgumentError(
                    None,
                    f"{place / name} must hold images ({', '.join(SUFFIXES)})",
                    got="none",
                    remedy="remove the folder or fetch it again",
                )
            names += [f"{name}/{file}" for file in found]
            labels += [label] * len(found)
        if not names:
            raise ArgumentError(None, f"{place} must hold a folder of images for each class", got="none")
        splits.append((Files(place, names), labels))
    return splits[0], splits[1], len(classes)


def _is_image(name: str) -> bool:
    """Whether a file is taken for an image, by its name."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _names(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _hub(folder: Path | None) -> tuple[_Split, _Split, int]:
    """Training and test images with labels, and the number of classes, from the hub's layout."""
    found = {split: parquet.hub_split(folder, split=split, hub=HUB) for split in ("train", "validation")}
    names = getattr(found["train"].features["label"], "names", None)
    classes = len(names) if names else 0
    splits = []
    for split, rows in found.items():
        source = f"{HUB}, split {split}" if folder is None else f"{folder / split}-*.parquet"
        if not len(rows):
            raise ArgumentError(None, f"{source} must have at least one row", got="none")
        column = rows.data.column("label")
        if split == "train" and not names:
            classes = max(2, 1 + max((label for label in column.to_pylist() if label is not None), default=0))
        labels = parquet.checked_labels(column, source=source, classes=classes)
        splits.append((Rows(rows, source), labels))
    return splits[0], splits[1], classes


class Encoded(Protocol):
    """Image files by index."""

    def __len__(self) -> int: ...

    def read(self, number: int) -> tuple[bytes | None, str]:
        """One image file, and what to call it in an error."""


class Rows:
    """The rows of a data set of the package datasets."""

    def __init__(self, rows: Any, source: str) -> None:
        self._rows, self._source = rows, source

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, number: int) -> tuple[bytes | None, str]:
        """One image file, and what to call it in an error."""
        return self._rows[number]["image"]["bytes"], f"row {number} of {self._source}"


class Files:
    """Files of a folder."""

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

    They are drawn from Python's generator, which the loader seeds from (seed, epoch, position) for each sample.
    """

    def __init__(self, encoded: Encoded, labels: Tensor) -> None:
        self._encoded, self._labels = encoded, labels

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Pixels, uint8 `[3, 224, 224]`, and the class."""
        content, where = self._encoded.read(number)
        return torch.from_numpy(_pixels(content, where, train=True)), self._labels[number]


def centres(encoded: Encoded, numbers: Sequence[int], *, pool: ThreadPoolExecutor) -> npt.NDArray[np.uint8]:
    """Centre crops, uint8 `[images, 3, 224, 224]`, decoded by the threads of `pool`."""
    found = np.empty((len(numbers), 3, SIZE, SIZE), dtype=np.uint8)

    def one(place: int) -> None:
        content, where = encoded.read(numbers[place])
        found[place] = _pixels(content, where, train=False)

    list(pool.map(one, range(len(numbers))))
    return found


def _pixels(content: bytes | None, where: str, *, train: bool) -> npt.NDArray[np.uint8]:
    """A random crop to train on, else the centre crop, `[3, 224, 224]`."""
    with needs("decoding images needs pillow"):
        from PIL import Image
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

    Its area is uniform from 8 % to 100 % of the image's, its aspect ratio log-uniform from 3/4 to 4/3. After ten draws
    that do not fit, it is the largest centred part with an allowed aspect ratio.

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


@dataclass(frozen=True)
class FromFiles:
    """Flips and normalises crops from a loader; reads test images by index."""

    encoded: Encoded
    normalise: CropFlip
    device: Any = "cpu"
    on_device: bool = field(default=False, init=False)

    @property
    def shape(self) -> Mapping[str, int]:
        """The arguments of `models.build` that describe the inputs."""
        return self.normalise.shape

    def to(self, device: Any) -> FromFiles:
        """The same transform with results on `device`."""
        return replace(self, device=device)

    def train(self, inputs: Tensor, *, seed: int, clock: int, stride: int = 1) -> Tensor:
        """Crops, uint8 `[batch, 3, 224, 224]`, flipped at random and normalised."""
        moved = inputs.to(self.device, non_blocking=True)
        return self.normalise.train(moved, seed=seed, clock=clock, stride=stride)

    def test(self, inputs: Tensor) -> Tensor:
        """The normalised centre crops of the images with these indices."""
        with ThreadPoolExecutor(cores()) as pool:
            pixels = centres(self.encoded, inputs.tolist(), pool=pool)
        return self.normalise.test(torch.from_numpy(pixels).to(self.device))
