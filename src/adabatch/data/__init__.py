"""Loaders whose batch size can change at any update: exact delivery, order and resume."""

from adabatch.data.loader import DataLoader
from adabatch.data.pool import WorkerDiedError
from adabatch.data.resident import ResidentLoader
from adabatch.data.rng import sample_seed

__all__ = ["DataLoader", "ResidentLoader", "WorkerDiedError", "sample_seed"]
