"""Convolutional networks: AlexNet and VGG19 for small images and for ImageNet's, and a small one for scans of digits.

Inputs are described as in `adabatch.lab.models.build`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from torch import nn

from adabatch import _checks

LARGE: Final = 64  # pixels; images of this size or larger get the network for ImageNet
# VGG's configuration E: channels of the 3x3 convolutions; pooling follows each group.
GROUPS: Final = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


def small_cnn(*, in_channels: int = 1, image_size: int = 8, classes: int = 10, width: int = 16) -> nn.Sequential:
    """Three 3x3 convolutions, two poolings and a hidden layer of 64.

    Convolution (`width` channels), pooling, two convolutions (`2 * width` channels), pooling, a hidden layer of 64 and
    the classes, with rectified linear units. There is no batch normalisation and no dropout, so a batch cut into
    micro-batches gives the same gradient.

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


def alexnet(*, in_channels: int = 3, image_size: int = 32, classes: int = 10) -> nn.Sequential:
    """AlexNet: five convolutions; below 64 pixels one linear layer without dropout, else the head for ImageNet.

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
        return named(features=features, flatten=nn.Flatten(), classifier=nn.Linear(256 * side**2, classes))
    head = _head(256 * 6 * 6, classes, dropout_first=True)
    return named(features=features, avgpool=nn.AdaptiveAvgPool2d(6), flatten=nn.Flatten(), classifier=head)


def _pool(small: bool) -> nn.MaxPool2d:
    return nn.MaxPool2d(2) if small else nn.MaxPool2d(3, stride=2)


def vgg19_bn(*, in_channels: int = 3, image_size: int = 32, classes: int = 10) -> nn.Sequential:
    """VGG19 with batch norm; below 64 pixels one linear layer without dropout, else the head for ImageNet.

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
        linear = nn.Linear(channels * (image_size // 32) ** 2, classes)
        model = named(features=features, flatten=nn.Flatten(), classifier=linear)
    else:
        head = _head(channels * 7 * 7, classes, dropout_first=False)
        model = named(features=features, avgpool=nn.AdaptiveAvgPool2d(7), flatten=nn.Flatten(), classifier=head)
    he_normal(model)
    normal_linear(model)
    return model


def _head(inputs: int, classes: int, *, dropout_first: bool) -> nn.Sequential:
    """Two hidden layers of 4096, with dropout before or after each, and the classes."""
    layers: list[nn.Module] = []
    for size in (inputs, 4096):
        hidden = [nn.Linear(size, 4096), nn.ReLU(inplace=True)]
        layers += [nn.Dropout(), *hidden] if dropout_first else [*hidden, nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(4096, classes))


# Initial weights and names for all networks.


def he_normal(model: nn.Module) -> None:
    """Draws the weights of all convolutions from N(0, 2 / (k * k * channels out)) and sets their biases to 0.

    Other layers keep torch's initial values: batch norm 1 and 0, linear layers uniform in +-1/sqrt(inputs).

    Source: He et al., 2015, 1502.01852, section 2.2, the form that keeps the gradient's variance; the networks of the
    AdaBatch authors and of torchvision at their time start from it.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / (height * width * module.out_channels)))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def normal_linear(model: nn.Module, *, std: float = 0.01) -> None:
    """Draws the weights of all linear layers from N(0, `std`^2) and sets their biases to 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)


def named(**layers: nn.Module) -> nn.Sequential:
    """Layers in order under their names."""
    return nn.Sequential(OrderedDict(layers))
