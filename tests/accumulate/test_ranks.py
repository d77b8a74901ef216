"""Ranks that share batches train one model together, or an error says before the first update why they do not."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from tests.accumulate.test_micro_batch import double_data, double_model, loss_of
from torch.distributed._composable.replicate import replicate
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import adabatch as ab

PLAN = {"0": ColwiseParallel(), "2": RowwiseParallel()}


def loader_of(**more):
    return ab.DataLoader(double_data(24), **{"batch_size": 8, "shuffle": True, "seed": 0} | more)


def passed(loader, model, *, recover=True):
    """One epoch with gradients, without an update."""
    for micro in ab.accumulate(loader, model, recover=recover):
        with micro as batch:
            (loss_of(model, batch) * micro.weight).backward()


def check_parts_of_the_world(rank, world):
    """The loader shares over all ranks, and the wrapper averages over half of them, whichever wrapper it is."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "x"))
    half, pairs = mesh["dp"], ("0, 2", "1, 3")[rank % 2]
    group = half.get_group()
    ddp, sharded = DistributedDataParallel(double_model(), process_group=group), double_model()
    fully_shard(sharded[0], mesh=half)
    fully_shard(sharded, mesh=half)
    flat = FullyShardedDataParallel(double_model(), process_group=group, device_id=torch.device("cpu"))
    message = (
        f"`model` must average gradients over all ranks that share a batch, got one that averages over ranks {pairs}, "
        "and a loader that shares over ranks 0, 1, 2, 3; give `ab.DataLoader` the model's `group` or `mesh`"
    )
    for model in (ddp, sharded, flat):
        for recover in (True, False):
            with pytest.raises(ValueError, match=message):
                ab.accumulate(loader_of(), model, recover=recover)
        ab.accumulate(loader_of(mesh=half), model)
        ab.accumulate(loader_of(shard=False), model)
    both = double_model()
    fully_shard(both, mesh=mesh)
    ab.accumulate(loader_of(), both)
    ab.accumulate(loader_of(mesh=mesh["x"]), both)  # pairs that pass the same batches: the mean is the batch's
    del ddp, flat


def check_tensor_parallel(rank, world):
    """Ranks that hold parts of one network must not get other samples, with or without a wrapper for other ranks."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    peers = ("0, 1", "2, 3")[rank // 2]
    alone, both = double_model(), double_model()
    parallelize_module(alone, mesh["tp"], PLAN)
    parallelize_module(both, mesh["tp"], PLAN)
    fully_shard(both, mesh=mesh["dp"])
    for model in (alone, both):
        for wrong in ({}, {"mesh": mesh["tp"]}):
            with pytest.raises(
                ValueError,
                match=r"`loader` must give tensor-parallel ranks the same samples, got one that shares each batch "
                rf"among ranks .*, while ranks {peers} split the parameters; write .*mesh=mesh\[\"dp\"\]",
            ):
                ab.accumulate(loader_of(**wrong), model)
        ab.accumulate(loader_of(mesh=mesh["dp"]), model)
        ab.accumulate(loader_of(shard=False), model)


def check_replicate(rank, world):
    model = double_model()
    replicate(model)
    for given in (model, torch.nn.Sequential(model)):
        with pytest.raises(ValueError, match="got one wrapped by `replicate`; write `DistributedDataParallel"):
            ab.accumulate(loader_of(), given)


def check_other_arguments(rank, world):
    """Whatever makes ranks iterate differently is named on each rank, before the first update."""
    model = DistributedDataParallel(double_model())
    for name, first, other in (
        ("seed", 0, 1),
        ("batch_size", 8, 10),
        ("micro_batch_size", None, 2),
        ("drop_last", False, True),
    ):
        for recover in (True, False):
            loader = loader_of(**{name: first if rank == 0 else other})
            with pytest.raises(
                ValueError,
                match=f"`{name}` must be the same on all ranks, got {first} on rank 0 and {other} on rank 1; build the",
            ):
                next(iter(ab.accumulate(loader, model, recover=recover)))
    loader = ab.DataLoader(double_data(24 + 2 * rank), batch_size=8, seed=0)
    with pytest.raises(ValueError, match="`dataset_size` must be the same on all ranks, got 24 on rank 0 and 26"):
        next(iter(ab.accumulate(loader, model)))
    loader = loader_of()
    if rank == 1:
        loader.set_epoch(2)
    with pytest.raises(ValueError, match="`epoch` must be the same on all ranks, got 0 on rank 0 and 2 on rank 1"):
        next(iter(ab.accumulate(loader, model)))
    del model


def check_drift(rank, world):
    """A model that nothing wraps: a warning once ranks have other weights, none where gradients are summed by hand."""
    for by_hand in (True, False):
        for recover in (True, False):
            model, loader = double_model(), loader_of()
            optimizer, seen = torch.optim.SGD(model.parameters(), lr=0.1), []
            for _ in range(2):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    for micro in ab.accumulate(loader, model, recover=recover):
                        seen.append(len(caught))
                        with micro as batch:
                            (loss_of(model, batch) * micro.weight).backward()
                        for parameter in model.parameters() if by_hand else ():
                            dist.all_reduce(parameter.grad)
                        optimizer.step()
                        optimizer.zero_grad()
                assert all("nothing averages its gradients; wrap it in Distr" in str(one.message) for one in caught)
            assert seen == ([0] * 6 if by_hand else [0, 1, 1, 1, 1, 1])
    with pytest.warns(UserWarning, match="the weights of `model` differ between ranks that share batches"):
        next(iter(ab.accumulate(loader_of(), torch.nn.Linear(4 + rank, 3).double())))
    passed(loader_of(shard=False), torch.nn.Sequential(torch.nn.LazyLinear(3, dtype=torch.float64)))


@pytest.mark.world_size(4)
def test_four_ranks():
    on_ranks(4, check_parts_of_the_world, check_tensor_parallel)


@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, check_replicate, check_other_arguments, check_drift)
