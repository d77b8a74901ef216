"""A perceptron with one hidden layer."""

from __future__ import annotations

from torch import nn

from adabatch import _checks


def mlp(*, in_channels: int = 1, image_size: int = 8, classes: int = 10, width: int = 128) -> nn.Sequential:
    """A perceptron with one hidden layer of 128.

    Inputs are described as in `adabatch.lab.models.build`; `width` counts the units of the hidden layer.

    Raises:
        ValueError: if the image is empty.

    Example:
        >>> sum(p.numel() for p in mlp(image_size=8).parameters())
        9610
    """
    _checks.whole("image_size", image_size)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(in_channels * image_size**2, width),
        nn.ReLU(),
        nn.Linear(width, classes),
    )
