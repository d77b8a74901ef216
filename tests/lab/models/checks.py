"""Checks for networks: parameter counts, initial weights, and scores against a naive version of the paper's network."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from adabatch.lab import models


def on_meta(name: str, size: int, classes: int) -> nn.Module:
    with torch.device("meta"):
        return models.build(name, in_channels=3, image_size=size, classes=classes)


def with_weights(build: Callable[..., nn.Module], *args, **kwargs) -> nn.Module:
    """The network with weights that let every layer act: norms scale and shift, biases are not 0."""
    with torch.device("meta"):
        model = build(*args, **kwargs)
    model = model.to_empty(device="cpu").double()
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.zero_()
        elif value.ndim == 1 and not name.endswith("bias"):  # of norms: scale, running mean, running variance
            value.uniform_(0.5, 1.5, generator=generator)
        else:
            fan_in = value[0].numel() if value.ndim > 1 else 1
            value.uniform_(-1, 1, generator=generator).mul_(min(1.0, (6 / fan_in) ** 0.5))
    return model


def check_count(name: str, size: int, classes: int, count: int) -> None:
    """Checks that a network has as many parameters as published, and that its docstring says so."""
    assert sum(parameter.numel() for parameter in on_meta(name, size, classes).parameters()) == count
    assert f"{count:,}" in models.__dict__[name].__doc__ or classes == 100


def check_scores(name: str, channels: int, size: int, reference: Callable, *, train: bool) -> None:
    """Checks scores against the naive network on fixed weights: counts of parameters miss the order of layers."""
    shape = {"in_channels": channels, "image_size": size, "classes": 7}
    model = with_weights(models.build, name, **shape).train(train)
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randn(3, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.manual_seed(3)  # of dropout
        scores = model(images.clone())
        torch.manual_seed(3)
        wanted = reference(expected, images, train)
    assert scores.std() > 1e-3
    torch.testing.assert_close(scores, wanted, rtol=1e-9, atol=1e-9)
    for key, value in model.state_dict().items():  # running statistics
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-9)


def check_backward(name: str) -> None:
    """Checks that a gradient reaches all parameters."""
    torch.manual_seed(0)
    model = models.build(name, in_channels=3, image_size=32, classes=7)
    scores = model(torch.randn(2, 3, 32, 32))
    assert scores.shape == (2, 7)
    scores.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert scores.detach().std() > 0


def check_convolutions_start(name: str) -> None:
    """Checks that convolutions start as in the authors' code."""
    torch.manual_seed(1)
    model = models.build(name, in_channels=3, image_size=32, classes=10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            height, width = module.kernel_size
            expected = math.sqrt(2 / (height * width * module.out_channels))
            error = 5 / math.sqrt(2 * module.weight.numel())  # five standard errors of a standard deviation
            assert module.weight.std().item() == pytest.approx(expected, rel=error)
            assert abs(module.weight.mean().item()) < 5 * expected / math.sqrt(module.weight.numel())
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            assert not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


def check_head_starts(name: str, *, bias: bool) -> None:
    """Checks that the last layer starts as in torch, but with a bias of 0."""
    torch.manual_seed(2)
    last = list(models.build(name, in_channels=3, image_size=32, classes=100).children())[-1]
    bound = 1 / math.sqrt(last.in_features)
    assert last.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert bool(last.bias.any()) == bias


def check_smallest(name: str, smallest: int) -> None:
    """Checks that the smallest image fits and a smaller one is refused."""
    model = models.build(name, in_channels=3, image_size=smallest, classes=2).eval()
    assert model(torch.zeros(1, 3, smallest, smallest)).shape == (1, 2)
    with pytest.raises(ValueError, match=rf"`image_size` must be at least {smallest}, got {smallest - 1}; the network"):
        models.build(name, in_channels=3, image_size=smallest - 1, classes=2)
