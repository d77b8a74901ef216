"""Devices: where whole numbers come out as on the CPU, and how tensors get there without a wait."""

from __future__ import annotations

from typing import Final

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


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor that lies on the CPU, on `device`; to a GPU it is on its way, and nothing waits for it.

    Example:
        >>> sent(torch.arange(3), torch.device("meta")).device
        device(type='meta')
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
