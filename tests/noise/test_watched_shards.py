"""Taps under `fully_shard`: from real processes the numbers of one process that sees the same gradients."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from tests.noise.test_tap_ranks import accumulated, alone, check_same, plain, setup, together
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


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, shards_are_parts, shards_in_the_l1_norm)


@pytest.mark.slow
@pytest.mark.world_size(3)
def test_three_ranks():
    on_ranks(3, shards_are_parts, shards_in_the_l1_norm)
