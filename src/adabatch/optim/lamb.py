"""LAMB: Adam whose step in each layer follows the size of the layer's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.optim._foreach import ForeachOptimizer, Tensors, descend, fraction, trust


class LAMB(ForeachOptimizer):
    """Layer-wise adaptive moments: Adam's direction with a trust ratio for each parameter.

        m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
        r = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay w
        w <- w - lr (|w| / |r|) r                                          the ratio is 1 where either norm is 0

    Biases and norm scales (parameters of fewer than two dimensions) take the step of Adam: ratio 1, no weight decay.

    Args:
        params: parameters or parameter groups, as torch takes them.
        lr: learning rate.
        betas: beta1 and beta2, in [0, 1).
        eps: above 0.
        weight_decay: at least 0.
        adapt_1d: treats biases and norm scales as weights.

    Raises:
        ValueError: if a number is out of range, or FullyShardedDataParallel has flattened the parameters.

    Source:
        You et al. 2019, arXiv 1904.00962.

    Departures:
        The paper bounds the norm of the weights on both sides before it divides; as in other implementations, here it
        is not bounded.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        adapt_1d: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt_1d": adapt_1d}
        super().__init__(params, defaults)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """See `ForeachOptimizer.check_group`."""
        super().check_group(group)
        betas = group["betas"]
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ArgumentError("betas", "must be two numbers", value=betas)
        for beta in betas:
            fraction("betas", beta)
        _checks.finite("eps", group["eps"], above=0)

    def update(self, group: Mapping[str, Any], tensors: Tensors) -> None:
        """See `ForeachOptimizer.update`."""
        (beta1, beta2), values, grads = group["betas"], tensors.values, tensors.grads
        means, squares = tensors.moments("exp_avg"), tensors.moments("exp_avg_sq")
        steps = tensors.counted()
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        sizes = torch._foreach_div(squares, [1 - beta2**step for step in steps])
        torch._foreach_sqrt_(sizes)
        torch._foreach_add_(sizes, group["eps"])
        directions = list(torch._foreach_div(means, sizes))
        torch._foreach_div_(directions, [1 - beta1**step for step in steps])
        if tensors.adapted:
            if group["weight_decay"]:
                torch._foreach_add_(directions, values, alpha=group["weight_decay"])
            ratios = trust(tensors.norms(values), tensors.norms(directions))
            torch._foreach_mul_(directions, ratios)
        descend(values, directions, group["lr"])
