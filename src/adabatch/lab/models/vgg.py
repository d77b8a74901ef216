"""VGG with 19 layers and batch norm, for small images and for those of ImageNet."""

from __future__ import annotations

from typing import Final

from torch import nn

from adabatch import _checks
from adabatch.lab.models._init import he_normal, named, normal_linear
from adabatch.lab.models.alexnet import LARGE

# Configuration E: channels of the 3x3 convolutions, a pooling after each group.
GROUPS: Final = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


def vgg19_bn(*, in_channels: int = 3, image_size: int = 32, classes: int = 10) -> nn.Sequential:
    """VGG19 with batch norm; below 64 pixels with one linear layer and no dropout, from there on as for ImageNet.

    Args:
        in_channels: channels of an image.
        image_size: height and width of an image in pixels, at least 32.
        classes: number of classes.

    Returns:
        The network; 20,040,522 parameters for CIFAR-10, 143,678,248 for ImageNet.

    Raises:
        ValueError: if the image is smaller than 32 pixels.

    Example:
        >>> sum(p.numel() for p in vgg19_bn().parameters())
        20040522

    Source: Simonyan and Zisserman, 2014, 1409.1556, configuration E. The form for 32x32 and the initial weights are
    those of AdaBatch (1712.02029): convolutions N(0, 2 / (9 * channels out)), linear layers N(0, 0.01^2), biases 0.
    """
    _checks.whole("image_size", image_size, minimum=32, remedy="the network halves the image five times")
    layers: list[nn.Module] = []
    channels = in_channels
    for group in GROUPS:
        for width in group:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    features = nn.Sequential(*layers)
    if image_size < LARGE:
        head = nn.Linear(channels * (image_size // 32) ** 2, classes)
        model = nn.Sequential(named(features=features, flatten=nn.Flatten(), classifier=head))
    else:
        model = nn.Sequential(
            named(
                features=features,
                avgpool=nn.AdaptiveAvgPool2d(7),
                flatten=nn.Flatten(),
                classifier=_large_head(channels, classes),
            )
        )
    he_normal(model)
    normal_linear(model)
    return model


def _large_head(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels * 7 * 7, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, classes),
    )
