"""Four ranks as a mesh: shards, replicas of shards, and tensor-parallel peers train what one process trains."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from tests.accumulate.test_micro_batch import double_data, double_model, loss_of
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import adabatch as ab

# Samples, batch size, micro-batch size: shares of 33 and 32 with a tail of one sample; empty ones; uneven ones.
CASES = ((261, 130, 32), (9, 3, None), (10, 3, 1), (23, 6, 2))


class Collectives(TorchDispatchMode):
    """Notes the collectives by name."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace.startswith(("c10d", "_c10d")):
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def trained(model, count, batch_size, micro, **sharing):
    """Trains an epoch; returns the weights, and each update's micro-batches and collectives."""
    loader = ab.DataLoader(
        double_data(count), batch_size=batch_size, micro_batch_size=micro, shuffle=True, seed=0, **sharing
    )
    optimizer, course = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), []
    seen = Collectives()
    with seen:
        for micro_batch in ab.accumulate(loader, model):
            with micro_batch as batch:
                (loss_of(model, batch) * micro_batch.weight).backward()
            if micro_batch.is_last:
                course.append((micro_batch.count, seen.names))
                seen.names = []
                optimizer.step()
                optimizer.zero_grad()
    weights = [getattr(each, "full_tensor", lambda each=each: each)().detach() for each in model.parameters()]
    return weights, course


def check(rank, world, *, wrap, each, cases=CASES):
    """Every rank has as many micro-batches; every update has `each` collective, whatever its micro-batches."""
    for count, batch_size, micro in cases:
        expected, _ = trained(double_model(), count, batch_size, micro, shard=False)
        model, mesh = wrap(double_model())
        found, course = trained(model, count, batch_size, micro, mesh=mesh)
        del model
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        for name, number in each.items():
            assert [sum(name in one for one in names) for _, names in course] == [number] * len(course), course
        counts, every = [count for count, _ in course], [None] * world
        dist.all_gather_object(every, counts)
        assert every == [counts] * world
        if batch_size == 130:
            assert counts == ([2, 2, 1] if mesh is None else [3, 3, 1])


def ddp(model):
    return DistributedDataParallel(model), None


def shards(model):
    fully_shard(model, mesh=init_device_mesh("cpu", (4,)))
    return model, None


def replicas_of_shards(model):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    fully_shard(model, mesh=mesh)
    return model, None


def tensor_parallel(model):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(model, mesh=mesh["dp"])
    return model, mesh["dp"]


def shrunk(model, **sharing):
    """Trains an epoch of batches of 8, then of 3; returns the weights."""
    loader = ab.DataLoader(double_data(30), batch_size=8, shuffle=True, seed=0, **sharing)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:8 16:3"), coupling="linear")
    for micro_batch in ab.accumulate(loader, model):
        with micro_batch as batch:
            (loss_of(model, batch) * micro_batch.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
        batches.step()
    assert loader.batch_size == 3
    batches.close()
    return [each.detach() for each in model.parameters()]


def check_batches_below_the_ranks(rank, world):
    expected = shrunk(double_model(), shard=False)
    model = DistributedDataParallel(double_model())
    found = shrunk(model)
    del model
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="a batch of 3 samples does not divide over 4 ranks"):
        next(iter(ab.DataLoader(double_data(9), 3)))


@pytest.mark.world_size(4)
def test_ranks_march_together():
    marching = partial(check, wrap=shards, each={"reduce_scatter": 1}, cases=CASES[:2])
    on_ranks(4, marching, check_batches_below_the_ranks)


@pytest.mark.slow
@pytest.mark.world_size(4)
def test_four_ranks():
    on_ranks(
        4,
        partial(check, wrap=ddp, each={"allreduce_": 2}),  # the vote and the gradients
        partial(check, wrap=replicas_of_shards, each={"reduce_scatter": 1, "allreduce_": 1}),
        partial(check, wrap=tensor_parallel, each={"reduce_scatter": 1}),
    )
