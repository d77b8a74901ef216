"""Optimizers by name, all torch's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import nn

CLASSES: Final = {"sgd": "SGD", "nesterov": "SGD", "adam": "Adam", "adamw": "AdamW"}
"""Names of torch's classes."""
NAMES: Final = tuple(CLASSES)


def build(
    name: str, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer `name` over `parameters`.

    Args:
        name: one of `NAMES`.
        parameters: what it trains.
        lr: learning rate.
        momentum: of SGD and its Nesterov variant; the others have betas of their own.
        weight_decay: as the optimizer itself defines it (decoupled in AdamW).
    """
    if name == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    nesterov = name == "nesterov"
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
