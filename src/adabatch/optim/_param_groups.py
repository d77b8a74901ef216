"""Parameter groups without weight decay where it does harm."""

from __future__ import annotations

from typing import Any

from torch import nn

from adabatch import _checks
from adabatch.optim._foreach import refuse_flat


def param_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups for any torch optimizer: weights with decay; biases and norm scales without.

    A parameter of fewer than two dimensions counts as a bias or a norm scale. Those without gradients are left out. A
    group without parameters is left out too.

    Args:
        model: the network.
        weight_decay: of the weights, at least 0.

    Raises:
        ValueError: if `weight_decay` is negative or not finite, or FullyShardedDataParallel has flattened the weights.
        TypeError: if it is not a number.

    Example:
        >>> groups = param_groups(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), weight_decay=1e-4)
        >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
        [(1, 0.0001), (3, 0.0)]

    Source:
        Goyal et al. 2017, arXiv 1706.02677 (no decay of batch norm's scale and shift); You et al. 2017, arXiv
        1708.03888, and 2019, arXiv 1904.00962 (the same for LARS and LAMB, biases included).
    """
    decay = float(_checks.finite("weight_decay", weight_decay, minimum=0))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    refuse_flat(trained, "model")
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
