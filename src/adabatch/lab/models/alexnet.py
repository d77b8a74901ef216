"""AlexNet, for small images and for those of ImageNet."""

from __future__ import annotations

from typing import Final

from torch import nn

from adabatch import _checks
from adabatch.lab.models._init import named

LARGE: Final = 64  # from this many pixels on, the network for ImageNet


def alexnet(*, in_channels: int = 3, image_size: int = 32, classes: int = 10) -> nn.Sequential:
    """AlexNet: five convolutions; below 64 pixels with one linear layer and no dropout, from there on as for ImageNet.

    Args:
        in_channels: channels of an image.
        image_size: height and width of an image in pixels, at least 32.
        classes: number of classes.

    Returns:
        The network; 2,472,266 parameters for CIFAR-10, 61,100,840 for ImageNet.

    Raises:
        ValueError: if the image is smaller than 32 pixels.

    Example:
        >>> sum(p.numel() for p in alexnet().parameters())
        2472266

    Source: Krizhevsky, 2014, 1404.5997. The form for 32x32 is that of AdaBatch (1712.02029) on CIFAR.
    """
    _checks.whole("image_size", image_size, minimum=32, remedy="the network shrinks the image 32 times")
    small = image_size < LARGE
    features = nn.Sequential(
        nn.Conv2d(in_channels, 64, 11, stride=4, padding=5 if small else 2),
        nn.ReLU(inplace=True),
        _pool(small),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        _pool(small),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        _pool(small),
    )
    if small:
        side = ((image_size - 1) // 4 + 1) // 8
        head: nn.Module = nn.Linear(256 * side**2, classes)
        return nn.Sequential(named(features=features, flatten=nn.Flatten(), classifier=head))
    average = nn.AdaptiveAvgPool2d(6)
    return nn.Sequential(
        named(features=features, avgpool=average, flatten=nn.Flatten(), classifier=_large_head(classes))
    )


def _pool(small: bool) -> nn.MaxPool2d:
    return nn.MaxPool2d(2) if small else nn.MaxPool2d(3, stride=2)


def _large_head(classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(),
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Linear(4096, classes),
    )
