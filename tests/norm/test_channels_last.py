"""Ghost batch norm in the `channels_last` memory formats: its own gradients, and their gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.norm.test_ghost import LAST, filled, naive
from torch import Tensor, nn

from adabatch.norm import ghost


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("samples", [8, 10])
def test_gradients_of_gradients_in_channels_last(affine: bool, samples: int) -> None:
    layer = filled(nn.BatchNorm2d(2, affine=affine, track_running_stats=False))
    layer = ghost(layer, size=4)
    x = torch.randn(samples, 2, 2, 3, dtype=torch.float64).contiguous(memory_format=LAST[2]).requires_grad_()

    def apply(x: Tensor, *_: Tensor) -> Tensor:
        return layer(x.contiguous(memory_format=LAST[2]))

    assert torch.autograd.gradcheck(apply, (x, *layer.parameters()))
    assert torch.autograd.gradgradcheck(apply, (x, *layer.parameters()))


def test_gradients_of_the_parameters_alone_and_a_gradient_in_another_memory_format() -> None:
    plain = filled(nn.BatchNorm2d(3)).float()
    x = torch.randn(16, 3, 4, 5)
    weights = torch.randn_like(x)
    layer = ghost(copy.deepcopy(plain), size=4)
    (layer(x.contiguous(memory_format=LAST[2])).contiguous() * weights).sum().backward()
    (naive(plain, x, 4) * weights).sum().backward()
    for mine, theirs in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_second_derivatives_without_a_bias() -> None:
    layer = ghost(filled(nn.BatchNorm2d(2, track_running_stats=False)), size=2)
    layer.bias = None
    x = torch.randn(4, 2, 2, 3, dtype=torch.float64)
    found = []
    for memory_format in (torch.contiguous_format, LAST[2]):
        here = x.clone(memory_format=memory_format).requires_grad_()
        (gradient,) = torch.autograd.grad((layer(here) ** 3).sum(), here, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), (here, layer.weight)))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, check_stride=False)


def test_batch_and_channels_inside_the_height_in_memory() -> None:
    x = torch.randn(1, 11, 2, 5).permute(2, 3, 1, 0).requires_grad_()
    other = x.detach().contiguous().requires_grad_()
    layer = ghost(nn.BatchNorm2d(5), size=1)
    for each in (x, other):
        (layer(each) ** 3).sum().backward()
    torch.testing.assert_close(x.grad, other.grad, check_stride=False)


def test_a_large_gradient_in_float16() -> None:
    layer = ghost(nn.BatchNorm2d(4), size=128)
    x = torch.randn(256, 4, 4, 4).relu().half().contiguous(memory_format=LAST[2])
    layer(x).backward(torch.full_like(x, 1024.0))
    assert layer.bias.grad.tolist() == [1024.0 * 256 * 16] * 4
    assert layer.weight.grad.isfinite().all()
