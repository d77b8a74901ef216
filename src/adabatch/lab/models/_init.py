"""Initial weights and small parts that several networks share."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn


def he_normal(model: nn.Module) -> None:
    """Draws the weights of all convolutions from N(0, 2 / (k * k * channels out)) and sets their biases to 0.

    Layers of other kinds stay as torch made them: batch norm 1 and 0, linear layers uniform in +-1/sqrt(inputs).

    Args:
        model: its convolutions are changed in place.

    Source: He et al., 2015, 1502.01852, section 2.2, the form that keeps the gradient's variance; it is what the
    AdaBatch authors' networks and torchvision's of their time start from.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / (height * width * module.out_channels)))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def normal_linear(model: nn.Module, *, std: float = 0.01) -> None:
    """Draws the weights of all linear layers from N(0, `std`^2) and sets their biases to 0.

    Args:
        model: its linear layers are changed in place.
        std: standard deviation of the weights.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)


def named(**layers: nn.Module) -> OrderedDict[str, nn.Module]:
    """Layers in order under their names, for `nn.Sequential`.

    Args:
        **layers: the layers; their names lead the names of the parameters.
    """
    return OrderedDict(layers)
