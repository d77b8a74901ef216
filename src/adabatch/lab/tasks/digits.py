"""Scikit-learn's embedded scans of handwritten digits: real data without a download."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Final

from adabatch._errors import ArgumentError, MissingPackageError
from adabatch.lab.tasks.task import Data, Task

TRAIN: Final = 1437
DEFAULTS: Final = MappingProxyType(
    {
        "batch_size": 16,
        "every": "2 epochs",
        "max_batch_size": 256,
        "coupling": "linear",
        "lr": 0.006,
        "lr_schedule": "step:0.65:2",
        "momentum": 0.9,
        "weight_decay": 0.0,
        "optimizer": "sgd",
        "epochs": 14,
        "threads": 1,
        "target": 0.95,
    }
)
ADAM: Final = MappingProxyType({"lr": 0.002})


def load(data: Path | str | None = None) -> Data:
    """Reads the scans: 1,437 to train on and 360 to test on, the same ones always.

    Args:
        data: must be None, since the data come with scikit-learn.

    Returns:
        8x8 grey images, normalised by the mean and the standard deviation of the training pixels.

    Raises:
        ValueError: if a data folder is given.
        ModuleNotFoundError: if scikit-learn is missing.
    """
    if data is not None:
        raise ArgumentError(
            "data", "must not be given for digits", value=str(data), remedy="its data come with scikit-learn"
        )
    import numpy as np
    import torch

    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            None, "the task digits needs scikit-learn", remedy="run: pip install 'adabatch[data]'"
        ) from error
    found = load_digits()
    order = np.random.RandomState(0).permutation(len(found.target))  # this generator's stream is frozen for good
    images = torch.from_numpy(found.images[order]).float().unsqueeze(1)
    labels = torch.from_numpy(found.target[order]).long()
    train = images[:TRAIN]
    images = (images - train.mean()) / train.std()
    return Data(
        x_train=images[:TRAIN],
        y_train=labels[:TRAIN],
        x_test=images[TRAIN:],
        y_test=labels[TRAIN:],
        classes=10,
        note="scikit-learn's 1,797 scans; 1,437 to train and 360 to test, mixed with a fixed seed",
    )


DIGITS: Final = Task(
    name="digits",
    summary="8x8 scans of handwritten digits that come with scikit-learn: 1,437 to train, 360 to test",
    default_model="small_cnn",
    models=("small_cnn", "mlp"),
    defaults=DEFAULTS,
    by_optimizer={"adam": ADAM, "adamw": ADAM},
    load=load,
)
