"""Networks by name, as plain functions that return a `torch.nn.Module`.

To add one: a function, and its name in `__all__` and `_ALL`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import nn

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.lab.models.convolutional import alexnet, small_cnn, vgg19_bn
from adabatch.lab.models.drn import drn
from adabatch.lab.models.gpt import gpt
from adabatch.lab.models.lstm import lstm
from adabatch.lab.models.mlp import mlp
from adabatch.lab.models.quadratic import quadratic
from adabatch.lab.models.residual import resnet20, resnet32, resnet44, resnet50, wrn16_4
from adabatch.lab.models.residual import zero_init as zero_init

__all__ = [
    "alexnet", "build", "drn", "gpt", "lstm", "mlp", "names", "quadratic", "resnet20", "resnet32", "resnet44",
    "resnet50", "small_cnn", "vgg19_bn", "wrn16_4",
]  # fmt: skip
_IMAGES: Final = {"in_channels": 1, "image_size": 1, "classes": 2}  # the least of each
_TEXT: Final = {"vocabulary": 2, "context": 1}
_POINTS: Final = {"dimensions": 1}
# fmt: off
_ALL: Final[dict[Callable[..., nn.Module], dict[str, int]]] = {
    **dict.fromkeys((small_cnn, mlp, alexnet, vgg19_bn, resnet20, resnet32, resnet44, wrn16_4, resnet50, drn), _IMAGES),
    **dict.fromkeys((gpt, lstm), _TEXT),
    quadratic: _POINTS,
}
# fmt: on
_MODELS: Final = {model.__name__: model for model in _ALL}


def names() -> list[str]:
    """The names that `build` knows."""
    return list(_MODELS)


def build(name: str, **shape: int) -> nn.Module:
    """The network `name` for inputs of a shape; its initial weights are drawn from torch's default generator.

    Args:
        name: one of `names()`.
        **shape: for square images `in_channels`, at least 1, `image_size`, the height and width in pixels, and
            `classes`, at least 2; for text `vocabulary`, at least 2, and `context`, the tokens in a sequence; for
            points `dimensions`.

    Returns:
        The network, on the CPU, in training mode.

    Raises:
        ValueError: if the name is unknown, the network is not for such inputs, or a number is too small for it.
        TypeError: if a number is not whole.

    Example:
        >>> import torch
        >>> build("small_cnn", in_channels=1, image_size=8, classes=10)(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """
    _checks.one_of("model", name, _MODELS)
    expected = _ALL[_MODELS[name]]
    missing = [key for key in expected if key not in shape]
    if missing and set(shape) < set(expected):
        raise ArgumentError(
            missing[0], f"must be given for {name}, which is described by {', '.join(expected)}", got="none"
        )
    if set(shape) != set(expected):
        raise ArgumentError(
            "model",
            f"must be a network for inputs described by {', '.join(shape) or 'nothing'}",
            got=f"{name}, which is described by {', '.join(expected)}",
            remedy="choose one that the task names",
        )
    for key, minimum in expected.items():
        _checks.whole(key, shape[key], minimum=minimum)
    return _MODELS[name](**shape)
