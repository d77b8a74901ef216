"""Networks by name, as plain functions that return a `torch.nn.Module`.

To add one: a function in a file of its own and a line in `__all__` and `_MODELS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import nn

from adabatch import _checks
from adabatch.models.alexnet import alexnet
from adabatch.models.mlp import mlp
from adabatch.models.resnet import resnet20, resnet32, resnet44
from adabatch.models.resnet50 import resnet50
from adabatch.models.small_cnn import small_cnn
from adabatch.models.vgg import vgg19_bn
from adabatch.models.wide_resnet import wrn16_4

__all__ = [
    "alexnet",
    "build",
    "mlp",
    "names",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet50",
    "small_cnn",
    "summary",
    "vgg19_bn",
    "wrn16_4",
]
_MODELS: Final[dict[str, Callable[..., nn.Module]]] = {
    "small_cnn": small_cnn,
    "mlp": mlp,
    "alexnet": alexnet,
    "vgg19_bn": vgg19_bn,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "wrn16_4": wrn16_4,
    "resnet50": resnet50,
}


def names() -> list[str]:
    """The names that `build` knows."""
    return list(_MODELS)


def summary(name: str) -> str:
    """One line about the network `name`.

    Raises:
        ValueError: if there is no such network.
    """
    _checks.one_of("model", name, _MODELS)
    return (_MODELS[name].__doc__ or "").partition("\n")[0]


def build(name: str, *, in_channels: int, image_size: int, classes: int) -> nn.Module:
    """The network `name` for square images; its initial weights are drawn from torch's default generator.

    Args:
        name: one of `names()`.
        in_channels: channels of an image, at least 1.
        image_size: height and width of an image in pixels.
        classes: number of classes, at least 2.

    Returns:
        The network, on the CPU, in training mode.

    Raises:
        ValueError: if the name is unknown or a number is too small for the network.

    Example:
        >>> import torch
        >>> build("small_cnn", in_channels=1, image_size=8, classes=10)(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """
    _checks.one_of("model", name, _MODELS)
    _checks.whole("in_channels", in_channels)
    _checks.whole("classes", classes, minimum=2)
    return _MODELS[name](in_channels=in_channels, image_size=image_size, classes=classes)
