"""How far a loss bends along a gradient step: a diagnostic of steps that are too long for large batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from adabatch import _checks
from adabatch._errors import ArgumentError


def linear_approximation_error(model: nn.Module, loss: Callable[[], Tensor], *, lr: float, ratio: float) -> float:
    """The error of the linear approximation of the loss over one step at the linearly scaled LR.

    `|L(w) - (L(w*) + <g(w*), w - w*>)|` at `w = w* - lr ratio g(w*)`, where w* are the trainable parameters and L and
    its gradient g are of one batch. The model is used in its mode (training or evaluation). Afterwards its parameters
    and their gradients, its buffers and torch's random states are as before. Dropout draws the same masks at w as at
    w*.

    Args:
        model: at the weights w*, commonly those at the end of training.
        loss: returns the mean loss of a batch of size m, by the model as it is at that moment.
        lr: of the base batch size m0.
        ratio: m / m0.

    Returns:
        The error in units of the loss; infinite or NaN if the loss is so at w. It carries the rounding of the loss.

    Raises:
        ValueError: if `lr` or `ratio` is not above 0, or no parameter is trainable.

    Example:
        >>> line = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(line.weight)
        >>> x = torch.tensor([[1.0]])
        >>> linear_approximation_error(line, lambda: nn.functional.mse_loss(line(x), 0 * x), lr=0.125, ratio=2)
        0.25

    Source: Golmant et al. 2018, arXiv 1811.12941. Departures: L is of the batch that gives the gradient, so that the
        error is of the curvature alone and not of the batch's noise.
    """
    step = float(_checks.finite("lr", lr, above=0) * _checks.finite("ratio", ratio, above=0))
    weights, buffers = [one for one in model.parameters() if one.requires_grad], list(model.buffers())
    if not weights:
        raise ArgumentError("model", "must have trainable parameters", got="none")
    weights_before, buffers_before = _copies(weights), _copies(buffers)
    device = weights[0].device

    def measured() -> Tensor:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return loss()

    try:
        with torch.enable_grad():
            start = measured()
            gradients = torch.autograd.grad(start, weights, allow_unused=True, materialize_grads=True)
        _put_back(buffers, buffers_before)
        with torch.no_grad():  # in place: a recurrent network of torch does not see weights that are handed to it
            for one, slope in zip(weights, gradients, strict=True):
                one.sub_(slope, alpha=step)
            end = measured()
    finally:
        _put_back([*weights, *buffers], [*weights_before, *buffers_before])
    fall = step * sum(float(slope.double().square().sum()) for slope in gradients)
    return abs(float(end) - (float(start.detach()) - fall))


def _copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [one.detach().clone() for one in tensors]


@torch.no_grad()
def _put_back(tensors: Iterable[Tensor], before: Iterable[Tensor]) -> None:
    for one, kept in zip(tensors, before, strict=True):
        one.copy_(kept)
