"""glibc's allocator, set so that large activations stay with the process.

By default glibc gives freed blocks above a threshold back to the kernel. A training step frees and takes the same large
activations again, so each step pays page faults for them, and throughput falls as the batch grows.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from dataclasses import dataclass
from typing import Final

TRIM_THRESHOLD: Final = -1  # the numbers of malloc.h
TOP_PAD: Final = -2
MMAP_THRESHOLD: Final = -3
_SETTINGS: Final = ((MMAP_THRESHOLD, (2**30, 2**25)), (TRIM_THRESHOLD, (2**31 - 1,)), (TOP_PAD, (2**28,)))
_VARIABLES: Final = (
    "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES", "LD_PRELOAD",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AllocatorTuning:
    """The outcome of `tune_allocator`.

    Attributes:
        applied: whether the allocator is tuned now.
        reason: what was done, or why nothing was.
    """

    applied: bool
    reason: str


@functools.cache
def tune_allocator() -> AllocatorTuning:
    """Makes glibc keep freed memory in the process, so that training on the CPU pays no page faults at every step.

    It acts on the whole process, from now on, which keeps the memory of its peak; a second call does nothing. So does a
    call with another C library, or where the environment sets the allocator (`MALLOC_TRIM_THRESHOLD_` and its like,
    `GLIBC_TUNABLES`, `LD_PRELOAD`). The command calls it for runs on the CPU; in your own loop, call it before the
    first large tensor.

    Returns:
        Whether it was applied, and why or why not.

    Example:
        >>> tune_allocator() is tune_allocator()
        True
    """
    if platform.libc_ver()[0] != "glibc":
        return AllocatorTuning(False, "the C library is not glibc")
    chosen = [name for name in _VARIABLES if os.environ.get(name)]
    if chosen:
        return AllocatorTuning(False, f"the environment sets {chosen[0]}")
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, values in _SETTINGS:
        if not any(mallopt(parameter, value) for value in values):  # older ones refuse a large mmap threshold
            return AllocatorTuning(False, f"mallopt refused parameter {parameter}")
    return AllocatorTuning(True, "freed memory stays in the process")
