"""Power coupling: any exponent between and beyond none, sqrt and linear."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from adabatch import _checks
from adabatch.couplings.base import Coupling, checked_factor, checked_ratio


@dataclass(frozen=True)
class Power(Coupling):
    """See `power`."""

    name: ClassVar[str] = "power"

    p: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", float(_checks.finite("p", self.p, remedy="published values lie in 0 to 1")))

    def lr_factor(self, ratio: float) -> float:
        """The ratio to the power p."""
        ratio = checked_ratio(ratio)
        try:
            factor = ratio**self.p
        except OverflowError:
            factor = math.inf
        return checked_factor(factor, coupling=str(self), ratio=ratio)


def power(p: float) -> Coupling:
    """Power law: the LR grows as the batch size to the power p, for any optimizer.

        factor = (B / B0) ** p

    Args:
        p: the exponent, finite; 0 is `none`, 0.5 `sqrt`, 1 `linear`. Below 0 the LR falls as the batch grows.

    Returns:
        The coupling.

    Raises:
        TypeError: if `p` is not a number.
        ValueError: if `p` is not finite.

    Example:
        >>> power(0.75).lr_factor(16)
        8.0

    Source:
        McCandlish et al. 2018, arXiv 1812.06162 (exponents of 0.5 to 1 seen for Adam and RMSprop, 1 for SGD).
    """
    return Power(p)
