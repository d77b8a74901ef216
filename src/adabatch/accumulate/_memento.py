"""What a failed attempt at a batch may have touched, kept so that it can be put back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from weakref import ref

import torch
from torch import Tensor


class Memento:
    """Gradients and buffers of modules, which `keep` copies and `restore` puts back, bit for bit.

    Gradients that are None, as `zero_grad` leaves them, cost nothing.

    Args:
        modules: the modules.
        parameters: theirs.
    """

    def __init__(self, modules: Iterable[torch.nn.Module], parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        every = (inner for module in modules for inner in module.modules())
        self._slots = [(inner._buffers, name) for inner in every for name in inner._buffers]
        self.devices = {p.device for p in self._parameters if p.device.type not in ("cpu", "meta")}
        self._gradients: list[tuple[Tensor | None, Tensor | None]] = []
        self._others: dict[int, tuple[ref[Tensor], Tensor | None, Tensor | None]] = {}
        self._buffers: list[Tensor | None] = []
        self._copies: list[Tensor] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Copies what is there now."""
        self._gradients = [(grad, _copy(grad)) for grad in (p.grad for p in self._parameters)]
        self._others = {}
        self._buffers = [buffers.get(name) for buffers, name in self._slots]
        present = [buffer for buffer in self._buffers if buffer is not None]
        if not _alike(self._copies, present):
            self._copies = [torch.empty_like(buffer) for buffer in present]
        if present:
            torch._foreach_copy_(self._copies, present)

    @torch.no_grad()
    def keep_also(self, others: Iterable[Tensor]) -> None:
        """Copies the gradients of other parameters, unless it has since the last `keep`."""
        for other in others:
            known = self._others.get(id(other))
            if known is None or known[0]() is not other:
                self._others[id(other)] = (ref(other), other.grad, _copy(other.grad))

    @torch.no_grad()
    def restore(self) -> None:
        """Puts back what was copied."""
        for parameter, kept in zip(self._parameters, self._gradients, strict=True):
            _put(parameter, *kept)
        for reference, gradient, copy in self._others.values():
            other = reference()
            if other is not None:
                _put(other, gradient, copy)
        copies = iter(self._copies)
        for (buffers, name), buffer in zip(self._slots, self._buffers, strict=True):
            if buffer is not None:
                buffers[name] = buffer.copy_(next(copies))


def _put(parameter: Tensor, gradient: Tensor | None, copy: Tensor | None) -> None:
    parameter.grad = gradient
    if gradient is not None and copy is not None:
        gradient.copy_(copy)


def _copy(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.detach().clone()


def _alike(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(
        one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
        for one, other in zip(ours, theirs, strict=True)
    )
