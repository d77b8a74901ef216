"""The same norms under `fully_shard`, where no rank holds a gradient of its own but on its way to the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adabatch import _distributed
from adabatch._errors import ArgumentError


class WatchedShards:
    """Sharded parameters whose gradients are measured; see `Watched`.

    Each rank's own gradient is seen once a batch, where its modules scatter it: the sum over the rank's micro-batches.
    What is in `.grad` are shards of the mean, so their squared norms add up over ranks.

    Args:
        modules: the models, sharded as a whole.
        parameters: those that an optimizer trains.

    Raises:
        ValueError: if others are trained too, since what is scattered holds all gradients of a module; see also
            `own_norms`.
    """

    groups: tuple[str, ...] = ()
    sharded = True

    def __init__(self, modules: Sequence[nn.Module], parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        held = {id(each) for each in parameters}
        if any(each.requires_grad and id(each) not in held for module in modules for each in module.parameters()):
            raise ArgumentError(
                "optimizer",
                "must train all parameters of a sharded model that require a gradient",
                got="one that lacks some",
                remedy="give all optimizers, as a list",
            )
        self._own = [each for module in modules for each in _distributed.own_norms(module)]
        self.is_open = False

    @property
    def device(self) -> torch.device:
        """The device of the results."""
        return self.parameters[0].device

    @property
    def seen(self) -> bool:
        """Whether a gradient came since `clear`."""
        return any(each.squares for each in self._own)

    def open(self, _scales: object = None) -> None:
        """From now on gradients are looked at."""
        self.clear()
        self._set(True)

    def close(self) -> None:
        """They are not any more."""
        self._set(False)
        self.clear()

    def _set(self, value: bool) -> None:
        self.is_open = value
        for each in self._own:
            each.is_open = value

    def clear(self) -> None:
        """Forgets what was seen."""
        for each in self._own:
            each.squares = []

    def has_gradients(self) -> bool:
        """Whether `.grad` of any that is trained holds something."""
        return any(p.grad is not None and p.requires_grad for p in self.parameters)

    @torch.no_grad()
    def own(self) -> Tensor:
        """The squared norm since `clear`, in float64; nan where a module scattered several times."""
        found = torch.zeros(1, dtype=torch.float64, device=self.device)
        for each in self._own:
            for square in each.squares:
                found += square
            if len(each.squares) > 1:
                found *= torch.nan
        return found

    @torch.no_grad()
    def whole(self) -> Tensor:
        """This rank's share of the squared norm of what is in `.grad`, in float64."""
        found = torch.zeros(1, dtype=torch.float64, device=self.device)
        for parameter in self.parameters:
            gradient: Any = parameter.grad
            if gradient is not None and parameter.requires_grad:
                shard = _distributed.local(gradient)
                found += torch.linalg.vector_norm(shard, dtype=torch.float32).double().square()
        return found
