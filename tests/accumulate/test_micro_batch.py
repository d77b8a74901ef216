"""Micro-batches: the weighted gradients add up to the batch's, whatever the sizes, tails and ranks."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scheduler.checks import loader_of, sgd
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch.accumulate import accumulate


def double_data(count):
    generator = torch.Generator().manual_seed(0)
    make: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    return TensorDataset(torch.randn(count, 3, **make), torch.randn(count, 1, **make))


def double_model():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def loss_of(model, batch):
    inputs, targets = batch
    return torch.nn.functional.mse_loss(model(inputs), targets)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_weighted_gradients_add_up_to_the_batch(draw):
    count = draw.draw(st.integers(1, 40), label="samples")
    batch_size = draw.draw(st.integers(1, count), label="batch size")
    micro = draw.draw(st.none() | st.integers(1, count), label="micro-batch size")
    drop_last = draw.draw(st.booleans(), label="drop_last")
    arguments = {"batch_size": batch_size, "shuffle": True, "seed": 0, "drop_last": drop_last}
    model, whole = double_model(), double_model()
    loader = ab.DataLoader(double_data(count), micro_batch_size=micro, **arguments)
    expected = iter(ab.DataLoader(double_data(count), **arguments))
    seen, weight = 0, 0.0
    for micro_batch in accumulate(loader):
        with micro_batch as batch:
            assert len(batch[0]) == micro_batch.size <= (micro or count)
            (loss_of(model, batch) * micro_batch.weight).backward()
        weight += micro_batch.weight
        assert micro_batch.is_last == (micro_batch.index + 1 == micro_batch.count)
        if micro_batch.is_last:
            batch = next(expected)
            whole.zero_grad()
            loss_of(whole, batch).backward()
            assert torch.allclose(gradient(model), gradient(whole), rtol=1e-12, atol=1e-12)
            assert weight == pytest.approx(1, abs=1e-12)
            seen, weight = seen + len(batch[0]), 0.0
            model.zero_grad()
    assert next(expected, None) is None
    assert seen == (count // batch_size * batch_size if drop_last else count)


def test_training_with_micro_batches_is_training_with_batches():
    runs = []
    for micro in (None, 3):
        model, loader = double_model(), ab.DataLoader(double_data(50), batch_size=4, shuffle=True, seed=0)
        loader.micro_batch_size = micro
        optimizer = sgd(model, momentum=0.9)
        batches = ab.BatchSizeScheduler(
            optimizer, loader, ab.schedules.geometric(2, ab.epochs(1), maximum=16), epochs=3
        )
        updates = 0
        for _ in range(3):
            for part in accumulate(loader, model):
                with part as batch:
                    (loss_of(model, batch) * part.weight).backward()
                if part.is_last:
                    optimizer.step()
                    optimizer.zero_grad()
                    batches.step()
                    updates += 1
        assert updates == batches.plan.updates
        runs.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(*runs, rtol=1e-12, atol=1e-12)


def test_without_a_micro_batch_size_every_batch_is_one():
    assert [(m.index, m.count, m.size, m.weight, m.is_last) for m in accumulate(loader_of(10, 4)) if m.__enter__()] == [
        (0, 1, 4, 1.0, True),
        (0, 1, 4, 1.0, True),
        (0, 1, 2, 1.0, True),
    ]


def test_the_micro_batch_size_may_change_between_batches():
    loader = loader_of(24, 8)
    counts = []
    for micro in accumulate(loader):
        with micro:
            if micro.is_last:
                counts.append(micro.count)
                loader.micro_batch_size = 3 if len(counts) == 1 else 8
    assert counts == [1, 3, 1]


# Use.


def test_without_with_there_is_no_data():
    micro = next(iter(accumulate(loader_of())))
    with pytest.raises(
        TypeError, match=r"a micro-batch must be entered .*; write `with micro as \(inputs, targets\):`"
    ):
        _inputs, _targets = micro


@pytest.mark.parametrize("entered", [0, 1])
def test_a_micro_batch_that_was_left_out(entered):
    loader = loader_of(8, 8, micro_batch_size=4)
    micros = accumulate(loader)
    for index in range(2):
        micro = next(micros)
        if index == entered:
            with micro:
                pass
    with pytest.raises(
        RuntimeError, match=rf"micro-batch {2 - entered} of 2 was not entered, others of its batch were"
    ):
        next(micros)


def test_a_whole_batch_may_be_left_out():
    assert sum(micro.count for micro in accumulate(loader_of(8, 4, micro_batch_size=2))) == 8


def test_a_micro_batch_may_be_entered_again():
    micro = next(iter(accumulate(loader_of())))
    with micro as first, pytest.raises(ZeroDivisionError):
        raise ZeroDivisionError
    with micro as second:
        assert first is second


def test_other_loaders_are_refused():
    with pytest.raises(
        TypeError, match=r"`loader` must be an ab.DataLoader, got torch.utils.data.dataloader.DataLoader; "
    ):
        accumulate(torch.utils.data.DataLoader([1, 2]))


def test_leaving_early_frees_the_loader():
    loader = loader_of()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant())
    for micro in accumulate(loader):
        with micro:
            break
    assert len(list(loader)) == 16
    stream = accumulate(loader)
    for micro in stream:
        if micro.is_last:
            batches.step()
            break
    with pytest.raises(RuntimeError, match="a second iteration"):
        next(iter(loader))
    stream.close()
    next(iter(loader))


# Ranks.


def counting(world):
    """A communication hook that does what DDP does, and the sizes of what it reduced."""
    reduced = []

    def hook(_state, bucket):
        reduced.append(bucket.buffer().numel())
        buffer = bucket.buffer().div_(world)
        return dist.all_reduce(buffer, async_op=True).get_future().then(lambda future: future.value()[0])

    return hook, reduced


def full_gradients(count, batch_size):
    """The gradient of each batch's mean loss, by one process."""
    model, found = double_model(), []
    for batch in ab.DataLoader(double_data(count), batch_size=batch_size, shuffle=True, seed=0, shard=False):
        model.zero_grad()
        loss_of(model, batch).backward()
        found.append(gradient(model).clone())
    return found


