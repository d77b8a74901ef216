"""Taps under DistributedDataParallel: from real processes the numbers of one process that sees the same gradients."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from tests.noise.trainings import FOREVER, data, network
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import adabatch as ab

BATCH, UPDATES = 12, 7


def shared_data(world, dtype=torch.float64):
    """The data in an order in which rank r's samples of a batch are those that lie in a row in `data()`."""
    whole = data(BATCH * UPDATES, dtype=dtype)
    share = BATCH // world
    order = [
        batch * BATCH + (turn % world) * share + turn // world for batch in range(UPDATES) for turn in range(BATCH)
    ]
    return TensorDataset(*(column[order] for column in whole.tensors))


def setup(model, loader, **tapped):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.5)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant())
    return optimizer, batches, ab.noise.tap(model, optimizer, loader, **({"half_life": FOREVER, "every": 1} | tapped))


def accumulated(model, loader, *, recover=True, compress=None, **tapped):
    optimizer, batches, noise = setup(model, loader, **tapped)
    for micro in ab.accumulate(loader, model, recover=recover, compress=compress):
        with micro as (inputs, targets):
            (mse_loss(model(inputs), targets) * micro.weight).backward()
        if micro.is_last:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            batches.step()
    noise.close()
    return noise


def plain(model, loader, *, scaler=None, broken=(), skipped=(), **tapped):
    optimizer, batches, noise = setup(model, loader, **tapped)
    for update, (inputs, targets) in enumerate(loader):
        loss = mse_loss(model(inputs), targets) * (math.nan if update in broken and dist.get_rank() == 0 else 1.0)
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        if update in broken or update in skipped:
            optimizer.zero_grad()
        if update not in skipped:
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
        optimizer.zero_grad()
        batches.step()
    noise.close()
    return noise


def alone(world, *, micro=None, dtype=torch.float64, **tapped):
    loader = ab.DataLoader(data(BATCH * UPDATES, dtype=dtype), batch_size=BATCH, shard=False,
                           micro_batch_size=micro or BATCH // world)  # fmt: skip
    return accumulated(network(dtype), loader, **tapped)


def together(world, **more):
    return ab.DataLoader(shared_data(world, more.pop("dtype", torch.float64)), batch_size=BATCH, seed=0,
                         group=dist.group.WORLD, **more)  # fmt: skip


def check_same(noise, wanted, *, rel=1e-9):
    mine, theirs = noise.estimate(), wanted.estimate()
    assert mine.measured == pytest.approx(theirs.measured)
    assert (mine.trace, mine.signal) == pytest.approx((theirs.trace, theirs.signal), rel=rel)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), rel=max(10 * rel, 1e-6))
    states = [None] * dist.get_world_size()
    dist.all_gather_object(states, noise.state_dict())
    assert all(state == states[0] for state in states), "the same on every rank"


