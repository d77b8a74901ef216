"""A small convolutional network for scans of digits and the like."""

from __future__ import annotations

from torch import nn

from adabatch import _checks


def small_cnn(*, in_channels: int = 1, image_size: int = 8, classes: int = 10, width: int = 16) -> nn.Sequential:
    """Three 3x3 convolutions, two poolings and a hidden layer of 64.

    Convolution (`width` channels), pooling, two convolutions (`2 * width` channels), pooling, a hidden layer of 64 and
    the classes, with rectified linear units. There is no batch normalisation and no dropout, so a batch cut into
    micro-batches gives the same gradient.

    Args:
        in_channels: channels of an image.
        image_size: height and width of an image in pixels, at least 4; both poolings halve it.
        classes: number of classes.
        width: channels of the first convolution.

    Returns:
        The network; 22,954 parameters for the 8x8 digits.

    Raises:
        ValueError: if the image is smaller than 4 pixels.

    Example:
        >>> sum(p.numel() for p in small_cnn(image_size=8).parameters())
        22954
    """
    _checks.whole("image_size", image_size, minimum=4, remedy="the network halves the image twice")
    wide = 2 * width
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, wide, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(wide, wide, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(wide * (image_size // 4) ** 2, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )
