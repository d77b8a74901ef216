"""MNIST and Fashion-MNIST: Parquet files in the layout of the Hugging Face hub, from a folder or downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch

from adabatch.lab.tasks import parquet
from adabatch.lab.tasks.decode import Decoder
from adabatch.lab.tasks.task import Data

SIZE: Final = 28
CLASSES: Final = 10


def load(data: Path | str | None = None, *, name: str, hub: str) -> Data:
    """Reads a data set of 28x28 grey images in ten classes.

    Args:
        data: the folder with `train-*.parquet` and `test-*.parquet`, or one above that has them in a folder `name`;
            None takes the environment variable ADABATCH_DATA and, when that is not set, downloads.
        name: of the data set's folder.
        hub: name of the data set on the hub.

    Returns:
        The images, normalised by the mean and the standard deviation of the training pixels.

    Raises:
        FileNotFoundError: if the folder or the files are missing.
        ValueError: if a file has another layout, or an image or a label is unusable.
        OSError: if the download fails.
    """
    folder = parquet.data_folder(data, name=name)
    splits = [parquet.read(folder, split=split, hub=hub) for split in ("train", "test")]
    images, labels = [], []
    for split in splits:
        labels.append(torch.from_numpy(split.labels(CLASSES)))
        pixels = np.empty((len(split), 1, SIZE, SIZE), dtype=np.uint8)
        with Decoder(workers=0) as decoder:
            decoder.decode(split.images(), pixels, where=split.where)
        images.append(torch.from_numpy(pixels).float())
    mean, std = images[0].mean(), images[0].std().clamp_min(1.0)
    return Data(
        x_train=(images[0] - mean) / std,
        y_train=labels[0],
        x_test=(images[1] - mean) / std,
        y_test=labels[1],
        classes=CLASSES,
        note=f"{len(labels[0]):,} to train, {len(labels[1]):,} to test, from {folder or 'the hub: ' + hub}",
    )
