"""AdaScale's gain: the LR grows with the batch only as far as the gradient's noise lets a larger batch help."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from adabatch import _checks
from adabatch._errors import UsageError
from adabatch.couplings._base import Coupling, checked_ratio
from adabatch.couplings.linear import linear


@dataclass(frozen=True)
class adascale(Coupling):  # noqa: N801
    """AdaScale's gain: between 1 and the ratio of batch sizes, as far as the gradient is noise.

        factor = (s + m) / (s / k + m) = k (R + B0) / (R + B),  k = B / B0

    s = tr(Sigma) / B0 is the variance of the gradient at the first size, m = |G|^2, and R = s B0 / m the noise scale.
    Where all is noise the gain is k, as under `linear`; where there is none it is 1, as under `none`. So it is `linear`
    times the progress of a sample that the policy `goodput` weighs.

    With a policy the noise is that of its latest decision, also of one to keep the size: the LR in force follows at
    every measurement, and is the user's own until the first. It takes the estimate and not an end of its interval. A
    signal that is not above 0 counts as none, so that the gain is k.

    Args:
        noise: the noise scale over the first batch size, at least 0, where it is known and stays; None follows the
            policy's decisions.
        any_optimizer: also accept optimizers that the rule was not derived for.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `noise` is out of range.

    Example:
        >>> adascale(noise=3.0).lr_factor(4)  # the noise scale is 3 times the first batch size
        2.2857142857142856

    Source:
        Johnson, Agrawal, Gu, Guestrin 2020, arXiv 2007.05105 (the gain).

    Departures:
        There an update counts for as much as its gain: the LR schedule follows the sum of gains, and training ends
        where that reaches the updates of the first size. Here the clock counts samples, whatever the gain: schedule and
        training end where they would without growth. There both moments are averaged for as long as the ratio says;
        here the tap's memory does that.
    """

    derived_for: ClassVar[frozenset[str] | None] = frozenset({"SGD"})
    instead: ClassVar[str] = "use `sqrt` for Adam, or insist with `ab.couplings.adascale(any_optimizer=True)`"

    noise: float | None = None
    any_optimizer: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise is not None:
            remedy = "where all is noise the gain is that of `linear`"
            object.__setattr__(self, "noise", float(_checks.finite("noise", self.noise, minimum=0, remedy=remedy)))

    @property
    def follows_noise(self) -> bool:
        """See `Coupling.follows_noise`."""
        return self.noise is None

    def with_noise(self, noise: float) -> Coupling:
        """See `Coupling.with_noise`."""
        if not self.follows_noise:
            return self
        return linear(any_optimizer=self.any_optimizer) if noise == math.inf else replace(self, noise=noise)

    def lr_factor(self, ratio: float) -> float:
        """The gain.

        Raises:
            RuntimeError: if the noise is not known.
        """
        if checked_ratio(ratio) == 1:
            return 1.0
        if self.noise is None:
            remedy = "give the BatchSizeScheduler a policy with a tap, or write for example `adascale(noise=8.0)`"
            raise UsageError("coupling", "'adascale' must know the noise", remedy=remedy)
        return ratio * ((self.noise + 1) / (self.noise + ratio))
