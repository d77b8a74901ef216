from __future__ import annotations

import pytest
import torch
from tests.accumulate.ranks import on_ranks
from tests.optim import checks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import distribute_tensor

from adabatch.optim import LAMB, LARS, RMSpropWarmup, param_groups
from adabatch.optim import _foreach as module

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


def flat_parameters_are_refused(rank, world):
    for original in (False, True):
        sharded = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=original)
        message = "got parameters that FullyShardedDataParallel has flattened, .*; shard the model by `fully_shard"
        for make in (KINDS["LARS"], KINDS["LAMB"], lambda params: LARS(params, 1.0, adapt_1d=True)):
            with pytest.raises(ValueError, match=f"`params` must keep its shapes, {message}"):
                make(sharded.parameters())
        with pytest.raises(ValueError, match=f"`model` must keep its shapes, {message}"):
            param_groups(sharded, weight_decay=0.1)
        KINDS["RMSpropWarmup"](sharded.parameters())  # goes by elements, so that shapes do not matter
        del sharded


def test_flat_parameters_of_fsdp1():
    on_ranks(2, flat_parameters_are_refused)


@pytest.mark.parametrize("most", [1, 5, 7, 64, 10**9])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_pieces_that_fit_a_cache_give_the_same_bits(monkeypatch, most, share):
    """Also of tensors that do not lie in one row, such as transposed ones."""

    def trained(cached):
        monkeypatch.setattr(module, "_CACHED", cached)
        values = [*checks.parameters(dtype=torch.float32), torch.nn.Parameter(torch.ones(4, 3).t())]
        optimizer = RMSpropWarmup(values, 0.1, epochs=lambda: 10.0 + 5 * (share - 0.5), weight_decay=0.1)
        for step in range(3):
            for value, grad in zip(values, checks.gradients(values, step), strict=True):
                value.grad = grad
            optimizer.step()
        return values

    assert all(map(torch.equal, trained(most), trained(2**40)))


def test_pieces_are_as_large_as_a_cache(monkeypatch):
    monkeypatch.setattr(module, "_CACHED", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    tensors = [torch.arange(45.0).view(9, 5), torch.zeros(3), torch.ones(2)]
    found = [[list(map(len, part)) for part in piece] for piece in module.pieces(tensors, tensors)]
    assert found == [[[20]] * 2, [[20]] * 2, [[5, 3, 2]] * 2]
    accelerated = [torch.zeros(300, device="meta")] * 2
    ((whole,),) = module.pieces(accelerated)
    assert whole is accelerated
    assert list(module.pieces([torch.empty(0)])) == []
