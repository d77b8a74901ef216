"""Batch norm in micro-batches on several ranks: its samples, and shares of one sample and of none."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from tests.accumulate.ranks import on_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch import norm
from adabatch.accumulate._norms import share_of
from adabatch.data.iteration import bounds_of
from adabatch.types import Batch, Part


@given(st.integers(0, 50), st.integers(1, 60), st.none() | st.integers(1, 9), st.integers(1, 7))
def test_the_samples_of_a_micro_batch_by_their_positions(clock, size, micro, world):
    turns = [(rank - clock) % world for rank in range(world)]
    bounds = [bounds_of(clock, size, micro, rank, world) for rank in range(world)]
    batch, before = Batch(clock, clock + size, 0, size, size, 0), 0
    for index in range(len(bounds[0])):
        members = []
        for rank, turn in enumerate(turns):
            first, last = bounds[rank][index]
            share = share_of(Part(batch, index, len(bounds[0]), last - first, turn), world)
            found = [share.first + before + share.step * i for i in range(share.size)]
            assert found == [rank + world * item - clock for item in range(first, last)]
            members += found
        assert sorted(members) == list(range(before, before + share.total))
        before += share.total
    assert before == size


def data(count):
    torch.manual_seed(0)
    return TensorDataset(torch.randn(count, 3, dtype=torch.float64), torch.randn(count, 2, dtype=torch.float64))


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()


def ddp(model):
    return DistributedDataParallel(model)


def sharded(model):
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return model


def trained(loader, model, *, recover=True):
    """Trains an epoch; returns weights and statistics."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for micro in ab.accumulate(loader, model, recover=recover):
        with micro as (inputs, targets):
            (nn.functional.mse_loss(model(inputs), targets) * micro.weight).backward()
        if micro.is_last:
            optimizer.step()
            optimizer.zero_grad()
    whole = {name.removeprefix("module."): value for name, value in model.state_dict().items()}
    return {name: getattr(each, "full_tensor", lambda each=each: each)() for name, each in whole.items()}


def check_tails_of_one_sample(rank, world):
    """Per-rank statistics: nobody fails, nothing is NaN, and a rank without a sample learns nothing from it."""
    for wrap, recover in ((ddp, True), (ddp, False), (sharded, True)):
        loader, model = ab.DataLoader(data(5), batch_size=4), wrap(network())
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            found = trained(loader, model, recover=recover)
        assert all(bool(value.isfinite().all()) for value in found.values())
        assert int(found["1.num_batches_tracked"]) == 1
        messages = [str(each.message) for each in seen if "has no spread for BatchNorm1d" in str(each.message)]
        assert len(messages) == (rank == 0)
        assert all(module.training for module in model.modules())
        del model


def check_synchronised(rank, world):
    """Ghost batches in micro-batches too, where these hold the samples of one process's."""
    for size in (None, 4):
        for count, batch_size, micro in ((24, 24, 4), (25, 11, None)):
            settings = {"batch_size": batch_size, "shuffle": True, "seed": 0, "drop_last": True}
            alone = ab.DataLoader(data(count), shard=False, micro_batch_size=micro and micro * world, **settings)
            expected = trained(alone, norm.ghost(network(), size=size) if size else network())
            for wrap in (ddp, sharded):
                model = wrap(norm.sync(norm.ghost(network(), size=size) if size else network()))
                found = trained(ab.DataLoader(data(count), micro_batch_size=micro, **settings), model)
                del model
                torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def check_a_synchronised_tail_of_one_sample(rank, world):
    loader, model = ab.DataLoader(data(5), batch_size=4), ddp(norm.sync(network()))
    found = trained(loader, model)
    assert all(bool(value.isfinite().all()) for value in found.values())
    assert int(found["1.num_batches_tracked"]) == 1
    del model


def check_other_ranks(rank, world):
    alone = [dist.new_group([each]) for each in range(world)]
    model = ddp(norm.sync(network(), group=alone[rank]))
    with pytest.raises(ValueError, match="must have batch norm over the ranks that share a batch, got rank 0 of 1 in"):
        ab.accumulate(ab.DataLoader(data(4), batch_size=4), model)
    del model


@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(
        2,
        check_tails_of_one_sample,
        check_synchronised,
        check_a_synchronised_tail_of_one_sample,
        check_other_ranks,
    )
