"""Square-root coupling: the LR grows as the root of the batch size, for Adam and its kin."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from adabatch.couplings._base import Coupling, checked_ratio


@dataclass(frozen=True)
class sqrt(Coupling):  # noqa: N801
    """Square-root scaling: the LR grows as the root of the batch size.

        factor = sqrt(B / B0)

    For Adam, AdamW, RMSprop and LAMB, whose step is a gradient divided by its own size, and for sign descent, which
    does so in each coordinate.

    Args:
        any_optimizer: also accept optimizers that the rule was not derived for.

    Raises:
        TypeError: if `any_optimizer` is not a bool.

    Example:
        >>> sqrt().lr_factor(2048 / 128)
        4.0

    Source:
        Malladi, Lyu, Panigrahi, Arora 2022, arXiv 2205.10287 (RMSprop and Adam); You et al. 2019, arXiv 1904.00962
        (LAMB); Seesaw 2025, arXiv 2510.14717; Naganuma et al. 2026, arXiv 2602.03001 (Signum).

    Departures:
        Malladi et al. change the betas and eps as well; here only the LR follows, `adam_sde` is complete. Hoffer,
        Hubara, Soudry 2017, arXiv 1705.08741, use the root with SGD; since this package's papers ask for the
        linear rule there, SGD has to be insisted on.
    """

    derived_for: ClassVar[frozenset[str] | None] = frozenset(
        {"Adam", "AdamW", "RMSprop", "LAMB", "Lamb", "SignSGD", "Signum"}
    )
    instead: ClassVar[str] = (
        "use `linear` for SGD, `none` to leave the LR alone, or insist with `ab.couplings.sqrt(any_optimizer=True)`"
    )

    _: KW_ONLY
    any_optimizer: bool = False

    def lr_factor(self, ratio: float) -> float:
        """The root of the ratio."""
        return math.sqrt(checked_ratio(ratio))
