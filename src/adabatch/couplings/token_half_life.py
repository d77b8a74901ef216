"""Coupling of Adam's second moment alone: it forgets at the same rate in tokens at every batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from adabatch.couplings._base import Coupling, checked_ratio


@dataclass(frozen=True)
class token_half_life(Coupling):  # noqa: N801
    """Constant half-life of Adam's second moment in tokens (or samples), at the LR of the user's scheduler.

        beta2 -> beta2 ** k,  k = B / B0;  half-life = B ln(1/2) / ln(beta2) tokens

    For Adam and AdamW. LR, beta1 and eps stay. The bias correction stays exact, as in `adam_sde`.

    Example:
        >>> in_force = token_half_life().in_force({"lr": 0.001, "betas": (0.9, 0.99)}, 2)
        >>> sorted(in_force), [round(beta, 9) for beta in in_force["betas"]]
        (['betas'], [0.9, 0.9801])

    Source:
        Marek, Lotfi, Somasundaram, Wilson, Goldblum 2025, arXiv 2507.07101 (half-life of the second moment held fixed
        in tokens).

    Departures:
        The paper compares batch sizes between runs, down to a single sequence; here the size changes within a run.
    """

    derived_for: ClassVar[frozenset[str] | None] = frozenset({"Adam", "AdamW"})
    instead: ClassVar[str] = "it changes beta2 alone, which others do not have in this form; use `none` or `power(p)`"

    def lr_factor(self, ratio: float) -> float:
        """Always 1."""
        checked_ratio(ratio)
        return 1.0

    def in_force(self, group: Mapping[str, Any], ratio: float) -> dict[str, Any]:
        """The betas, the second one changed."""
        beta1, beta2 = group["betas"]
        return {} if checked_ratio(ratio) == 1 else {"betas": (beta1, beta2**ratio)}
