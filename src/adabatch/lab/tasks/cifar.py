"""CIFAR-10 and CIFAR-100: Parquet files in the layout of the Hugging Face hub, from a folder or downloaded."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Final

import torch

from adabatch.lab.tasks import parquet
from adabatch.lab.tasks.augment import CropFlip
from adabatch.lab.tasks.cache import Arrays, Shapes, arrays
from adabatch.lab.tasks.decode import FEW, Decoder
from adabatch.lab.tasks.task import Data

SPLITS: Final = ("train", "test")
DECODER: Final = "32x32 RGB pixels 1"
SIZE: Final = 32
# The AdaBatch authors' code, for both data sets.
MEAN: Final = (0.4914, 0.4822, 0.4465)
STD: Final = (0.2023, 0.1994, 0.2010)


def load(data: Path | str | None = None, *, name: str, hub: str, label: str, classes: int) -> Data:
    """Reads a data set of 32x32 colour images, decoded once into the cache (see `adabatch.lab.tasks.cache`).

    Args:
        data: the folder with `train-*.parquet` and `test-*.parquet`, or one above that has them in a folder `name`;
            None takes the environment variable ADABATCH_DATA and, when that is not set, downloads.
        name: of the data set's folder.
        hub: name of the data set on the hub.
        label: name of the column of labels.
        classes: number of classes.

    Returns:
        Pixels, uint8 `[samples, 3, 32, 32]`, with a transform: crop of the image padded by 4, flip, normalisation.

    Raises:
        FileNotFoundError: if the folder or the files are missing.
        ValueError: if a file has another layout, or an image or a label is unusable.
        OSError: if the download fails or the cache has too little room.
    """
    folder = parquet.data_folder(data, name=name)
    with ExitStack() as stack:
        source = _Source(folder, stack, hub=hub, label=label, classes=classes)
        found = arrays(name, key=source.key(), shapes=source.shapes, fill=source.fill)
    cut = int(found["train"][0])
    # A copy in memory: the mapped file would be read page by page during the first epoch.
    images, labels = (torch.from_numpy(found[part]).clone() for part in ("images", "labels"))
    return Data(
        x_train=images[:cut],
        y_train=labels[:cut],
        x_test=images[cut:],
        y_test=labels[cut:],
        classes=classes,
        note=f"{cut:,} to train, {len(labels) - cut:,} to test, from {folder or 'the hub: ' + hub}",
        transform=CropFlip(MEAN, STD, image_size=SIZE, classes=classes),
    )


class _Source:
    """Pixels and labels for the cache: the training split, then the test split."""

    def __init__(self, folder: Path | None, stack: ExitStack, *, hub: str, label: str, classes: int) -> None:
        self._folder, self._stack, self._hub, self._label, self._classes = folder, stack, hub, label, classes
        self._files = {split: parquet.files(folder, split=split) for split in SPLITS} if folder is not None else {}

    @cached_property
    def _splits(self) -> list[parquet.Split]:
        return [
            parquet.read(self._folder, split=split, hub=self._hub, image="img", label=self._label) for split in SPLITS
        ]

    def key(self) -> str:
        """A hash of everything that pixels and labels depend on."""
        digest = hashlib.sha256(f"{DECODER} {self._label} {self._classes}".encode())
        for name, files in self._files.items():
            digest.update(name.encode())
            for file in files:
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        for split in () if self._files else self._splits:
            digest.update(str(len(split)).encode())
            for buffer in split.buffers():
                digest.update(buffer)
        return digest.hexdigest()

    def shapes(self) -> Shapes:
        """The shapes of all arrays; starts the decoder first, so that it is ready when it is needed."""
        size = sum(file.stat().st_size for files in self._files.values() for file in files) if self._files else FEW
        self._decoder = self._stack.enter_context(Decoder(size))
        rows = sum(len(split) for split in self._splits)
        return {"images": ("uint8", (rows, 3, SIZE, SIZE)), "labels": ("int64", (rows,)), "train": ("int64", (1,))}

    def fill(self, into: Arrays) -> None:
        """Decodes pixels and labels into arrays of these shapes."""
        train, test = self._splits
        cut = into["train"][0] = len(train)
        into["labels"][:cut], into["labels"][cut:] = train.labels(self._classes), test.labels(self._classes)

        def where(row: int) -> str:
            return train.where(row) if row < cut else test.where(row - cut)

        self._decoder.decode([*train.images(), *test.images()], into["images"], where=where)
