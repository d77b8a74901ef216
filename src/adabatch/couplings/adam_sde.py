"""Square-root coupling of Adam with its betas and eps, from its stochastic differential equation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from adabatch._errors import ArgumentError
from adabatch.couplings._base import Coupling, checked_ratio


@dataclass(frozen=True)
class adam_sde(Coupling):  # noqa: N801
    """Square-root scaling of Adam, complete: LR, betas and eps follow the batch.

        lr -> lr sqrt(k),  1 - beta -> k (1 - beta),  eps -> eps / sqrt(k),  k = B / B0

    For Adam and AdamW. The bias correction stays exact: the moments are divided by one minus the product of the betas
    that were in force, where torch takes a power of the present one.

    Args:
        exponential: takes `beta -> beta ** k` instead, the same to first order in `1 - beta`. The form of the paper
            ends where `k (1 - beta)` reaches 1, at 10 times the batch for a beta of 0.9; this one never does.
        weight_decay: the decoupled weight decay of AdamW follows, too, `wd -> wd sqrt(k)`, so that its time constant
            `B / (lr wd)` stays the same in samples.

    Raises:
        TypeError: if a flag is not a bool.

    Example:
        >>> in_force = adam_sde().in_force({"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8}, 4)
        >>> in_force["lr"], [round(beta, 9) for beta in in_force["betas"]], in_force["eps"]
        (0.002, [0.6, 0.996], 5e-09)

    Source:
        Malladi, Lyu, Panigrahi, Arora 2022, arXiv 2205.10287 (square-root scaling rule of Adam). `exponential`: the
        discretisation of the same decay, as the rule for weight averages in Busbridge et al. 2023, arXiv 2307.13813.
        `weight_decay`: Wang, Aitchison 2024, arXiv 2405.13698 (time constant of AdamW, constant in epochs).

    Departures:
        The paper compares runs of one batch size each; here the size changes within a run, which requires the
        bias correction. With `amsgrad`, torch takes the maximum of moments before the correction; only the correction
        is exact there.
    """

    derived_for: ClassVar[frozenset[str] | None] = frozenset({"Adam", "AdamW"})
    instead: ClassVar[str] = (
        "use `constant_noise` or `linear` for SGD, `sqrt` for others whose step is a gradient divided by its own size, "
        "or `none` to leave everything alone"
    )

    _: KW_ONLY
    exponential: bool = False
    weight_decay: bool = False

    def lr_factor(self, ratio: float) -> float:
        """The root of the ratio."""
        return math.sqrt(checked_ratio(ratio))

    def in_force(self, group: Mapping[str, Any], ratio: float) -> dict[str, Any]:
        """LR, betas, eps, and weight decay if asked for.

        Raises:
            ValueError: if the form of the paper gives a beta below 0.
        """
        root = self.lr_factor(ratio)
        if root == 1:
            return {}
        values = {
            "lr": group["lr"] * root,
            "betas": tuple(self._beta(beta, ratio) for beta in group["betas"]),
            "eps": group["eps"] / root,
        }
        if self.weight_decay and group.get("decoupled_weight_decay", True):
            values["weight_decay"] = group["weight_decay"] * root
        return values

    def _beta(self, beta: Any, ratio: float) -> Any:
        found = beta**ratio if self.exponential else 1 - ratio * (1 - beta)
        if found < 0:
            raise ArgumentError(
                "ratio",
                "must keep 1 - ratio * (1 - beta) at 0 or above",
                got=f"{ratio:g} with a beta of {float(beta):g}",
                remedy="use `adam_sde(exponential=True)`, or let the batch grow less",
            )
        return found
