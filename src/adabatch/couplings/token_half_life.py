"""Coupling of Adam's second moment alone: it forgets at the same rate in tokens at every batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.couplings._base import Coupling, checked_ratio


@dataclass(frozen=True)
class token_half_life(Coupling):  # noqa: N801
    """Constant half-life of Adam's second moment in tokens (or samples), at the LR of the user's scheduler.

        beta2 -> beta2 ** k within [beta_min, beta_max],  k = B / B0;  half-life = B ln(1/2) / ln(beta2) tokens

    For Adam and AdamW. LR, beta1 and eps stay. The bias correction stays exact, as in `adam_sde`. A beta2 that the
    user's own setting puts outside the bounds moves no further out.

    Args:
        beta_min: beta2 falls no lower, from 0 to below 1; 0 for no bound.
        beta_max: beta2 rises no higher, from `beta_min` to 1; 1 for no bound.

    Raises:
        TypeError: if a bound is not a number.
        ValueError: if one is out of range.

    Example:
        >>> in_force = token_half_life().in_force({"lr": 0.001, "betas": (0.9, 0.99)}, 2)
        >>> sorted(in_force), [round(beta, 9) for beta in in_force["betas"]]
        (['betas'], [0.9, 0.9801])

    Source:
        Marek, Lotfi, Somasundaram, Wilson, Goldblum 2025, arXiv 2507.07101 (half-life of the second moment held fixed
        in tokens).

    Departures:
        The paper compares batch sizes between runs, down to a single sequence; here the size changes within a run. The
        bounds are not the paper's: without them beta2 falls far at a large batch, and training has been seen to spike.
    """

    derived_for: ClassVar[frozenset[str] | None] = frozenset({"Adam", "AdamW"})
    instead: ClassVar[str] = "it changes beta2 alone, which others do not have in this form; use `none` or `power(p)`"

    _: KW_ONLY
    beta_min: float = 0.95
    beta_max: float = 0.9999

    def __post_init__(self) -> None:
        low = _checks.finite("beta_min", self.beta_min, minimum=0, below=1, remedy="0 sets no lower bound")
        high = _checks.finite("beta_max", self.beta_max, minimum=low, remedy="1 sets no upper bound")
        if high > 1:
            raise ArgumentError("beta_max", "must be at most 1", value=high, remedy="1 sets no upper bound")
        object.__setattr__(self, "beta_min", float(low))
        object.__setattr__(self, "beta_max", float(high))

    def lr_factor(self, ratio: float) -> float:
        """Always 1."""
        checked_ratio(ratio)
        return 1.0

    def in_force(self, group: Mapping[str, Any], ratio: float) -> dict[str, Any]:
        """The betas, the second one changed."""
        beta1, beta2 = group["betas"]
        if checked_ratio(ratio) == 1:
            return {}
        low, high, found = min(self.beta_min, beta2), max(self.beta_max, beta2), beta2**ratio
        if not low <= found <= high:
            found = (low if found < low else high) + 0 * beta2  # a tensor where beta2 is one
        return {"betas": (beta1, found)}
