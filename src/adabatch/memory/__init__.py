"""Memory: which micro-batch size fits and is fastest, and how the process hands memory back to the kernel."""

from __future__ import annotations

from adabatch.memory._probe import probe
from adabatch.memory.allocator import AllocatorTuning, tune_allocator
from adabatch.memory.curve import Curve, Point

__all__ = ["AllocatorTuning", "Curve", "Point", "probe", "tune_allocator"]
