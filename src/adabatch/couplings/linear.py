"""Linear coupling: the LR grows as the batch does."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from adabatch.couplings._base import Coupling, checked_ratio


@dataclass(frozen=True)
class linear(Coupling):  # noqa: N801
    """Linear scaling: the LR grows as the batch does, so the LR per sample keeps its course.

        factor = B / B0

    For SGD, plain, with momentum or Nesterov, for LARS, and for `RMSpropWarmup`, whose RMSprop has an LR of its own.
    With torch's SGD the velocity holds gradients and no LR, so a change of the LR needs no correction of the momentum.

    Args:
        any_optimizer: also accept optimizers that the rule was not derived for.

    Raises:
        TypeError: if `any_optimizer` is not a bool.

    Example:
        >>> linear().lr_factor(2048 / 128)
        16.0

    Source:
        Devarakonda, Naumov, Garland 2017, arXiv 1712.02029 (LR / batch kept at every resize); Smith, Kindermans, Ying,
        Le 2017, arXiv 1711.00489 (noise scale `lr * N / (B (1 - m))` kept); Goyal et al. 2017, arXiv 1706.02677 (linear
        scaling rule); You, Gitman, Ginsburg 2017, arXiv 1708.03888 (LARS); Akiba, Suzuki, Fukuda
        2017, arXiv 1711.04325 (RMSprop warm-up).

    Departures:
        The noise scale is exactly `lr * (N / B - 1) / (1 - m)`; the 1 after `N / B` is dropped, as in the paper, which
        holds that to be valid up to about `B = N / 10`.
    """

    derived_for: ClassVar[frozenset[str] | None] = frozenset({"SGD", "LARS", "Lars", "RMSpropWarmup"})
    instead: ClassVar[str] = (
        "use `sqrt` for Adam and its kin, `none` to leave the LR alone, "
        "or insist with `ab.couplings.linear(any_optimizer=True)`"
    )

    _: KW_ONLY
    any_optimizer: bool = False

    def lr_factor(self, ratio: float) -> float:
        """The ratio itself."""
        return checked_ratio(ratio)
