"""Devices: how long their floats are, where whole numbers are as on the CPU, how tensors get there without a wait."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

_ALIKE: Final = ("cuda", "meta")  # Apple's and others were not tried


def counts_alike(device: torch.device) -> bool:
    """Whether a device other than the CPU computes with 64-bit whole numbers as the CPU does: they wrap around.

    Example:
        >>> counts_alike(torch.device("cuda")), counts_alike(torch.device("cpu"))
        (True, False)
    """
    return device.type in _ALIKE


def longest_float(device: torch.device) -> torch.dtype:
    """The type for sums: float64 if the device has it, else float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def stream_of(device: torch.device) -> Any:
    """The current stream of a GPU, whose work is done in turn; None elsewhere. What is kept for one is for it alone."""
    return torch.accelerator.current_stream(device) if device.type == "cuda" else None


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on `device`; from the CPU to a GPU it is on its way, and nothing waits for it.

    Example:
        >>> sent(torch.arange(3), torch.device("meta")).device
        device(type='meta')
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
