"""No coupling: the LR stays as the user's scheduler has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adabatch.couplings.base import Coupling, checked_ratio


@dataclass(frozen=True)
class NoCoupling(Coupling):
    """See `none`."""

    name: ClassVar[str] = "none"

    def lr_factor(self, ratio: float) -> float:
        """Always 1."""
        checked_ratio(ratio)
        return 1.0


def none() -> Coupling:
    """No coupling: the LR stays as the user's scheduler has it, for any optimizer.

        factor = 1

    Growth then acts as a decay of the noise alone: the noise scale of SGD, `lr * N / B`, falls as the batch grows.

    Returns:
        The coupling.

    Example:
        >>> none().lr_factor(16)
        1.0

    Source:
        Golmant et al. 2018, arXiv 1811.12941 ("BLR", the same LR at all batch sizes); the large batch ramps of
        language-model trainers, which place growth by hand on an unchanged LR schedule.
    """
    return NoCoupling()
