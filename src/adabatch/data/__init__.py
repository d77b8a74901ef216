"""Loaders whose batch size can change at any update: exact delivery, order and resume."""

from adabatch.data.loader import DataLoader

__all__ = ["DataLoader"]
