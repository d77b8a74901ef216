"""What `fully_shard` scatters: a rank's own gradient, seen on the way, and the mean as torch makes it, bit for bit."""

from __future__ import annotations

import pytest
import torch
from tests.accumulate.ranks import on_ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from adabatch import _distributed


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).to(dtype)


def sharded(mesh, dtype=torch.float32):
    model = network(dtype)
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def samples(rank):
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(rank))


def it_sees_what_it_scatters(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    plain, model, alone = sharded(mesh), sharded(mesh), network()
    own = _distributed.own_norms(model)
    assert len(own) == 2
    for is_open in (False, True):
        for each in own:
            each.is_open = is_open
        for each in (plain, model, alone):
            each.zero_grad()
            each(samples(rank)).square().mean().backward()
        for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            assert torch.equal(mine.grad.to_local(), theirs.grad.to_local())
        if not is_open:
            assert not any(each.squares for each in own)
    seen = sum(float(square) for each in own for square in each.squares)
    assert seen == pytest.approx(sum(float(p.grad.square().sum()) for p in alone.parameters()), rel=1e-6)
    assert len(_distributed.own_norms(model)) == 2, "a second tap takes its place"


def it_scatters_squares_too(rank, world):
    """Of each coordinate: what the ranks' squares, weighed, exceed the square of their mean by; padding counts as 0."""
    mesh = init_device_mesh("cpu", (world,))
    model, plain = sharded(mesh), sharded(mesh)
    own, weights = _distributed.own_norms(model), [2.0 + rank for rank in range(world)]
    for each in own:
        each.is_open, each.weights = True, (weights[rank], sum(weights))
    gradients = []
    for turn in range(world):
        alone = network()
        alone(samples(turn)).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in alone.parameters()]))
    for each in (model, plain):
        each(samples(rank)).square().mean().backward()
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad.to_local(), theirs.grad.to_local())
    mean = sum(gradients) / world
    spread = sum(w * g.square() for w, g in zip(weights, gradients, strict=True)) - sum(weights) * mean.square()
    share = sum(square for each in own for square in each.squares)
    found = _distributed.summed(share)
    assert float(found) == pytest.approx(float(spread.clamp(min=0).sqrt().sum()), rel=1e-4)


def what_is_refused(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    other = sharded(mesh)
    other.set_custom_reduce_scatter(object())
    with pytest.raises(ValueError, match="`model` must scatter the gradients of each module at once, as torch does"):
        _distributed.own_norms(other)
    replicas = sharded(init_device_mesh("cpu", (1, world), mesh_dim_names=("replicate", "shard")))
    with pytest.raises(ValueError, match="`model` must be sharded over one mesh of one dimension"):
        _distributed.own_norms(replicas)
    double = sharded(mesh, torch.float64)
    for each in _distributed.own_norms(double):
        each.is_open = True
    with pytest.raises(ValueError, match="`model` must average gradients in float32 or bfloat16, undivided"):
        double(samples(rank).double()).sum().backward()


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, it_sees_what_it_scatters, it_scatters_squares_too, what_is_refused)
