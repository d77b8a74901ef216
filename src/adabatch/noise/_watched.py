"""Squared norms of gradients by groups of parameters: of each backward pass's own, and of what is in `.grad`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from adabatch import _devices

_NARROW: Final = (torch.float16, torch.bfloat16)


class Watched:
    """Parameters whose gradients are measured.

    Hooks see the gradient that a pass adds to `.grad`, before it is added, averaged over ranks or clipped; not what
    `torch.autograd.grad` returns. Where a parameter gets it in several pieces, as from two losses or from a layer used
    twice under re-entrant checkpointing, norms do not add up: the first time nothing is told, and from then on the
    pieces of such parameters are summed.

    Args:
        parameters: those that are measured, each once.
        names: the group of each; None: no groups.

    Attributes:
        groups: the names of the groups, each once.
        scales: by the number of a parameter, what its gradients are divided by, element by element; those that it lacks
            are left out. None: they are not divided.
        sharded: whether `whole` gives this rank's share alone, and `own` one gradient of the rank for a batch.
    """

    sharded = False

    def __init__(self, parameters: Sequence[Tensor], names: Sequence[str] | None = None) -> None:
        self.parameters = list(parameters)
        self.groups = tuple(dict.fromkeys(names or ()))
        self._rows = [self.groups.index(name) for name in names or ()]
        self._hooks: list[tuple[Any, Any]] = []  # with the nodes that add to `.grad`: torch lets go of them
        self._norms: dict[int, Tensor] = {}
        self._pieces: dict[int, Tensor] = {}
        self._in_pieces: set[int] = set()
        self._torn = False  # whether a parameter got its gradient in pieces, unexpectedly
        self.scales: dict[int, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """The device of the results."""
        return self.parameters[0].device

    @property
    def is_open(self) -> bool:
        """Whether the hooks are set."""
        return bool(self._hooks)

    @property
    def seen(self) -> bool:
        """Whether a gradient came since `clear`."""
        return bool(self._norms or self._pieces)

    def open(self, scales: dict[int, Tensor] | None = None) -> None:
        """Sets the hooks, unless they are, and clears what was seen.

        Args:
            scales: see above.
        """
        self.clear()
        self.scales = scales
        if not self._hooks:
            for index, parameter in enumerate(self.parameters):
                if parameter.requires_grad:  # it may be frozen now and thawed later
                    # A hook of the parameter would also see what `torch.autograd.grad` returns and nobody adds.
                    adds = torch.autograd.graph.get_gradient_edge(parameter).node
                    self._hooks.append((adds, adds.register_prehook(self._hook_of(index))))

    def close(self) -> None:
        """Removes the hooks."""
        for _, hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.clear()

    def has_gradients(self) -> bool:
        """Whether `.grad` of any that is trained holds something."""
        return any(p.grad is not None and p.requires_grad for p in self.parameters)

    def clear(self) -> None:
        """Forgets what was seen."""
        self._norms, self._pieces, self._torn = {}, {}, False

    @torch.no_grad()
    def drop_zeroed(self) -> None:
        """Before a further pass: forgets what was seen of gradients that were zeroed since. Waits for the device."""
        seen = {*self._norms, *self._pieces}
        there = {index: gradient for index in seen if (gradient := self.parameters[index].grad) is not None}
        if there:
            filled = torch.stack([_is_filled(gradient).to(self.device) for gradient in there.values()]).tolist()
            there = {index: gradient for (index, gradient), is_ in zip(there.items(), filled, strict=True) if is_}
        for index in seen - there.keys():
            self._norms.pop(index, None)
            self._pieces.pop(index, None)
        self._torn = self._torn and self.seen

    def _hook_of(self, index: int) -> Callable[[tuple[Tensor | None, ...]], None]:
        def look(gradients: tuple[Tensor | None, ...]) -> None:
            (gradient,) = gradients
            if gradient is None or self._is_left_out(index):
                return
            with torch.no_grad():
                gradient = gradient.detach()
                if index in self._in_pieces:
                    held = self._pieces.get(index)
                    self._pieces[index] = gradient.clone() if held is None else _sum(held, gradient)
                elif index in self._norms:
                    self._in_pieces.add(index)
                    self._torn = True
                else:
                    self._norms[index] = self._norm(index, gradient)

        return look

    def _is_left_out(self, index: int) -> bool:
        return self.scales is not None and index not in self.scales

    def _norm(self, index: int, gradient: Tensor) -> Tensor:
        scale = None if self.scales is None else self.scales[index]
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            scale = None if scale is None else scale[tuple(gradient.indices())]
            gradient = gradient.values()
        if scale is not None:
            gradient = gradient / scale
        norm: Tensor = torch.linalg.vector_norm(gradient, dtype=torch.float32 if gradient.dtype in _NARROW else None)
        return norm

    def _seen(self) -> dict[int, Tensor]:
        return self._norms | {index: self._norm(index, each) for index, each in self._pieces.items()}

    @torch.no_grad()
    def own(self) -> Any:
        """Squared norms since `clear`, of each group and of all at last; nan where they cannot be told."""
        found = self.by_group(self._seen(), squared=True)
        return found * torch.nan if self._torn else found

    def left(self) -> Tensor:
        """Not 0 if something is in `.grad`."""
        found: Tensor = self.whole()[-1]
        return found

    @torch.no_grad()
    def whole(self) -> Any:
        """Squared norms of what is in `.grad`, of each group and of all at last."""
        norms: dict[int, Tensor] = {}
        kinds: dict[tuple[torch.dtype, torch.device], list[tuple[int, Tensor]]] = {}
        for index, parameter in enumerate(self.parameters):
            gradient: Any = parameter.grad
            if gradient is None or not parameter.requires_grad or self._is_left_out(index):
                continue
            if gradient.is_sparse or self.scales is not None or gradient.dtype in _NARROW:
                norms[index] = self._norm(index, gradient)
            else:
                kinds.setdefault((gradient.dtype, gradient.device), []).append((index, gradient))
        for members in kinds.values():
            lengths = torch._foreach_norm([gradient for _, gradient in members])  # noqa: SLF001
            norms |= {index: length for (index, _), length in zip(members, lengths, strict=True)}
        return self.by_group(norms, squared=True)

    def by_group(self, numbers: dict[int, Tensor], *, squared: bool = False) -> Tensor:
        """The sums of numbers of parameters, or of their squares, over each group and over all at last.

        In float64, where the device has it.
        """
        device, kind = self.device, _devices.longest_float(self.device)
        found = torch.zeros(len(self.groups) + 1, dtype=kind, device=device)
        if numbers:
            values = torch.stack([each.to(device) for each in numbers.values()]).to(kind)
            values = values.square() if squared else values
            if self.groups:
                rows = torch.tensor([self._rows[index] for index in numbers], device=device)
                found.index_add_(0, rows, values)
            found[-1] = values.sum()
        return found


def _sum(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two gradients, sparse or not; torch adds a sparse one to another, and not the other way round."""
    return other + one if one.is_sparse and not other.is_sparse else one + other


def _is_filled(gradient: Tensor) -> Tensor:
    """Whether it has anything but zeros."""
    return (gradient.coalesce().values() if gradient.is_sparse else gradient).any()
