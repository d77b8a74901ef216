"""Normalisation whose noise does not follow the batch size."""

from __future__ import annotations

from adabatch.norm.ghost import ghost

__all__ = ["ghost"]
