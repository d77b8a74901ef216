"""Batch norm of sub-batches that lie in a row: for `channels_last` on a CPU, where no view makes them channels.

Memory holds the positions of a sub-batch (its samples' heights and widths) one after the other, the channels of each in
a row. Torch's kernels are slow on short rows, so several positions are taken for one with as many times the channels.
The kernels give the statistics of these, sub-batch by sub-batch, from which those of the channels follow; what is
element-wise is done for all sub-batches at once. Nothing is copied, and only the input is kept for the backward pass.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

_WIDTH: Final = 1024  # numbers in a row for the kernels, at most, where the channels are fewer
_statistics = torch.ops.aten.batch_norm_update_stats.default
_backward = torch.ops.aten.native_batch_norm_backward.default


class InARow(torch.autograd.Function):
    """`InARow.apply(input, weight, bias, count, eps)` gives output, means and biased variances.

    `input` is `[batch, channels, ...]` in a `channels_last` memory format and `count` divides the batch. Statistics are
    `[count, channels]`, in single precision at least. The output may be differentiated any number of times; they not.
    """

    @staticmethod
    def forward(
        input: Tensor, weight: Tensor | None, bias: Tensor | None, count: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalises each sub-batch by its own statistics."""
        x = _rows(input, count)
        neutral = torch.zeros(x.shape[2], dtype=torch.promote_types(input.dtype, torch.float32))
        found = [each for piece in x.unbind() for each in _statistics(piece, neutral, neutral, 0.0)]
        of_rows = torch.stack(found).view(count, 2, -1, input.shape[1])
        means, variances = of_rows.mean(2).unbind(1)
        variances = (of_rows[:, 0] - means[:, None]).square_().mean(1).add_(variances)
        a = _scales(variances, eps) if weight is None else _scales(variances, eps) * weight
        b = -a * means if bias is None else torch.addcmul(bias, a, means, value=-1)
        a, b = _repeated(torch.stack([a, b]), x)
        output = torch.empty_like(input)  # no view, for what is done to it in place
        torch.addcmul(b, x, a, out=_rows(output, count))
        return output, means, variances

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps what the backward pass needs."""
        input, weight, _, _, ctx.eps = inputs
        ctx.save_for_backward(input, weight, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input, weight and bias: `a (dy - mean(dy) - z mean(dy z))` with `z = (x - mean) scale`."""
        input, weight, means, variances = ctx.saved_tensors
        scales = _scales(variances, ctx.eps)
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            return (*_differentiable(gradient, input, weight, means, scales, ctx.eps), None, None)
        count, channels = means.shape
        dy, x = _rows(gradient, count), _rows(input, count)
        repeated = _repeated(torch.stack([means, scales]), x).flatten(2)
        found = [
            each
            for *piece, mean, scale in zip(dy, x, *repeated, strict=True)
            for each in _backward(*piece, None, None, None, mean, scale, True, ctx.eps, [False, True, True])[1:]
        ]
        sums = torch.stack(found).view(count, 2, -1, channels).sum(2)  # of dy z and of dy
        wanted, *others = ctx.needs_input_grad[:3]
        of_weight, of_bias = (each if other else None for each, other in zip(sums.sum(0), others, strict=True))
        if not wanted:
            return None, of_weight, of_bias, None, None
        a = scales if weight is None else scales * weight
        b, c = (sums * (-a * means.numel() / input.numel())[:, None]).unbind(1)
        b = b * scales
        a, b, c = _repeated(torch.stack([a, b, torch.addcmul(c, b, means, value=-1)]), x)
        of_input = torch.addcmul(c, x, b).addcmul_(dy, a).to(input.dtype)
        return of_input.view(input.movedim(1, -1).shape).movedim(-1, 1), of_weight, of_bias, None, None


def _differentiable(
    gradient: Tensor, input: Tensor, weight: Tensor | None, means: Tensor, scales: Tensor, eps: float
) -> tuple[Tensor | None, ...]:
    """The gradients by torch's own kernel, whose derivatives it knows."""
    factor = None if weight is None else weight.to(means.dtype)
    parts = [
        _backward(dy, x, factor, None, None, mean, scale, True, eps, [True, True, True])
        for dy, x, mean, scale in zip(gradient.chunk(len(means)), input.chunk(len(means)), means, scales, strict=True)
    ]
    of_input, *others = zip(*parts, strict=True)
    return (torch.cat(of_input), *(None if weight is None else torch.stack(each).sum(0) for each in others))


def _rows(input: Tensor, count: int) -> Tensor:
    """`input` as `[count, rows, positions * channels, 1, 1]`, a view where its memory format is `channels_last`."""
    channels = input.shape[1]
    positions = input.numel() // (count * channels)
    together = max(_WIDTH // channels, 1)
    while positions % together:
        together -= 1
    return input.movedim(1, -1).reshape(count, positions // together, together * channels, 1, 1)


def _repeated(factors: Tensor, rows: Tensor) -> Tensor:
    """`[kinds, count, channels]` as `[kinds, count, 1, positions * channels, 1, 1]`, to go with `rows`."""
    kinds, count, channels = factors.shape
    together = rows.shape[2] // channels
    return factors[:, :, None].expand(-1, -1, together, -1).reshape(kinds, count, 1, together * channels, 1, 1)


def _scales(variances: Tensor, eps: float) -> Tensor:
    """One over the deviations."""
    return (variances + eps).rsqrt()
