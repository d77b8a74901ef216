"""CIFAR-10 and CIFAR-100: Parquet files in the layout of the Hugging Face hub, from a folder or downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from adabatch.tasks.task import Data, Task

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


def load(data: Path | str | None = None, *, name: str, hub: str, label: str, classes: int) -> Data:
    """Reads a data set of 32x32 colour images, decoded once into the cache (see `adabatch.tasks.cache`).

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

    from adabatch.tasks import parquet
    from adabatch.tasks.augment import CropFlip

    folder = parquet.data_folder(data, name=name)
    found = {split: _split(folder, split, name=name, hub=hub, label=label, classes=classes) for split in SPLITS}
    # A copy in memory: the mapped file would be read page by page during the first epoch.
    x, y = ({s: torch.from_numpy(found[s][part]).clone() for s in SPLITS} for part in ("images", "labels"))
    return Data(
        x_train=x["train"],
        y_train=y["train"],
        x_test=x["test"],
        y_test=y["test"],
        classes=classes,
        note=f"{len(y['train']):,} to train, {len(y['test']):,} to test, from {folder or 'the hub: ' + hub}",
        transform=CropFlip(MEAN, STD, image_size=SIZE, classes=classes),
    )


SPLITS: Final = ("train", "test")
DECODER: Final = "32x32 RGB pixels 1"


def _split(folder: Path | None, split: str, *, name: str, hub: str, label: str, classes: int) -> Mapping[str, Any]:
    """Pixels and labels of a split, from the cache if they are there."""
    from adabatch.tasks import cache, decode, parquet

    table: tuple[str, Any] | None = None

    def read() -> tuple[str, Any]:
        nonlocal table
        if table is None:
            table = parquet.table(folder, split=split, hub=hub, image="img", label=label)
            if table[1].num_rows == 0:
                raise ValueError(f"{table[0]} must have at least one row, got none")
        return table

    def shapes() -> cache.Shapes:
        rows = read()[1].num_rows
        return {"images": ("uint8", (rows, 3, SIZE, SIZE)), "labels": ("int64", (rows,))}

    def fill(arrays: cache.Arrays) -> None:
        source, found = read()
        arrays["labels"][:] = parquet.checked_labels(found["label"], source=source, classes=classes)
        encoded = [image for chunk in found["image"].chunks for image in chunk.field("bytes").to_pylist()]
        decode.decode(encoded, arrays["images"], source=source)

    digest = hashlib.sha256(f"{DECODER} {label} {classes}".encode())
    if folder is not None:
        for file in parquet.files(folder, split=split):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    else:
        for column in read()[1].columns:
            for chunk in column.chunks:
                for buffer in chunk.buffers():
                    digest.update(buffer or b"")
    return cache.arrays(f"{name}-{split}", key=digest.hexdigest(), shapes=shapes, fill=fill)


CIFAR10: Final = Task(
    name="cifar10",
    summary="CIFAR-10: 32x32 colour photographs in 10 classes, 50,000 to train, 10,000 to test",
    default_model="resnet20",
    models=MODELS,
    defaults=MappingProxyType({**DEFAULTS, "target": 0.85}),
    load=partial(load, name="cifar10", hub="uoft-cs/cifar10", label="label", classes=10),
)
CIFAR100: Final = Task(
    name="cifar100",
    summary="CIFAR-100: 32x32 colour photographs in 100 classes, 50,000 to train, 10,000 to test",
    default_model="resnet20",
    models=MODELS,
    defaults=MappingProxyType({**DEFAULTS, "target": 0.55}),
    load=partial(load, name="cifar100", hub="uoft-cs/cifar100", label="fine_label", classes=100),
)
