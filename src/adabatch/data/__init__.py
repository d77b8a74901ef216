"""Loaders whose batch size can change at any update: exact delivery, order and resume."""

from adabatch.data.foreign import micro_batches
from adabatch.data.loader import DataLoader
from adabatch.data.rng import sample_seed

__all__ = ["DataLoader", "micro_batches", "sample_seed"]
