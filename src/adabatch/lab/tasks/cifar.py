"""CIFAR-10 and CIFAR-100: Parquet files in the layout of the Hugging Face hub, from a folder or downloaded."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from adabatch._errors import ArgumentError
from adabatch.lab.tasks.task import Data, Task

if TYPE_CHECKING:
    from adabatch.lab.tasks import cache

SPLITS: Final = ("train", "test")
DECODER: Final = "32x32 RGB pixels 1"
SIZE: Final = 32
MODELS: Final = ("resnet20", "resnet32", "resnet44", "alexnet", "vgg19_bn", "wrn16_4", "small_cnn")
# The AdaBatch authors' code, for both data sets.
MEAN: Final = (0.4914, 0.4822, 0.4465)
STD: Final = (0.2023, 0.1994, 0.2010)
# The paper's fixed small batch on one GPU, section 4.1; growth and its own LR steps come with the presets.
DEFAULTS: Final = MappingProxyType(
    {
        "batch_size": 128,
        "every": "20 epochs",
        "max_batch_size": 2048,
        "coupling": "linear",
        "lr": 0.01,
        "lr_schedule": "step:0.375:20",
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "optimizer": "sgd",
        "epochs": 100,
    }
)
ADAM: Final = MappingProxyType({"lr": 0.001})


def load(data: Path | str | None = None, *, name: str, hub: str, label: str, classes: int) -> Data:
    """Reads a data set of 32x32 colour images, decoded once into the cache (see `adabatch.lab.tasks.cache`).

    Args:
        data: the folder with `train-*.parquet` and `test-*.parquet`, or one above in which a folder `name` has them;
            None takes the environment variable ADABATCH_DATA and, when that is not set, downloads.
        name: of the data set's folder.
        hub: of the data set on the hub.
        label: name of the column of labels.
        classes: number of classes.

    Returns:
        Pixels, uint8 `[samples, 3, 32, 32]`, with a transform: crop of the image padded by 4, flip, normalisation.

    Raises:
        FileNotFoundError: if the folder or the files are missing.
        ValueError: if a file has another layout, or an image or a label is unusable.
        OSError: if the download fails or the cache has too little room.
    """
    import torch

    from adabatch.lab.tasks import cache, parquet
    from adabatch.lab.tasks.augment import CropFlip

    folder = parquet.data_folder(data, name=name)
    with ExitStack() as stack:
        source = _Source(folder, hub=hub, label=label, classes=classes, stack=stack)
        found = cache.arrays(name, key=source.key(), shapes=source.shapes, fill=source.fill)
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
    """Where pixels and labels come from when the cache does not hold them: both splits, one behind the other.

    Args:
        folder: where the Parquet files are; None downloads.
        hub: of the data set on the hub.
        label: name of the column of labels.
        classes: number of classes.
        stack: ends what is started.
    """

    def __init__(self, folder: Path | None, *, hub: str, label: str, classes: int, stack: ExitStack) -> None:
        self._folder, self._hub, self._label, self._classes, self._stack = folder, hub, label, classes, stack
        self._tables: list[tuple[str, Any]] = []
        self._decoder: Any = None

    def key(self) -> str:
        """Hash of everything that pixels and labels depend on."""
        from adabatch.lab.tasks import parquet

        digest = hashlib.sha256(f"{DECODER} {self._label} {self._classes}".encode())
        if self._folder is not None:
            for split in SPLITS:
                digest.update(split.encode())
                for file in parquet.files(self._folder, split=split):
                    with file.open("rb") as stream:
                        digest.update(hashlib.file_digest(stream, "sha256").digest())
            return digest.hexdigest()
        for _, table in self._read():
            digest.update(str(table.num_rows).encode())
            for buffer in (b for column in table.columns for chunk in column.chunks for b in chunk.buffers() if b):
                digest.update(buffer)
        return digest.hexdigest()

    def _read(self) -> list[tuple[str, Any]]:
        from adabatch.lab.tasks import parquet

        if not self._tables:
            for split in SPLITS:
                found = parquet.table(self._folder, split=split, hub=self._hub, image="img", label=self._label)
                if found[1].num_rows == 0:
                    raise ArgumentError(None, f"{found[0]} must have at least one row", got="none")
                self._tables.append(found)
        return self._tables

    def shapes(self) -> cache.Shapes:
        """What there will be; starts what decodes first, so that it is there when it is needed."""
        from adabatch.lab.tasks import decode, parquet

        size = decode.FEW
        if self._folder is not None:
            size = sum(file.stat().st_size for split in SPLITS for file in parquet.files(self._folder, split=split))
        self._decoder = self._stack.enter_context(decode.Decoder(size))
        rows = sum(table.num_rows for _, table in self._read())
        return {"images": ("uint8", (rows, 3, SIZE, SIZE)), "labels": ("int64", (rows,)), "train": ("int64", (1,))}

    def fill(self, arrays: cache.Arrays) -> None:
        """Decodes."""
        from adabatch.lab.tasks import parquet

        (train, first), (test, second) = self._read()
        cut = arrays["train"][0] = first.num_rows
        arrays["labels"][:cut] = parquet.checked_labels(first["label"], source=train, classes=self._classes)
        arrays["labels"][cut:] = parquet.checked_labels(second["label"], source=test, classes=self._classes)
        chunks = [chunk for table in (first, second) for chunk in table["image"].chunks]
        encoded = [image for chunk in chunks for image in chunk.field("bytes").to_pylist()]

        def where(row: int) -> str:
            return f"row {row} of {train}" if row < cut else f"row {row - cut} of {test}"

        self._decoder.decode(encoded, arrays["images"], where=where)


CIFAR10: Final = Task(
    name="cifar10",
    summary="CIFAR-10: 32x32 colour photographs in 10 classes, 50,000 to train, 10,000 to test",
    default_model="resnet20",
    models=MODELS,
    defaults=MappingProxyType({**DEFAULTS, "target": 0.85}),
    by_optimizer={"adam": ADAM, "adamw": ADAM},
    load=partial(load, name="cifar10", hub="uoft-cs/cifar10", label="label", classes=10),
)
CIFAR100: Final = Task(
    name="cifar100",
    summary="CIFAR-100: 32x32 colour photographs in 100 classes, 50,000 to train, 10,000 to test",
    default_model="resnet20",
    models=MODELS,
    defaults=MappingProxyType({**DEFAULTS, "target": 0.55}),
    by_optimizer={"adam": ADAM, "adamw": ADAM},
    load=partial(load, name="cifar100", hub="uoft-cs/cifar100", label="fine_label", classes=100),
)
