"""LARS: momentum SGD whose step in each layer follows the size of the layer's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from adabatch import _checks
from adabatch.optim._foreach import ForeachOptimizer, Tensors, fraction, momentum_step, trust, with_decay


class LARS(ForeachOptimizer):
    """Layer-wise adaptive rate scaling: momentum SGD with a trust ratio for each parameter.

        ratio = trust_coefficient |w| / (|g| + weight_decay |w|)      1 where either norm is 0
        v <- momentum v + ratio (g + weight_decay w)
        w <- w - lr v

    Biases and norm scales (parameters of fewer than two dimensions) take the step of SGD: ratio 1, no weight decay.

    Args:
        params: parameters or parameter groups, as torch takes them.
        lr: learning rate, many times that of SGD at the same batch.
        momentum: in [0, 1).
        weight_decay: at least 0.
        trust_coefficient: above 0.
        adapt_1d: treats biases and norm scales as weights.

    Raises:
        ValueError: if a number is out of range, or FullyShardedDataParallel has flattened the parameters.

    Source:
        You, Gitman, Ginsburg 2017, arXiv 1708.03888.

    Departures:
        The paper folds the LR into the velocity. Here the velocity holds no LR, as in torch's SGD, so that an LR that
        changes needs no correction. At a constant LR both are the same.
    """

    def __init__(
        self,
        params: Any,
        lr: Any,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        adapt_1d: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust_coefficient": trust_coefficient,
            "adapt_1d": adapt_1d,
        }  # fmt: skip
        super().__init__(params, defaults)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """See `ForeachOptimizer.check_group`."""
        super().check_group(group)
        fraction("momentum", group["momentum"])
        _checks.finite("trust_coefficient", group["trust_coefficient"], above=0)

    def update(self, group: Mapping[str, Any], tensors: Tensors) -> None:
        """See `ForeachOptimizer.update`."""
        values, grads, buffers = tensors.values, tensors.grads, tensors.moments("momentum_buffer")
        if tensors.adapted:
            sizes, slopes = tensors.norms(values), tensors.norms(grads)
            ratios = trust(group["trust_coefficient"] * sizes, slopes + group["weight_decay"] * sizes)
            decayed = with_decay(group, values, grads)
            grads = list(torch._foreach_mul(decayed, ratios))
        momentum_step(group, values, buffers, grads)
