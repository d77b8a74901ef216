"""Memory: seconds and bytes of a step by micro-batch size, and whether the process keeps freed memory."""

from adabatch import _torch as _torch
from adabatch.memory._allocator import AllocatorTuning, tune_allocator
from adabatch.memory._profile import Point, StepProfile
from adabatch.memory._profile_step import profile_step

__all__ = ["AllocatorTuning", "Point", "StepProfile", "profile_step", "tune_allocator"]
