"""The parts of one measured batch on one rank, and what they and the batch show over all ranks."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from adabatch import _devices, _distributed
from adabatch.noise.estimator import Parts, trace_and_signal

_EXTRA: Final = 5  # numbers after the squares: first, second, total, count, and what was in `.grad` before


class Found(NamedTuple):
    """What a measured batch showed, for each group and for all parameters at last.

    Attributes:
        values: pairs of trace and signal; none where they are not finite or the gradient is not the batch's alone.
        why_not: why there is none, in words.
    """

    values: list[tuple[float, float]]
    why_not: str = ""


class MeasuredBatch:
    """Sums over the parts of a batch, kept on the device until they are asked for.

    Args:
        width: the number of groups, and one.
        before: the squared norm of what is in `.grad` before the batch; None for nothing.
        device: of the numbers.
        end: the clock at the end of the batch, in samples.
        size: samples in the batch.
    """

    def __init__(self, width: int, before: Tensor | None, device: torch.device, *, end: int, size: int) -> None:
        self.end, self.size = end, size
        self._sums = torch.zeros(width + _EXTRA, dtype=_devices.longest_float(device), device=device)
        if before is not None:
            self._sums[-1] = before
        self._told = [0.0, 0.0, 0.0, 0.0]  # first, second, total and count of parts whose weights are no tensors
        self._width, self._scale = width, 1.0
        self._whole: Tensor | None = None

    @torch.no_grad()
    def add(self, squares: Any, *, factor: float | Tensor, size: int, weight: float | Tensor) -> None:
        """Adds a part.

        Args:
            squares: squared norms of the gradient that its pass gave.
            factor: that gradient over the mean one of the part.
            size: its samples.
            weight: what it counts in the batch; a part of 0 is left out.
        """
        sums = self._sums
        if not size:
            return
        if not isinstance(weight, Tensor) and not isinstance(factor, Tensor):
            if weight:
                self._add(squares, weight / factor / factor)
                numbers = (weight / size, weight * weight / size, weight, 1.0)
                self._told = [one + other for one, other in zip(self._told, numbers, strict=True)]
            return
        weight = torch.as_tensor(weight, dtype=sums.dtype, device=sums.device)
        factor = torch.as_tensor(factor, dtype=sums.dtype, device=sums.device)
        counts = weight > 0
        self._add(squares, weight / torch.where(counts, factor, 1.0).square(), counts)
        sums[self._width : -1] += torch.stack([weight / size, weight.square() / size, weight, counts.to(sums.dtype)])

    def _add(self, squares: Any, times: float | Tensor, counts: Tensor | None = None) -> None:
        """Adds squares so many times, unless they do not count."""
        found = squares * times
        self._sums[: self._width] += found if counts is None else torch.where(counts, found, 0.0)

    def close(self, whole: Any, *, shared: bool, scale: float, group: Any, world: int) -> None:
        """The batch is over; all ranks must call it.

        Args:
            whole: squared norms of the batch's gradient.
            shared: whether those are this rank's share of them.
            scale: the factor of a GradScaler on all losses.
            group: the ranks that share the batch.
            world: their number.
        """
        sums = self._sums
        sums[self._width : -1] += torch.tensor(self._told, dtype=sums.dtype, device=sums.device)
        if world > 1:
            sums = _distributed.summed(torch.cat([sums, whole]), group)
            sums, summed = sums[: -len(whole)], sums[-len(whole) :]
            whole = summed if shared else whole
        self._sums, self._whole, self._scale = sums, whole, scale

    def read(self) -> Found:
        """What it showed; waits for the device."""
        assert self._whole is not None
        numbers = torch.cat([self._sums, self._whole]).tolist()
        *squares, first, second, total, count, before = numbers[: -len(self._whole)]
        if before:  # nan too
            return Found([], "gradients of before it were still in `.grad`; zero them after each step")
        if count < 2:
            return Found([], "fewer than two of its parts counted")
        sums = [Parts(square, first, second, total, int(count)) for square in squares]
        found = self._shown(sums, numbers[-len(self._whole) :], self._scale)
        if not all(value - value == 0 for pair in found for value in pair):
            return Found([], "a gradient was not finite, or came in several pieces")
        return Found(found)

    def _shown(self, sums: list[Parts], whole: list[float], scale: float) -> list[tuple[float, float]]:
        """Trace and signal of each group, from sums and norms that a GradScaler has scaled."""
        scale *= scale
        return [
            trace_and_signal(each._replace(squares=each.squares / scale), square / scale)
            for each, square in zip(sums, whole, strict=True)
        ]
