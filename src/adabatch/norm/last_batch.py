"""Batch norm without running averages: evaluation takes the statistics of the last batch, or of a pass over data.

In large-batch training running averages lag: few updates pass while weights change much. Here a layer keeps the mean and
variance of the batch that was trained on last, over its micro-batches and ranks, and nothing of the batches before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adabatch import _checks, _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.norm._exchange import exchanged, layers_of, like


class LastBatchNorm(_BatchNorm):
    """The base of the layers for 1, 2 and 3 dimensions; `last_batch` makes them.

    Attributes:
        gathers: whether passes add up until `begin_batch()`; else each pass is a batch.
        counts: whether the coming pass counts; False for the repeated sample of a rank without any.
    """

    gathers: bool
    counts: bool
    _seen: float  # values of each channel in the batch so far
    _mean: Tensor | None  # their mean, and the sum of their squared deviations from it
    _squares: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """Normalises `[batch, channels, ...]`: in training by its own statistics, else by those of the last batch."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        kind = next(tensor for tensor in (self.running_mean, self.weight, input) if tensor is not None)
        mean, variance = kind.new_zeros(2, input.shape[1]).unbind()
        output = nn.functional.batch_norm(
            input, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps
        )
        if self.counts:
            self._add(mean.detach(), variance.detach(), input.numel() // input.shape[1])
        return output

    @torch.no_grad()
    def _add(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Adds `count` values of each channel; the variance is the unbiased one."""
        wide = torch.float32 if mean.device.type == "mps" else torch.float64
        mean, squares = mean.to(wide), variance.to(wide) * (count - 1)
        if not self.gathers:
            self.begin_batch()
        if self._mean is None or self._squares is None:
            self._seen, self._mean, self._squares = count, mean, squares
            return
        total = self._seen + count
        off = mean - self._mean
        self._mean = self._mean + off * (count / total)
        self._squares = self._squares + squares + off.square() * (self._seen * count / total)
        self._seen = total

    def begin_batch(self) -> None:
        """Forgets the batch so far."""
        self._seen, self._mean, self._squares = 0, None, None

    def sums(self) -> Tensor:
        """Values, their sum about the running mean and about it squared, `[2 * channels + 1]`; adds up over ranks."""
        assert self.running_mean is not None
        about = self.running_mean.to(torch.float64 if self.running_mean.device.type != "mps" else torch.float32)
        if self._mean is None or self._squares is None:
            return about.new_zeros(2 * len(about) + 1)
        off = self._mean - about
        return torch.cat([self._squares + self._seen * off.square(), self._seen * off, off.new_tensor([self._seen])])

    @torch.no_grad()
    def settle(self, sums: Tensor) -> None:
        """Sets the statistics of evaluation from the sums over all ranks."""
        assert self.running_mean is not None
        assert self.running_var is not None
        squares, off = sums[:-1].view(2, -1) / sums[-1]
        self.running_var.copy_((squares - off.square()).clamp(min=0))
        self.running_mean.add_(off.to(self.running_mean.dtype))
