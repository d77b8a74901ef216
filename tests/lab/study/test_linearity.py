import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from adabatch.lab import models
from adabatch.lab.study.linearity import linear_approximation_error


def half_squares(output, targets):
    return (output - targets).square().sum(1).mean() / 2


def error(model, loss_fn, inputs, targets, **more):
    return linear_approximation_error(model, lambda: loss_fn(model(inputs), targets), **more)


@given(st.integers(1, 5), st.integers(1, 6), st.floats(1e-3, 1), st.floats(1, 64), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_on_a_quadratic_it_is_half_the_curvature_along_the_step(width, m, lr, ratio, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs, targets, weight = (
        torch.randn(*shape, generator=generator).double() for shape in ((m, width), (m, 1), (1, width))
    )
    model = nn.Linear(width, 1, bias=False).double()
    model.weight.data.copy_(weight)
    gradient = ((weight @ inputs.T - targets.T) @ inputs / m).ravel()
    hessian = inputs.T @ inputs / m
    found = error(model, half_squares, inputs, targets, lr=lr, ratio=ratio)
    assert found == pytest.approx(float((lr * ratio) ** 2 / 2 * gradient @ hessian @ gradient), rel=1e-9, abs=1e-12)
    assert torch.equal(model.weight.data, weight)


def test_a_linear_loss_has_none():
    model = nn.Linear(3, 1).double()
    ones = torch.ones(4, 3).double()
    found = error(model, lambda output, targets: (output * targets).mean(), ones, ones[:, :1], lr=1, ratio=9)
    assert found == pytest.approx(0, abs=1e-12)


def naive(model, loss_fn, inputs, targets, *, step):
    """The formula, by a step of torch's optimizer on a copy."""
    model = copy.deepcopy(model)
    start = loss_fn(model(inputs), targets)
    start.backward()
    squares = sum(float(one.grad.square().sum()) for one in model.parameters())
    torch.optim.SGD(model.parameters(), lr=step).step()
    end = loss_fn(model(inputs), targets)
    return abs(float(end.detach()) - (float(start.detach()) - step * squares))


@pytest.mark.parametrize("name", ["mlp", "resnet20", "lstm"])
def test_of_every_kind_of_network_it_is_that_of_a_step(name):
    """A recurrent network of torch keeps its weights in a second place."""
    torch.manual_seed(0)
    if name == "lstm":
        model = models.lstm(vocabulary=7, context=5, width=6)
        inputs, targets = torch.randint(7, (4, 5)), torch.randint(7, (4, 5))
    else:
        model = models.build(name, in_channels=1, image_size=8, classes=3)
        inputs, targets = torch.randn(6, 1, 8, 8).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    model.double().train()
    found = error(model, nn.functional.cross_entropy, inputs, targets, lr=0.1, ratio=4)
    assert found == pytest.approx(naive(model, nn.functional.cross_entropy, inputs, targets, step=0.4), rel=1e-9)
    assert found > 1e-6


def test_nothing_of_the_model_changes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones(8, 4)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    inputs, targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.no_grad():
        first = error(model, nn.functional.cross_entropy, inputs, targets, lr=0.1, ratio=4)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones(8, 4))
    assert model[3].weight.grad is None
    assert [one.requires_grad for one in model.parameters()] == [True, False, True, True, True, True]
    assert first == error(model, nn.functional.cross_entropy, inputs, targets, lr=0.1, ratio=4) > 0


def test_an_error_on_the_way_leaves_the_model_as_it_was():
    model = nn.Linear(2, 1)
    before, calls = model.weight.detach().clone(), []

    def loss():
        calls.append(None)
        if len(calls) == 2:
            raise KeyError("lost")
        return model(torch.ones(1, 2)).sum()

    with pytest.raises(KeyError, match="lost"):
        linear_approximation_error(model, loss, lr=0.1, ratio=1)
    assert torch.equal(model.weight.detach(), before)


def test_dropout_draws_the_same_masks_at_both_places():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 1, bias=False)).double()
    inputs = torch.randn(8, 64).double()
    found = error(model, lambda output, _: output.mean(), inputs, inputs, lr=1e-3, ratio=1)
    assert found == pytest.approx(0, abs=1e-12)


def test_frozen_parameters_stay_in_the_step():
    model = nn.Linear(2, 1).double()
    model.weight.requires_grad_(False)
    inputs, targets = torch.ones(1, 2).double(), torch.zeros(1, 1).double()
    gradient = float(model(inputs).detach())
    found = error(model, half_squares, inputs, targets, lr=0.5, ratio=2)
    assert found == pytest.approx(gradient**2 / 2)


def test_a_loss_that_is_lost_is_told():
    model, x = nn.Linear(1, 1), torch.full((1, 1), 1e20)
    assert not math.isfinite(error(model, half_squares, x, x, lr=1e9, ratio=8))


def test_errors():
    model, x = nn.Linear(1, 1), torch.ones(1, 1)
    with pytest.raises(ValueError, match="`ratio` must be greater than 0, got 0"):
        error(model, half_squares, x, x, lr=0.1, ratio=0)
    with pytest.raises(ValueError, match="`model` must have trainable parameters, got none"):
        error(model.requires_grad_(False), half_squares, x, x, lr=0.1, ratio=1)
