"""Memory: how the process hands it back to the kernel."""

from __future__ import annotations

from adabatch.memory.allocator import AllocatorTuning, tune_allocator

__all__ = ["AllocatorTuning", "tune_allocator"]
