"""Scikit-learn's embedded scans of handwritten digits: real data without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch

from adabatch._errors import ArgumentError
from adabatch.lab.tasks.task import Data, needs

TRAIN: Final = 1437


def load(data: Path | str | None = None) -> Data:
    """Reads the scans: always the same 1,437 to train on and 360 to test on.

    Args:
        data: must be None; the data come with scikit-learn.

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
    with needs("the task digits needs scikit-learn"):
        from sklearn.datasets import load_digits
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
