"""The parameters of a quadratic: a point that is to come near the samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adabatch import _checks


class Quadratic(nn.Module):
    """See `quadratic`."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(dimensions))

    def forward(self, x: Tensor) -> Tensor:
        """Maps samples `[batch, dimensions]` to the differences `theta - x`."""
        return self.theta - x


def quadratic(*, dimensions: int = 256) -> Quadratic:
    """One point `theta`, the parameters of a quadratic: maps a sample to its difference from it.

    Every coordinate of `theta` is 1 at the start, whatever the seed.

    Args:
        dimensions: parameters, at least 1.

    Example:
        >>> quadratic(dimensions=2)(torch.tensor([[0.0, 3.0]])).tolist()
        [[1.0, -2.0]]
    """
    _checks.whole("dimensions", dimensions)
    return Quadratic(dimensions)
