"""Taps under `fully_shard`: from real processes the numbers of one process that sees the same gradients."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from tests.noise.test_tap_ranks import accumulated, alone, check_same, plain, setup, thrown_away, together
from tests.noise.trainings import data, network
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

import adabatch as ab


def sharded(dtype=torch.float32):
    """`fully_shard` on a layer and on the whole; the mesh is on the CPU."""
    model = network(dtype)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def shards_are_parts(rank, world):
    """Under `fully_shard`: the rank's whole share is one part, however it is cut."""
    wanted = alone(world, dtype=torch.float32)
    for micro in (None, 2):
        loader = together(world, dtype=torch.float32, micro_batch_size=micro)
        noise = accumulated(sharded(), loader, every=1)
        assert noise.kind == "ranks"
        check_same(noise, wanted, rel=1e-6)
    check_same(plain(sharded(), together(world, dtype=torch.float32)), wanted, rel=1e-6)
    assert accumulated(sharded(), together(world, dtype=torch.float32), every=3).estimate().measured == pytest.approx(3)
    model, loader = sharded(), together(world, dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters())
    for how in ({"groups": "layer"}, {"preconditioned": True}, {"kind": "halves"}):
        with pytest.raises(ValueError, match="must be left out where parameters are sharded, since a rank's"):
            ab.noise.tap(model, optimizer, loader, **how)
    with pytest.raises(ValueError, match="`optimizer` must train all parameters of a sharded model that require"):
        ab.noise.tap(model, torch.optim.SGD(model[0].parameters(), lr=0.1), loader)
    double = sharded(torch.float64)
    with pytest.raises(ValueError, match="`model` must average gradients in float32 or bfloat16, undivided, where"):
        plain(double, together(world))


def shards_in_the_l1_norm(rank, world):
    """Squares are scattered too, those of a share that is empty or shorter included."""
    wanted = alone(world, dtype=torch.float32, norm="l1")
    for micro in (None, 2):
        loader = together(world, dtype=torch.float32, micro_batch_size=micro)
        check_same(accumulated(sharded(), loader, norm="l1"), wanted, rel=1e-6)
    check_same(plain(sharded(), together(world, dtype=torch.float32), norm="l1"), wanted, rel=1e-6)
    found = []
    for model in (sharded(), DistributedDataParallel(network(torch.float32))):
        whole = data(28, dtype=torch.float32)  # batches of 13, whose shares are uneven, and of 2, too few for 3 ranks
        loader = ab.DataLoader(whole, batch_size=13, seed=0, group=dist.group.WORLD)
        found.append(accumulated(model, loader, norm="l1"))
    check_same(*found, rel=1e-6)
    model, loader = sharded(), together(world, dtype=torch.float32)
    noise = setup(model, loader, norm="l1")[-1]
    micro = next(ab.accumulate(loader, model))

    def weighed():
        with micro as (inputs, targets):
            micro.weigh(7 * micro.size)
            (mse_loss(model(inputs), targets) * micro.weight).backward()

    with pytest.raises(RuntimeError, match=r"`noise.tap` cannot measure the noise in the l1 norm where parameters are"):
        weighed()
    noise.close()


def two_taps_of_one_model(rank, world):
    """The second would silence the first, whatever its loader; after `close` it may come."""
    model, loader, other = sharded(), together(world, dtype=torch.float32), together(world, dtype=torch.float32)
    noise = setup(model, loader)[-1]
    for whole in (model, [model[0]]):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(ValueError, match=r"`model` must not have two taps; call `close\(\)` on the other first"):
            ab.noise.tap(whole, optimizer, other)
    for micro in ab.accumulate(loader, model):
        with micro as (inputs, targets):
            (mse_loss(model(inputs), targets) * micro.weight).backward()
        model.zero_grad()
    assert noise.estimate().trace > 0
    noise.close()
    ab.noise.tap([model, model[0]], torch.optim.SGD(model.parameters(), lr=0.1), other).close()


def parameters_that_are_not_sharded(rank, world):
    """They are trained on each rank alone; frozen ones are none of the tap's."""
    for frozen in (True, False):
        model = network(torch.float32)
        model[2].bias.requires_grad = not frozen
        mesh = init_device_mesh("cpu", (world,))
        fully_shard(model, mesh=mesh, ignored_params={model[2].bias})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = together(world, dtype=torch.float32)
        if frozen:
            ab.noise.tap(model, optimizer, loader).close()
            continue
        with pytest.raises(ValueError, match=r"`model` must shard all parameters that are trained, got one that ignor"):
            ab.noise.tap(model, optimizer, loader)


def shards_that_are_thrown_away(rank, world):
    """As under DistributedDataParallel: what is zeroed before the pass that trains is forgotten."""
    wanted = alone(world, dtype=torch.float32)
    for to_none in (True, False):
        thrown_away(sharded(), together(world, dtype=torch.float32), wanted, to_none=to_none, rel=1e-6)


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, shards_are_parts, shards_in_the_l1_norm)


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_two_ranks_of_other_models():
    on_ranks(2, two_taps_of_one_model, parameters_that_are_not_sharded, shards_that_are_thrown_away)


@pytest.mark.slow
@pytest.mark.world_size(3)
def test_three_ranks():
    on_ranks(3, shards_are_parts, shards_in_the_l1_norm)
