"""Power coupling: any exponent, between and beyond none, sqrt and linear."""

from __future__ import annotations

import math
from dataclasses import dataclass

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.couplings._base import Coupling, checked_ratio


@dataclass(frozen=True)
class power(Coupling):  # noqa: N801
    """Power law: the LR grows as the batch size to the power p, for any optimizer.

        factor = (B / B0) ** p

    Args:
        p: the exponent, finite; 0 is `none`, 0.5 `sqrt`, 1 `linear`. Below 0 the LR falls as the batch grows.

    Raises:
        TypeError: if `p` is not a number.
        ValueError: if `p` is not finite.

    Example:
        >>> power(0.75).lr_factor(16)
        8.0

    Source:
        McCandlish et al. 2018, arXiv 1812.06162 (exponents of 0.5 to 1 for Adam and RMSprop, 1 for SGD).
    """

    p: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", float(_checks.finite("p", self.p, remedy="published values lie in 0 to 1")))

    def lr_factor(self, ratio: float) -> float:
        """The ratio to the power p.

        Raises:
            ValueError: if that is too large or too small for a float.
        """
        try:
            factor = math.pow(checked_ratio(ratio), self.p)
        except OverflowError:
            factor = math.inf
        if not 0 < factor < math.inf:
            raise ArgumentError(
                "p", "must give an LR factor that a float holds", got=f"{factor:g} from {ratio:g} ** {self.p:g}"
            )
        return factor
