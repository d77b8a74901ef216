"""What a failed attempt at a batch may have touched, kept so that it can be put back."""

from __future__ import annotations

import torch
from torch import Tensor


class Memento:
    """Gradients and buffers of a model, which `keep` copies and `restore` puts back, bit for bit.

    Gradients that are None, as `zero_grad` leaves them, cost nothing.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = list(model.parameters())
        self._slots = [(module._buffers, name) for module in model.modules() for name in module._buffers]
        self.devices = {p.device for p in self._parameters if p.device.type not in ("cpu", "meta")}
        self._gradients: list[tuple[Tensor | None, Tensor | None]] = []
        self._buffers: list[Tensor | None] = []
        self._copies: list[Tensor] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Copies what is there now."""
        self._gradients = [(grad, _copy(grad)) for grad in (p.grad for p in self._parameters)]
        self._buffers = [buffers.get(name) for buffers, name in self._slots]
        present = [buffer for buffer in self._buffers if buffer is not None]
        if not _alike(self._copies, present):
            self._copies = [torch.empty_like(buffer) for buffer in present]
        if present:
            torch._foreach_copy_(self._copies, present)

    @torch.no_grad()
    def restore(self) -> None:
        """Puts back what `keep` copied."""
        for parameter, (gradient, copy) in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
            if gradient is not None and copy is not None:
                gradient.copy_(copy)
        copies = iter(self._copies)
        for (buffers, name), buffer in zip(self._slots, self._buffers, strict=True):
            if buffer is not None:
                buffers[name] = buffer.copy_(next(copies))


def _copy(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.detach().clone()


def _alike(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(
        one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
        for one, other in zip(ours, theirs, strict=True)
    )
