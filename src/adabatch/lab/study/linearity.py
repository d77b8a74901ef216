"""How far a loss bends along a gradient step: a diagnostic of steps that are too long for large batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from adabatch import _checks
from adabatch._errors import ArgumentError


def linear_approximation_error(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    lr: float,
    ratio: float,
) -> float:
    """The error of the linear approximation of the loss over one step at the linearly scaled LR.

    `|L(w) - (L(w*) + <g(w*), w - w*>)|` at `w = w* - lr ratio g(w*)`, where w* are the trainable parameters and L and
    its gradient g are of the given batch. The model is used in its mode (training or evaluation) and not changed:
    neither parameters and their gradients, nor buffers, nor torch's random states. Dropout draws the same masks at w
    as at w*.

    Args:
        model: at the weights w*, commonly those at the end of training.
        loss_fn: maps the model's output and `targets` to the mean loss of the batch.
        inputs: of a batch of size m, `[m, ...]`.
        targets: of the same batch.
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
        >>> linear_approximation_error(line, nn.functional.mse_loss, x, 0 * x, lr=0.125, ratio=2)
        0.25

    Source: Golmant et al. 2018, arXiv 1811.12941. Departures: L is of the batch that gives the gradient, so that the
        error is of the curvature alone and not of the batch's noise.
    """
    step = float(_checks.finite("lr", lr, above=0) * _checks.finite("ratio", ratio, above=0))
    weights = {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}
    if not weights:
        raise ArgumentError("model", "must have trainable parameters", got="none")

    def loss(at: dict[str, Tensor]) -> Tensor:
        buffers = {name: one.detach().clone() for name, one in model.named_buffers()}
        with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
            return loss_fn(torch.func.functional_call(model, {**buffers, **at}, (inputs,)), targets)

    with torch.enable_grad():
        start = loss({name: one.requires_grad_() for name, one in weights.items()})
        gradients = torch.autograd.grad(start, list(weights.values()), allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        moved = {name: one - step * slope for (name, one), slope in zip(weights.items(), gradients, strict=True)}
        end = loss(moved)
    fall = step * sum(float(slope.double().square().sum()) for slope in gradients)
    return abs(float(end) - (float(start.detach()) - fall))
