"""The ranks of groups, of FSDP2's meshes and of tensor parallelism."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from adabatch import _distributed


def check(rank, world):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    row, column = [frozenset(mesh[name].mesh.tolist()) for name in ("tp", "dp")]
    everyone = frozenset(range(4))
    assert row == {rank, rank ^ 1}
    assert column == {rank, rank ^ 2}
    assert _distributed.members() == everyone
    assert _distributed.members(mesh["dp"].get_group()) == column
    assert _distributed.members(dist.new_group([0, 1, 2, 3])) == everyone

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    assert _distributed.tensor_parallel_with(model.parameters()) == frozenset()
    assert _distributed.fully_sharded_over([model]) is None
    parallelize_module(model, mesh["tp"], {"0": ColwiseParallel()})
    assert _distributed.tensor_parallel_with(model.parameters()) == row
    for child in model:
        fully_shard(child, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp"])
    assert _distributed.fully_sharded_over(model) == column
    assert _distributed.tensor_parallel_with(model.parameters()) == row | column

    replicas = torch.nn.Linear(4, 4)
    fully_shard(replicas, mesh=mesh)
    assert _distributed.fully_sharded_over([replicas]) == everyone


@pytest.mark.world_size(4)
def test_four_ranks():
    on_ranks(4, check)
