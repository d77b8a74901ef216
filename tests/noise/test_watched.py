"""Norms of a pass's own gradient and of what is in `.grad`, by group, at any precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from adabatch.noise._coordinates import WatchedCoordinates
from adabatch.noise._watched import Watched


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def watched_of(model, *, groups=True):
    parameters = [*model.parameters()]
    return Watched(parameters, ["first", "first", "second", "second"] if groups else None)


def squares(model):
    first, second = (sum(float(p.grad.double().square().sum()) for p in layer.parameters()) for layer in model)
    return [first, second, first + second]


@pytest.mark.parametrize("groups", [True, False])
def test_own_norms_are_those_before_gradients_add_up(groups):
    model = layers()
    watched, x = watched_of(model, groups=groups), torch.randn(5, 3)
    model(x).sum().backward()
    first = squares(model)
    assert watched.whole().tolist() == pytest.approx(first if groups else first[-1:])
    watched.open()
    assert watched.is_open
    model(2 * x).square().sum().backward()
    own = watched.own().tolist()
    model.zero_grad()
    watched.close()
    model(2 * x).square().sum().backward()
    assert own == pytest.approx(squares(model) if groups else squares(model)[-1:])
    assert not watched.is_open
    assert not watched.seen


def test_one_that_was_not_reached_counts_as_zero():
    model = layers()
    watched = watched_of(model)
    watched.open()
    assert not watched.seen
    assert watched.own().tolist() == watched.whole().tolist() == [0, 0, 0]
    model[0](torch.randn(5, 3)).sum().backward()
    assert watched.seen
    first, second, both = watched.own().tolist()
    assert (second, both) == (0, first)
    assert watched.has_gradients()
    model.requires_grad_(False)
    assert not watched.has_gradients()
    watched.close()


def test_pieces_are_summed_from_the_second_time_on():
    model, x = layers(), torch.randn(5, 3)
    watched = watched_of(model)
    for turn in range(2):
        watched.open()
        model.zero_grad()
        model(x).sum().backward()
        model(x).square().sum().backward()
        own = watched.own().tolist()
        if turn == 0:
            assert all(math.isnan(value) for value in own)
        else:
            assert own == pytest.approx(squares(model))
    watched.close()


@pytest.mark.parametrize("kind", [Watched, WatchedCoordinates])
@pytest.mark.parametrize("order", ["sparse", "sparse first", "dense first"])
def test_sparse_pieces_of_other_rows(order, kind):
    """Sums of rows that differ in number, some twice; and of a tied layer, which has a dense piece."""
    table, tokens = nn.Embedding(5, 2, sparse=True), (torch.tensor([0, 3, 3]), torch.tensor([3, 1]))
    watched = kind([table.weight])
    losses = [lambda rows=rows: (table(rows) * torch.tensor([1.0, 2.0])).sum() for rows in tokens]
    if order != "sparse":
        losses[1] = lambda: table.weight.square().sum() / 7
    for _ in range(2):
        watched.open()
        table.zero_grad()
        for loss in losses[:: -1 if order == "dense first" else 1]:
            loss().backward()
    own, gradient = watched.own(), table.weight.grad.to_dense()
    if kind is Watched:
        assert float(own) == pytest.approx(float(gradient.square().sum()))
        assert float(watched.whole()) == pytest.approx(float(own))
    else:
        assert torch.equal(own[0], gradient.square())
    watched.close()


@pytest.mark.parametrize("to_none", [True, False])
def test_what_was_thrown_away_is_dropped_for_each_parameter(to_none):
    """Here those of one layer alone, after they came in pieces."""
    model, x = layers(), torch.randn(5, 3)
    watched = watched_of(model)
    for _ in range(2):
        watched.open()
        model.zero_grad()
        for zeroed in (model, model[0], nn.Identity()):
            model(x).sum().backward()
            model(x).square().sum().backward()
            zeroed.zero_grad(set_to_none=to_none)
            watched.drop_zeroed()
            torch.autograd.grad(model(x).sum(), [*model.parameters()])
        assert watched.own().tolist() == pytest.approx(squares(model))
    watched.close()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    """The square of a gradient of 300 is beyond the range of fp16."""
    weight = nn.Parameter(torch.zeros(4, dtype=dtype))
    watched = Watched([weight])
    watched.open()
    (weight * 300).sum().backward()
    assert watched.own().tolist() == pytest.approx([4 * 300.0**2], rel=1e-2)
    assert watched.whole().tolist() == pytest.approx([4 * 300.0**2], rel=1e-2)
    watched.close()


def test_scales_divide_each_element():
    weight = nn.Parameter(torch.zeros(2))
    watched = Watched([weight])
    watched.open({0: torch.tensor([2.0, 4.0])})
    (weight * torch.tensor([6.0, 8.0])).sum().backward()
    assert [*watched.own().tolist(), *watched.whole().tolist()] == pytest.approx([3**2 + 2**2] * 2)
    watched.close()


def test_scales_of_sparse_gradients_are_those_of_their_rows():
    table = nn.Embedding(3, 2, sparse=True)
    watched = Watched([table.weight])
    watched.open({0: torch.tensor([[1.0, 1.0], [2.0, 4.0], [5.0, 10.0]])})
    (table(torch.tensor([2, 1, 2])) * torch.tensor([10.0, 20.0])).sum().backward()  # of row 2 twice
    assert [*watched.own().tolist(), *watched.whole().tolist()] == pytest.approx([2 * 5**2 + 2 * 4**2] * 2)
    watched.close()
