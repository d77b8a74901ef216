from __future__ import annotations

import torch
from tests.accumulate.ranks import on_ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor

from adabatch.optim import LAMB, LARS, RMSpropWarmup

KINDS = {
    "LARS": lambda params: LARS(params, 1.0, weight_decay=0.01),
    "LAMB": lambda params: LAMB(params, 0.1, weight_decay=0.01),
    "RMSpropWarmup": lambda params: RMSpropWarmup(params, 0.1, epochs=lambda: 5.0),
}


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3), torch.nn.Linear(3, 1)).double()


def they_step_shards_as_one_process_steps_the_whole(rank, world):
    for shape in (world,), (2, world // 2):
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
        for make in KINDS.values():
            whole, sharded = network(), network()
            for layer in sharded:
                fully_shard(layer, mesh=mesh)
            fully_shard(sharded, mesh=mesh)
            optimizers = make(whole.parameters()), make(sharded.parameters())
            for step in range(3):
                for value, twin in zip(whole.parameters(), sharded.parameters(), strict=True):
                    value.grad = torch.full_like(value, step + 1.0).cumsum(0)
                    twin.grad = distribute_tensor(value.grad, mesh, twin.placements)
                for optimizer in optimizers:
                    optimizer.step()
            for value, twin in zip(whole.parameters(), sharded.parameters(), strict=True):
                torch.testing.assert_close(twin.full_tensor(), value, rtol=1e-12, atol=1e-12)


def test_shards_and_replicas_of_fsdp():
    on_ranks(4, they_step_shards_as_one_process_steps_the_whole)
