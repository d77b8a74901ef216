"""A batch that passes the norm test."""

from __future__ import annotations

from dataclasses import dataclass

from adabatch import _checks
from adabatch.policies._base import Policy
from adabatch.types import Observation


@dataclass(frozen=True)
class norm_test(Policy):  # noqa: N801
    """A batch whose gradient passes the norm test: its variance is at most eta^2 of the true gradient's length squared.

        tr(Sigma) / B <= eta^2 |G|^2,  so  B = B_simple / eta^2

    It is `noise_scale(1 / eta**2)`.

    Args:
        eta: the share of the gradient's length that its noise may have, above 0. Publications take values below 1, and
            no one of them for all tasks, so there is no default.
        maximum: see `Policy`.
        factor: see `Policy`.
        warmup_samples: see `Policy`.
        shrinks: see `Policy`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if one is out of range.

    Example:
        >>> from adabatch.types import Observation
        >>> norm_test(0.5, maximum=256).wanted(20, Observation(clock=0, updates=0, batch_size=32))
        80.0

    Source:
        Byrd, Chin, Nocedal, Wu 2012, "Sample size selection in optimization methods for machine learning"; Lau, Liu,
        Kolar 2024, arXiv 2402.11215.

    Departures:
        Published code puts the batch's own gradient in the place of G, whose squared length is longer by tr(Sigma) / B.
        Solved for B, that test asks for B_simple (1 - eta^2) / eta^2; this one takes the unbiased |G|^2. The
        batch moves by a factor, and only on evidence, where the papers act on each batch's own test.
    """

    eta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "published values lie below 1"
        object.__setattr__(self, "eta", float(_checks.finite("eta", self.eta, above=0, remedy=remedy)))

    def wanted(self, noise_scale: float, _seen: Observation) -> float:
        """The noise scale over the square of eta."""
        return noise_scale / self.eta**2
