"""No coupling: the LR stays as the user's scheduler has it."""

from __future__ import annotations

from dataclasses import dataclass

from adabatch.couplings._base import Coupling, checked_ratio


@dataclass(frozen=True)
class none(Coupling):  # noqa: N801
    """No coupling: the LR stays as the user's scheduler has it, for any optimizer.

        factor = 1

    Growth then acts as a decay of the noise alone: the noise scale of SGD, `lr * N / B`, falls as the batch grows.

    Example:
        >>> none().lr_factor(16)
        1.0

    Source:
        Golmant et al. 2018, arXiv 1811.12941 (one of the rules compared there: the same LR at all batch sizes). Batch
        ramps of language-model trainers place growth on an unchanged LR schedule, too.
    """

    def lr_factor(self, ratio: float) -> float:
        """Always 1."""
        checked_ratio(ratio)
        return 1.0
