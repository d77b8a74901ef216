"""A claim about figures and how it came out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim and how it came out.

    Attributes:
        text: what is claimed.
        found: the figures found, in words.
        holds: whether they show it.
    """

    text: str
    found: str
    holds: bool

    def __str__(self) -> str:
        return f"{'passed' if self.holds else 'FAILED'}: {self.text}; found {self.found}"
