"""What the optimizers' tests share: a naive reference is stepped beside an optimizer."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

SHAPES = ((4, 3), (3,), (2, 3, 2, 2), ())


def parameters(*, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[torch.nn.Parameter]:
    """Weights, biases and a number, drawn."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES]


def gradients(like: list[Any], step: int) -> list[Tensor]:
    """The gradients of a step, drawn."""
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in like]


def check_against(
    make: Callable[[Any], torch.optim.Optimizer],
    reference: Callable[[Tensor, Tensor, dict[str, Any], int], Tensor],
    *,
    steps: int = 30,
    before: Callable[[torch.optim.Optimizer, int], None] = lambda optimizer, step: None,
) -> None:
    """Steps an optimizer and the reference of one parameter, `(value, grad, state, step) -> value`, side by side."""
    trained = parameters()
    expected = [value.detach().clone() for value in trained]
    states: list[dict[str, Any]] = [{} for _ in trained]
    optimizer = make(trained)
    for step in range(steps):
        before(optimizer, step)
        found = gradients(trained, step)
        for value, grad in zip(trained, found, strict=True):
            value.grad = grad.clone()
        optimizer.step()
        expected = [
            reference(value, grad, state, step) for value, grad, state in zip(expected, found, states, strict=True)
        ]
        for value, wanted, grad in zip(trained, expected, found, strict=True):
            torch.testing.assert_close(value.detach(), wanted, rtol=1e-12, atol=1e-12)
            assert value.grad is not None
            assert value.grad.equal(grad), "gradients must be left as they are"


def check_resumes(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    """A state that is saved, loaded, pickled or copied goes on with the same bits."""

    def run(optimizer: torch.optim.Optimizer, first: int, last: int) -> list[Tensor]:
        values = [value for group in optimizer.param_groups for value in group["params"]]
        for step in range(first, last):
            for value, grad in zip(values, gradients(values, step), strict=True):
                value.grad = grad
            optimizer.step()
        return [value.detach().clone() for value in values]

    unbroken = run(make(parameters()), 0, 6)
    first = make(parameters())
    reached = run(first, 0, 3)
    second = make([torch.nn.Parameter(value) for value in reached])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for goes_on in (second, pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        assert all(map(torch.equal, run(goes_on, 3, 6), unbroken))


def check_habits(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    """Closures, parameters without gradients, several groups, sparse gradients, bad values."""
    trained = parameters()
    optimizer = make(trained)
    assert optimizer.step(lambda: 7.0) == 7.0
    before = [value.detach().clone() for value in trained]
    trained[0].grad = torch.ones_like(trained[0])
    optimizer.step()
    assert not trained[0].equal(before[0])
    assert all(map(torch.equal, trained[1:], before[1:]))
    sparse = torch.nn.Parameter(torch.zeros(3, 2))
    sparse.grad = torch.eye(3, 2).to_sparse()
    with pytest.raises(RuntimeError, match=r"needs dense gradients, got torch\.sparse_coo; use torch\.optim\.SGD"):
        make([sparse]).step()
    pairs = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    pairs.grad = torch.ones_like(pairs)
    with pytest.raises(RuntimeError, match=r"needs real gradients, got torch\.complex64; use torch\.optim\.Adam"):
        make([pairs]).step()
    assert not pairs.any()
    for name in ("lr", "weight_decay"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 0, got -1"):
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))], name: -1.0})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))], "lr": torch.tensor(0.1)})
    optimizer.step()


def check_beside(
    ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer, *, steps: int = 10, tolerance: float = 1e-9
) -> None:
    """Steps an optimizer and another package's with the same gradients; their parameters stay equal."""
    pairs = [[value for group in each.param_groups for value in group["params"]] for each in (ours, theirs)]
    before = [value.detach().clone() for value in pairs[0]]
    for step in range(steps):
        for values, optimizer in zip(pairs, (ours, theirs), strict=True):
            for value, grad in zip(values, gradients(values, step), strict=True):
                value.grad = grad
            optimizer.step()
    for value, twin, first in zip(*pairs, before, strict=True):
        torch.testing.assert_close(value, twin, rtol=tolerance, atol=tolerance)
        assert not value.equal(first), "both must have moved"