def ranks_are_parts(rank, world):
    """A plain loop, micro-batches whose gradients are averaged after or in the last pass, and DDP's own ways."""
    wanted, cut = alone(world), alone(world, micro=2)
    assert wanted.kind == "micro_batches"
    for how in ({}, {"gradient_as_bucket_view": True}, {"static_graph": True}):
        noise = plain(DistributedDataParallel(network(), **how), together(world))
        assert noise.kind == "ranks"
        check_same(noise, wanted)
        for recover in (True, False):
            check_same(accumulated(DistributedDataParallel(network(), **how), together(world), recover=recover), wanted)
        micro = together(world, micro_batch_size=2)
        check_same(accumulated(DistributedDataParallel(network(), **how), micro), cut)
    halves = accumulated(DistributedDataParallel(network()), together(world), kind="halves")
    check_same(halves, alone(world, micro=BATCH // world // 2))


def in_the_l1_norm(rank, world):
    """Squares of all ranks meet coordinate by coordinate; one that is left unused counts as 0."""
    wanted, cut = alone(world, norm="l1"), alone(world, micro=2, norm="l1")
    check_same(plain(DistributedDataParallel(network()), together(world), norm="l1"), wanted, rel=1e-6)
    for recover in (True, False):
        noise = accumulated(DistributedDataParallel(network()), together(world), recover=recover, norm="l1")
        check_same(noise, wanted, rel=1e-6)
        micro = together(world, micro_batch_size=2)
        noise = accumulated(DistributedDataParallel(network()), micro, recover=recover, norm="l1")
        check_same(noise, cut, rel=1e-6)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
    check_same(plain(DistributedDataParallel(network()), together(world), scaler=scaler, norm="l1"), wanted, rel=1e-6)
    layers = accumulated(DistributedDataParallel(network()), together(world), norm="l1", groups="layer")
    for name, found in alone(world, norm="l1", groups="layer").by_group().items():
        assert layers.by_group()[name].trace == pytest.approx(found.trace)


def some_updates_and_layers(rank, world):
    wanted = alone(world, every=3, groups="layer")
    for noise in (
        plain(DistributedDataParallel(network()), together(world), every=3, groups="layer"),
        accumulated(DistributedDataParallel(network()), together(world), every=3, groups="layer"),
    ):
        assert noise.estimate().measured == pytest.approx(3)
        check_same(noise, wanted)
        assert list(noise.by_group()) == ["0", "2"]
        for name, found in noise.by_group().items():
            assert found.trace == pytest.approx(wanted.by_group()[name].trace)


def scaled_and_compressed(rank, world):
    """The factor of a scaler is taken out; gradients in 16 bits on their way are told as they arrive."""
    wanted = alone(world)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
    check_same(plain(DistributedDataParallel(network()), together(world), scaler=scaler), wanted)
    narrow = alone(world, dtype=torch.float32)
    for recover in (True, False):
        model = DistributedDataParallel(network(torch.float32))
        loader = together(world, dtype=torch.float32)
        check_same(accumulated(model, loader, recover=recover, compress="bf16"), narrow, rel=0.05)


def what_is_left_out(rank, world):
    """A rank whose gradient is no number, and updates for which nobody stepped: the same on all ranks."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        noise = plain(DistributedDataParallel(network()), together(world), broken={2})
        assert noise.skipped == 1
        assert noise.estimate().measured == pytest.approx(UPDATES - 1)
    assert any("noise.tap` leaves out the batch that ends at sample 36" in str(each.message) for each in seen)
    with pytest.warns(RuntimeWarning, match="the optimizer did not step for it"):
        noise = plain(DistributedDataParallel(network()), together(world), skipped={1, 4})
    assert noise.skipped == 2
    assert noise.estimate().measured == pytest.approx(UPDATES - 2)


def thrown_away(model, loader, wanted, *, to_none, before=None, rel=1e-9):
    """Checks that a gradient that is zeroed before the one that trains, as that of a perturbation, does not count."""
    optimizer, batches, noise = setup(model, loader)
    for inputs, targets in loader:
        if before is not None:
            before(model, inputs, targets)
        (3 * mse_loss(model(inputs), targets)).backward()
        optimizer.zero_grad(set_to_none=to_none)
        mse_loss(model(inputs), targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        batches.step()
    noise.close()
    assert noise.skipped == 0
    check_same(noise, wanted, rel=rel)


def what_is_thrown_away(rank, world):
    """Also a gradient that nobody adds."""

    def returned(model, inputs, targets):
        torch.autograd.grad(mse_loss(model.module(inputs), targets), [*model.parameters()])

    wanted = alone(world)
    for to_none in (True, False):
        thrown_away(DistributedDataParallel(network()), together(world), wanted, to_none=to_none, before=returned)


def what_is_refused(rank, world):
    model, loader = network(), together(world)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match="`model` must be wrapped in DistributedDataParallel or by `fully_shard` where"
    ):
        ab.noise.tap(model, optimizer, loader)
    part = network()
    part[0] = DistributedDataParallel(part[0])
    with pytest.raises(
        ValueError, match=r"must be wrapped as a whole .*, got a Sequential with a wrapped part; wrap the"
    ):
        ab.noise.tap(part, optimizer, loader)
    layer = network()
    fully_shard(layer[0])
    with pytest.raises(ValueError, match=r"`model` must have whole parameters on each rank, .*sharded otherwise; call"):
        ab.noise.tap(layer, torch.optim.SGD(layer.parameters(), lr=0.1), loader)
    wrapped = DistributedDataParallel(network())
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    noise = ab.noise.tap(wrapped, optimizer, loader)
    batches = iter(loader)
    for turn in range(2):
        inputs, targets = next(batches)
        mse_loss(wrapped(inputs), targets).backward()
        if turn == 0:
            optimizer.step()
    with pytest.raises(
        RuntimeError, match=r"only a scheduler knows the size of the batch; .*make an `ab.BatchSizeSched"
    ):
        optimizer.step()
    noise.close()


@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, ranks_are_parts, in_the_l1_norm, what_is_left_out, what_is_thrown_away, what_is_refused)


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_two_ranks_in_more_ways():
    on_ranks(2, some_updates_and_layers, scaled_and_compressed)


@pytest.mark.slow
@pytest.mark.world_size(3)
def test_three_ranks():
    on_ranks(3, ranks_are_parts, in_the_l1_norm, some_updates_and_layers, scaled_and_compressed)
