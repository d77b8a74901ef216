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
    What is in `.grad` are shards of the mean, so their norms add up over ranks.

    Args:
        modules: the models, sharded as a whole.
        parameters: those that an optimizer trains.
        coordinates: whether squares are watched coordinate by coordinate. Then `own` has nothing, and `whole` this
            rank's share of the l1 norm and of the sum of sqrt(D_i), see `MeasuredCoordinates`.

    Raises:
        ValueError: if others are trained too, since what is scattered holds all gradients of a module, or some are not
            sharded; see also `own_norms`.
    """

    groups: tuple[str, ...] = ()
    sharded = True

    def __init__(self, modules: Sequence[nn.Module], parameters: Sequence[Tensor], *, coordinates: bool) -> None:
        self.parameters, self.coordinates = list(parameters), coordinates
        held = {id(each) for each in parameters}
        if any(each.requires_grad and id(each) not in held for module in modules for each in module.parameters()):
            raise ArgumentError(
                "optimizer",
                "must train all parameters of a sharded model that require a gradient",
                got="one that lacks some",
                remedy="give all optimizers, as a list",
            )
        if any(each.requires_grad and not hasattr(each, "device_mesh") for each in parameters):
            raise ArgumentError(
                "model",
                "must shard all parameters that are trained",
                got="one that ignores some, whose gradients are not averaged",
                remedy="leave `ignored_params` out, or freeze them",
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

    def drop_zeroed(self) -> None:
        """See `Watched.drop_zeroed`; if some are zeroed and others not, all stays, and `own` cannot tell."""
        if self.seen and not (self.has_gradients() and self.left()):
            self.clear()

    def weigh(self, weight: float, all_weights: float) -> None:
        """Before a batch's backward passes: what squares of this rank's gradient count, and all ranks together."""
        if self.coordinates:
            for each in self._own:
                each.weights = weight, all_weights

    def has_gradients(self) -> bool:
        """Whether `.grad` of any that is trained holds something."""
        return any(p.grad is not None and p.requires_grad for p in self.parameters)

    @torch.no_grad()
    def own(self) -> Any:
        """The squared norm since `clear`, in float64; nan where a module scattered several times."""
        return {} if self.coordinates else self._scattered()

    def _scattered(self) -> Tensor:
        """What was told since `clear`."""
        found = torch.zeros(1, dtype=torch.float64, device=self.device)
        for each in self._own:
            for square in each.squares:
                found += square
            if len(each.squares) > 1:
                found *= torch.nan
        return found

    def left(self) -> Tensor:
        """Not 0 if something is in this rank's share of `.grad`."""
        return self._lengths().sum()

    @torch.no_grad()
    def whole(self) -> Tensor:
        """This rank's share of the squared norm of what is in `.grad`, in float64."""
        return torch.cat([self._lengths(), self._scattered()]) if self.coordinates else self._lengths()

    @torch.no_grad()
    def _lengths(self) -> Tensor:
        found = torch.zeros(1, dtype=torch.float64, device=self.device)
        for parameter in self.parameters:
            gradient: Any = parameter.grad
            if gradient is None or not parameter.requires_grad:
                continue
            shard = _distributed.local(gradient)
            if self.coordinates:
                found += shard.abs().sum(dtype=torch.float64)
            else:
                found += torch.linalg.vector_norm(shard, dtype=torch.float32).double().square()
        return found
