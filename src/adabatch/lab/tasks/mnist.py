"""MNIST and Fashion-MNIST: Parquet files in the layout of the Hugging Face hub, from a folder or downloaded."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from adabatch.lab.tasks.task import Data, Task

SIZE: Final = 28
CLASSES: Final = 10
DEFAULTS: Final = MappingProxyType(
    {
        "batch_size": 64,
        "every": "2 epochs",
        "max_batch_size": 1024,
        "coupling": "linear",
        "lr": 0.02,
        "lr_schedule": "step:0.5:2",
        "momentum": 0.9,
        "weight_decay": 0.0,
        "optimizer": "sgd",
        "epochs": 10,
    }
)
ADAM: Final = MappingProxyType({"lr": 0.001})


def load(data: Path | str | None = None, *, name: str, hub: str) -> Data:
    """Reads a data set of 28x28 grey images in ten classes.

    Args:
        data: the folder with `train-*.parquet` and `test-*.parquet`, or one above in which a folder `name` has them;
            None takes the environment variable ADABATCH_DATA and, when that is not set, downloads.
        name: of the data set's folder.
        hub: of the data set on the hub.

    Returns:
        The images, normalised by the mean and the standard deviation of the training pixels.

    Raises:
        FileNotFoundError: if the folder or the files are missing.
        ValueError: if a file has another layout, or an image or a label is unusable.
        OSError: if the download fails.
    """
    import torch

    from adabatch.lab.tasks import parquet

    folder = parquet.data_folder(data, name=name)
    tables = {split: parquet.table(folder, split=split, hub=hub) for split in ("train", "test")}
    images, labels = {}, {}
    for split, (source, table) in tables.items():
        read = parquet.images_and_labels(table, source=source, size=SIZE, classes=CLASSES)
        images[split], labels[split] = torch.from_numpy(read[0]).unsqueeze(1), torch.from_numpy(read[1])
    pixels = images["train"].float()
    mean, std = pixels.mean(), pixels.std().clamp_min(1.0)
    return Data(
        x_train=(pixels - mean) / std,
        y_train=labels["train"],
        x_test=(images["test"].float() - mean) / std,
        y_test=labels["test"],
        classes=CLASSES,
        note=f"{len(labels['train']):,} to train, {len(labels['test']):,} to test, from {folder or 'the hub: ' + hub}",
    )


MNIST: Final = Task(
    name="mnist",
    summary="MNIST: 28x28 handwritten digits, 60,000 to train, 10,000 to test",
    default_model="small_cnn",
    models=("small_cnn", "mlp"),
    defaults=MappingProxyType({**DEFAULTS, "target": 0.985}),
    by_optimizer={"adam": ADAM, "adamw": ADAM},
    load=partial(load, name="mnist", hub="ylecun/mnist"),
)
FASHION_MNIST: Final = Task(
    name="fashion_mnist",
    summary="Fashion-MNIST: 28x28 pictures of clothes, 60,000 to train, 10,000 to test",
    default_model="small_cnn",
    models=("small_cnn", "mlp"),
    defaults=MappingProxyType({**DEFAULTS, "target": 0.9}),
    by_optimizer={"adam": ADAM, "adamw": ADAM},
    load=partial(load, name="fashion_mnist", hub="zalando-datasets/fashion_mnist"),
)