def gradients_of(model, count, batch_size, micro, *, read=gradient):
    loader = ab.DataLoader(double_data(count), batch_size=batch_size, shuffle=True, seed=0, micro_batch_size=micro)
    found = []
    for micro_batch in accumulate(loader, model):
        with micro_batch as batch:
            (loss_of(model, batch) * micro_batch.weight).backward()
        if micro_batch.is_last:
            found.append(read(model).clone())
            model.zero_grad()
    return found


def assert_close(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12), (one, other)


def check_ddp(rank, world):
    for count, batch_size, micro in ((22, 8, 2), (23, 6, 2), (9, 7, 1), (9, 9, None), (7, 3, 1)):
        expected = full_gradients(count, batch_size)
        model = DistributedDataParallel(double_model())
        hook, reduced = counting(world)
        model.register_comm_hook(None, hook)
        assert_close(gradients_of(model, count, batch_size, micro), expected)
        assert sum(reduced) == expected[0].numel() * len(expected), "each gradient is reduced once a batch"
        # Without a wrapper the sum over ranks is the gradient.
        plain = double_model()
        summed = gradients_of(plain, count, batch_size, micro)
        for each in summed:
            dist.all_reduce(each)
        assert_close(summed, expected)
        del model, hook


def check_ddp_errors(rank, world):
    loader = ab.DataLoader(double_data(8), batch_size=8, shuffle=True, seed=0, micro_batch_size=2)
    model = DistributedDataParallel(double_model())
    for micro in accumulate(loader, model):
        with pytest.raises(ZeroDivisionError), micro:
            _ = 1 / int(model.require_backward_grad_sync)
        assert model.require_backward_grad_sync
        break
    with pytest.raises(
        ValueError, match=r"`model` must be given where batches are shared between ranks.*accumulate\(loader, m"
    ):
        next(accumulate(loader))
    alone = ab.DataLoader(double_data(8), batch_size=8, shard=False, micro_batch_size=2)
    assert [micro.weight for micro in accumulate(alone)] == [0.25] * 4
    del model


def check_fully_shard(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    for count, batch_size, micro in ((22, 8, 2), (9, 7, 1)):
        expected = full_gradients(count, batch_size)
        model = double_model()
        fully_shard(model, mesh=mesh)
        reductions = []
        switched = model.set_requires_gradient_sync

        def switch(flag, *, switched=switched, reductions=reductions, **arguments):
            reductions.append(flag)
            switched(flag, **arguments)

        model.set_requires_gradient_sync = switch

        def read(model):
            return torch.cat([p.grad.full_tensor().flatten() for p in model.parameters()])

        assert_close(gradients_of(model, count, batch_size, micro, read=read), expected)
        assert reductions.count(False) == reductions.count(True) > 0
        del model


def on_each_rank(rank, world, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    for check in (check_ddp, check_ddp_errors, check_fully_shard):
        check(rank, world)
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()
    gc.collect()
    os._exit(0)  # gloo's threads may abort an interpreter that finalizes


@pytest.mark.world_size(2)
def test_two_ranks():
    with tempfile.TemporaryDirectory() as folder:
        spawn(on_each_rank, args=(2, os.path.join(folder, "store")), nprocs=2)


@pytest.mark.parametrize("first", ["adabatch", "adabatch.accumulate"])
def test_the_function_wins_over_the_module_of_its_name(first):
    code = f"import {first}, adabatch as ab; next(ab.accumulate(ab.DataLoader([1, 2])))"
    subprocess.run([sys.executable, "-c", code], check=True)
