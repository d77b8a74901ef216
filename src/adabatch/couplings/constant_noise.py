"""Constant-noise coupling: LR and momentum grow so that the noise of SGD keeps its course."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from adabatch import _checks
from adabatch.couplings._base import Coupling, checked_ratio


@dataclass(frozen=True)
class constant_noise(Coupling):  # noqa: N801
    """Constant noise of SGD, momentum included: the LR follows the batch up to a limit, the momentum from there.

        g = lr N / (B (1 - m)),  k = B / B0
        lr -> lr * min(k, limit),  1 - m -> (1 - m) * min(k, limit) / k

    For SGD, plain, with momentum or Nesterov. With the limit of 1 the momentum alone follows growth; a batch smaller
    than B0 lowers the LR, since a momentum below that of the user may not exist.

    Args:
        maximum_lr_factor: the largest factor on the LR, at least 1: where training is still stable.

    Raises:
        TypeError: if `maximum_lr_factor` is not a number.
        ValueError: if it is below 1 or not finite.

    Example:
        >>> in_force = constant_noise(maximum_lr_factor=5).in_force({"lr": 0.1, "momentum": 0.9}, 3200 / 128)
        >>> {name: round(value, 9) for name, value in in_force.items()}
        {'lr': 0.5, 'momentum': 0.98}

    Source:
        Smith, Kindermans, Ying, Le 2017, arXiv 1711.00489, sections 2 and 5.2: `g = lr (N / B - 1) / (1 - m)`; first
        the LR up to its stable limit, last the momentum. Their start with LR 0.5, momentum 0.98 and batch 3,200 in
        place of 0.1, 0.9 and 128 is the example.

    Departures:
        The 1 after `N / B` is dropped, as in the paper, valid up to about `B = N / 10`. The velocity is left as it is:
        it takes some 1 / (1 - m) updates to reach its new length, the lag that the paper describes, and the paper lost
        a point of accuracy to it. From a momentum of 0, at the base size, it begins afresh each time the batch grows.
    """

    derived_for: ClassVar[frozenset[str] | None] = frozenset({"SGD"})
    instead: ClassVar[str] = "use `adam_sde` or `sqrt` for Adam, `linear` for LARS, or `none` to leave everything alone"

    _: KW_ONLY
    maximum_lr_factor: float = 1.0

    def __post_init__(self) -> None:
        remedy = "at 1 the momentum alone follows growth"
        limit = _checks.finite("maximum_lr_factor", self.maximum_lr_factor, minimum=1, remedy=remedy)
        object.__setattr__(self, "maximum_lr_factor", float(limit))

    def lr_factor(self, ratio: float) -> float:
        """The ratio, at most the limit."""
        return min(checked_ratio(ratio), self.maximum_lr_factor)

    def in_force(self, group: Mapping[str, Any], ratio: float) -> dict[str, Any]:
        """LR, and beyond its limit momentum.

        Raises:
            ValueError: if the momentum is not from 0 to below 1.
        """
        momentum = _checks.finite(
            "momentum", float(group["momentum"]), minimum=0, below=1, remedy="at 1 the noise of SGD has no value"
        )
        rest = self.lr_factor(ratio) / ratio
        return super().in_force(group, ratio) | ({} if rest == 1 else {"momentum": 1 - (1 - momentum) * rest})
