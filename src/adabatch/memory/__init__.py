"""Memory: seconds and bytes of a step by micro-batch size, the bytes of a device, and who keeps freed memory."""

from adabatch import _torch as _torch
from adabatch.memory._allocator import AllocatorTuning, tune_allocator
from adabatch.memory._profile import Point, StepProfile
from adabatch.memory._profile_step import all_bytes, free_bytes, peak_bytes, profile_step

__all__ = [
    "AllocatorTuning", "Point", "StepProfile", "all_bytes", "free_bytes", "peak_bytes", "profile_step",
    "tune_allocator",
]  # fmt: skip
