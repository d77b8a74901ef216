"""Loaders whose batch size can change at any update: exact delivery, order and resume."""

from adabatch.data.clock import Clock
from adabatch.data.loader import DataLoader
from adabatch.data.resident import ResidentLoader
from adabatch.data.workers.pool import WorkerDiedError
from adabatch.data.workers.rng import sample_seed

__all__ = ["Clock", "DataLoader", "ResidentLoader", "WorkerDiedError", "sample_seed"]
