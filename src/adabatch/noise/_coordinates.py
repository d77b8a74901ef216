"""The noise scale in the l1 norm, from squares of gradients coordinate by coordinate.

Coordinate i of a part's mean gradient has the variance sigma_i^2 / n_k. With weights w_k, which add up to W,

    D_i = sum of w_k (g_ki - g_i)^2 = sum of w_k g_ki^2 - W g_i^2
    sigma_i^2 = D_i / (sum of w_k / n_k - sum of w_k^2 / n_k / W)

is unbiased, and summed over i it is the trace of `trace_and_signal`. A root is not: for normal gradients, and weights
as the samples, D_i has K - 1 degrees of freedom for K parts, and E sqrt(D_i / (K - 1)) falls short by the factor c4(K).
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from adabatch import _devices, _distributed
from adabatch.noise._batch import MeasuredBatch
from adabatch.noise._watched import Watched
from adabatch.noise.estimator import Parts

_WIDE: Final = (torch.float64, torch.complex128)


def deviation(found: Parts, spread: float) -> float:
    """The sum of sigma_i over coordinates, as one batch shows it; unbiased for normal gradients weighed by samples.

    Args:
        found: the sums over all parts of the batch, at least two; their squares are not used.
        spread: the sum of sqrt(D_i).

    Example:
        >>> from adabatch.noise import parts
        >>> round(deviation(parts([1, 1], [0.0, 0.0]), spread=math.sqrt(2)), 4)  # gradients 2 and 0 in one coordinate
        1.7725
    """
    variance = found.first - found.second / found.total
    return spread / math.sqrt(variance) / _c4(found.number)


def _c4(number: int) -> float:
    """The mean of a standard deviation from so many normal values, over the true one."""
    half = (number - 1) / 2
    return math.exp(math.lgamma(half + 0.5) - math.lgamma(half)) / math.sqrt(half)


class Coordinates(NamedTuple):
    """A batch's gradient.

    Attributes:
        lengths: the l1 norms of each group and of all at last.
        squares: of each coordinate, by the number of the parameter.
    """

    lengths: Tensor
    squares: dict[int, Tensor]


class WatchedCoordinates(Watched):
    """Watches squares of gradients, coordinate by coordinate, in the place of their norms; see `Watched`.

    For a measured batch that takes the memory of three more gradients at most.
    """

    def _norm(self, _index: int, gradient: Tensor) -> Tensor:
        gradient = gradient.to_dense() if gradient.is_sparse else gradient
        return (gradient if gradient.dtype in _WIDE else gradient.float()).abs().square()

    @torch.no_grad()
    def own(self) -> dict[int, Tensor]:
        """Squares since `clear`, by the number of the parameter; nan where they cannot be told."""
        return {index: each * torch.nan if self._torn else each for index, each in self._seen().items()}

    @torch.no_grad()
    def whole(self) -> Coordinates:
        """The l1 norms and squares of what is in `.grad`."""
        lengths, squares = {}, {}
        for index, parameter in enumerate(self.parameters):
            gradient: Any = parameter.grad
            if gradient is not None and parameter.requires_grad:
                gradient = gradient.to_dense() if gradient.is_sparse else gradient
                lengths[index] = gradient.abs().sum(dtype=_devices.longest_float(gradient.device))
                squares[index] = self._norm(index, gradient)
        return Coordinates(self.by_group(lengths), squares)

    def left(self) -> Tensor:
        """See `Watched.left`."""
        return self.whole().lengths[-1]


class MeasuredCoordinates(MeasuredBatch):
    """The parts of a batch, coordinate by coordinate; see `MeasuredBatch`.

    Where ranks share the batch, all sums of squares travel between them once: as much as its gradient.

    Args:
        watched: what watches the parameters; None where their spreads come with `close`.
        *arguments: of `MeasuredBatch`.
        **more: the same.
    """

    def __init__(self, watched: WatchedCoordinates | None, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._watched = watched
        self._spread: dict[int, Tensor] = {}

    def _add(self, squares: Any, times: float | Tensor, counts: Tensor | None = None) -> None:
        for index, each in squares.items():
            found = each * _near(times, each)
            found = found if counts is None else torch.where(_near(counts, each), found, 0.0)
            held = self._spread.get(index)
            self._spread[index] = found if held is None else held.add_(found)

    @torch.no_grad()
    def close(self, whole: Any, *, shared: bool, scale: float, group: Any, world: int) -> None:
        """See `MeasuredBatch.close`.

        Args:
            whole: the batch's gradient; where gradients are sharded its l1 norm and the sum of sqrt(D_i).
            shared: see there.
            scale: see there.
            group: see there.
            world: see there.
        """
        if self._watched is not None:
            weights = self._told[2] + self._sums[self._width + 2]  # of this rank
            spreads = {}
            for index, parameter in enumerate(self._watched.parameters):
                if not parameter.requires_grad:
                    continue
                found = self._spread.pop(index, None)
                square = whole.squares.get(index)
                if square is not None:
                    square = square * weights.to(square.device)
                    found = -square if found is None else found.sub_(square)
                elif found is None:
                    found = torch.zeros_like(
                        parameter, dtype=torch.float64 if parameter.dtype in _WIDE else torch.float32
                    )
                found = _distributed.summed(found, group) if world > 1 else found
                spreads[index] = found.clamp_(min=0).sqrt_().sum(dtype=_devices.longest_float(found.device))
            whole = torch.cat([whole.lengths, self._watched.by_group(spreads)])
        super().close(whole, shared=shared, scale=scale, group=group, world=world)

    def _shown(self, sums: list[Parts], whole: list[float], scale: float) -> list[tuple[float, float]]:
        """The sum of sigma_i and the l1 norm of each group."""
        lengths, spreads = whole[: len(sums)], whole[len(sums) :]
        return [
            (deviation(each, spread / scale), length / scale)
            for each, spread, length in zip(sums, spreads, lengths, strict=True)
        ]


def _near(value: Any, other: Tensor) -> Any:
    """A tensor where another is; other values as they are."""
    return value.to(other.device) if isinstance(value, Tensor) else value
