"""Waits for a GPU: refused on CUDA; on the device "meta", whose tensors hold no numbers, each read raises by itself.

So a loop that runs on "meta" reads nothing back from its device, and waits for no GPU. What is copied to the device can
be counted there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

META, CUDA = torch.device("meta"), torch.device("cuda", 0)


@contextmanager
def refused(device: torch.device) -> Iterator[None]:
    """While entered, what waits for `device` raises."""
    if device.type == "meta":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Calls(TorchDispatchMode):
    """While entered, counts the operators that run, by name; and copies from the CPU to elsewhere as `"sent"`."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.counts[name] += 1
        if name == "_to_copy" and args[0].device.type == "cpu" != found.device.type:
            self.counts["sent"] += 1
        if name == "copy_" and args[1].device.type == "cpu" != args[0].device.type:
            self.counts["sent"] += 1
        return found
