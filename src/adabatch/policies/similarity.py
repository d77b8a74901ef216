"""A batch whose two halves have gradients of a given likeness."""

from __future__ import annotations

from dataclasses import dataclass

from adabatch import _checks
from adabatch.policies._base import Policy
from adabatch.types import Observation


@dataclass(frozen=True)
class similarity(Policy):  # noqa: N801
    """A batch whose two halves have gradients of a given likeness.

        cos(g_1, g_2) = <g_1, g_2> / (|g_1| |g_2|) = |G|^2 / (|G|^2 + 2 tr(Sigma) / B) = 1 / (1 + 2 B_simple / B)

    in expectation, since the halves of a batch have B / 2 samples each. Solved for the batch, it is
    B = 2 B_simple c / (1 - c), which is `noise_scale(2 * c / (1 - c))`.

    Args:
        c: the cosine between the halves' gradients, above 0 and below 1. It is tuned for each task, so there is no
            default.
        maximum: see `Policy`.
        factor: see `Policy`.
        warmup_samples: see `Policy`.
        shrinks: see `Policy`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if one is out of range.

    Example:
        >>> from adabatch.types import Observation
        >>> similarity(0.5, maximum=256).wanted(50, Observation(clock=0, updates=0, batch_size=32))
        100.0

    Source:
        Qin, Rajbhandari, Ruwase, Yan, Yang, He 2021, "SimiGrad: fine-grained adaptive batching for large scale training
        using gradient similarity measurement", NeurIPS 2021.

    Departures:
        SimiGrad computes the cosine of one batch's halves and acts on it. The mean of a quotient is not the quotient of
        means, which is taken here. The batch moves by a factor, and only on evidence.
    """

    c: float

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "it is a cosine, and 1 would take a batch without noise"
        object.__setattr__(self, "c", float(_checks.finite("c", self.c, above=0, below=1, remedy=remedy)))

    def wanted(self, noise_scale: float, _seen: Observation) -> float:
        """The batch whose halves are as alike at that noise scale."""
        return noise_scale * (2 * self.c / (1 - self.c))
