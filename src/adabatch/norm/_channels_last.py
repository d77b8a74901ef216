"""Ghost batch norm in the `channels_last` memory formats on a CPU, where no view makes sub-batches channels.

Memory holds a batch as rows of `count` samples, one of each sub-batch. A number's place in its row gives its sub-batch,
its position (height and width) and its channel. So one call of a torch kernel on `[size, numbers of a row]` gives the
statistics of every place; those of the sub-batches' channels follow. Element-wise work is done for all sub-batches at
once, too. Nothing is copied, and only the input is kept for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

_NEAR: Final = 16.0  # sums without the mean are exact enough if it lies fewer standard deviations from 0
_WIDTH: Final = 1024  # most numbers that factors are repeated to: element-wise work on short rows is slow
_statistics = torch.ops.aten.batch_norm_update_stats.default
_backward = torch.ops.aten.native_batch_norm_backward.default
_of_parameters = torch.ops.aten.native_layer_norm_backward.default


class GhostInChannelsLast(torch.autograd.Function):
    """`GhostInChannelsLast.apply(input, weight, bias, count, eps)` gives output, means and biased variances.

    `input` is `[batch, channels, ...]` in a `channels_last` memory format and `count` divides the batch. Statistics are
    `[count, 1, channels]`, in single precision at least. The output may be differentiated any number of times.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, count: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalises each sub-batch by its own statistics."""
        x = _rows(input, count)
        # Without running statistics the kernel computes them for half-precision inputs in half precision.
        running = None if input.dtype.itemsize > 2 else x.new_zeros(x.stride(0), dtype=torch.float32)
        found = _statistics(x.view(len(x), -1, 1, 1), running, running, 0.0)
        of_places, variances = (each.view(count, -1, input.shape[1]) for each in found)
        means = of_places.mean(1, keepdim=True)
        off = of_places - means
        variances = torch.addcmul(variances, off, off).mean(1, keepdim=True)
        scales = (variances + eps).rsqrt_()
        a = scales if weight is None else scales * weight
        b = -a * means if bias is None else torch.addcmul(bias, a, means, value=-1)
        output = torch.empty_like(input)  # no view, since it may be changed in place
        a, b = _repeated(x, a, b)
        torch.addcmul(b, x, a, out=_rows(output, count))
        ctx.save_for_backward(input, weight, means, scales)
        ctx.mark_non_differentiable(means, variances)
        ctx.eps = eps
        return output, means, variances

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input, weight and bias: `a (dy - mean(dy) - z mean(dy z))` with `z = (x - mean) scale`."""
        input, weight, means, scales = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is differentiated in turn
            wanted = ctx.needs_input_grad[1:3]
            return (*_differentiable(gradient, input, weight, means, scales, ctx.eps, wanted), None, None)
        count = len(means)
        dy, x = _rows(gradient, count), _rows(input, count)
        of_z, of_dy = _sums(dy, x, means, scales)
        wanted, *others = ctx.needs_input_grad[:3]
        of_weight, of_bias = (
            each.sum((0, 1)) if other else None for each, other in zip((of_z, of_dy), others, strict=True)
        )
        if not wanted:
            return None, of_weight, of_bias, None, None
        a = scales if weight is None else scales * weight
        share = a * (-means.numel() / input.numel())
        b = of_z.mul_(scales).mul_(share)
        c = torch.addcmul(of_dy.mul_(share), b, means, value=-1)
        a, b, c = _repeated(x, a, b, c)
        of_input = torch.addcmul(c, x, b).addcmul_(dy, a).to(input.dtype)
        return of_input.view(input.movedim(1, -1).shape).movedim(-1, 1), of_weight, of_bias, None, None


def _differentiable(
    gradient: Tensor,
    input: Tensor,
    weight: Tensor | None,
    means: Tensor,
    scales: Tensor,
    eps: float,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients by a kernel that torch can differentiate, from copies with sub-batches as channels."""
    count, _, channels = means.shape
    shape = (-1, count * channels, *input.shape[2:])
    factor = None if weight is None else weight.to(means.dtype).repeat(count)
    given = (gradient.reshape(shape), input.reshape(shape), factor, None, None, means.flatten(), scales.flatten())
    of_input, *others = _backward(*given, True, eps, [True, True, True])
    of_input = of_input.reshape(input.shape)
    return (
        of_input,
        *(each.view(count, -1).sum(0) if other else None for each, other in zip(others, wanted, strict=True)),
    )


def _sums(dy: Tensor, x: Tensor, means: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of `dy z` and of `dy` over rows from `_rows`, both `[count, 1, channels]`."""
    size, width = len(x), x.stride(0)
    if x.dtype.itemsize > 2 and float(torch.linalg.vector_norm(means * scales, math.inf)) < _NEAR:
        # These are the gradients of layer norm's parameters: faster, but in the precision of the input.
        like, shift, scale = means.new_empty(width), means.new_zeros(size), means.new_ones(size)
        pair = (dy.view(size, width), x.view(size, width))
        found = _of_parameters(*pair, [width], shift, scale, like, like, [False, True, True])
        of_x, of_dy = (each.view(len(means), -1, means.shape[-1]).sum(1, keepdim=True) for each in found[1:])
        return torch.addcmul(of_x, of_dy, means, value=-1).mul_(scales), of_dy
    pair = (dy.view(size, width, 1, 1), x.view(size, width, 1, 1))
    of_places = [each.expand(-1, width // means.numel(), -1).flatten() for each in (means, scales)]
    found = _backward(*pair, None, None, None, *of_places, True, 0.0, [False, True, True])
    of_z, of_dy = (each.view(len(means), -1, means.shape[-1]).sum(1, keepdim=True) for each in found[1:])
    return of_z, of_dy


def _rows(input: Tensor, count: int) -> Tensor:
    """`input` as `[size, count, positions / n, n * channels]`, a view where its memory format is `channels_last`."""
    channels = input.shape[1]
    positions = input.numel() // (len(input) * channels)
    together = max(_WIDTH // channels, 1)
    while positions % together:
        together -= 1
    return input.movedim(1, -1).contiguous().view(len(input) // count, count, -1, together * channels)


def _repeated(rows: Tensor, *factors: Tensor) -> tuple[Tensor, ...]:
    """`[count, 1, channels]` each as `[count, 1, n * channels]`, to go with `rows`."""
    together = torch.cat(factors, 1)
    count, kinds, channels = together.shape
    times = rows.shape[-1] // channels
    return together[:, :, None].expand(-1, -1, times, -1).reshape(count, kinds, 1, -1).unbind(1)
