"""One rank over NCCL, on a GPU: means in 16 bits, DDP and FSDP2 under `ab.accumulate`."""

from __future__ import annotations

import gc
import os
from functools import partial

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.test_attempt_compressed import data, network
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import adabatch as ab
from adabatch import _distributed

pytestmark = pytest.mark.gpu


def _on_the_rank(_rank, store, check):
    device = torch.device("cuda", 0)
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=f"file://{store}", rank=0, world_size=1, device_id=device)
    check()
    gc.collect()
    dist.destroy_process_group()
    os._exit(0)


def on_one_rank(tmp_path, check):
    """Calls `check` in a process that is the only rank of an NCCL group."""
    spawn(_on_the_rank, args=(tmp_path / "store", check), nprocs=1)


def means():
    assert _distributed.backend_of(torch.device("cuda")) == "nccl"
    values = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)).cuda()
    for kind, unit in {None: 0.0, "bf16": 2.0**-8, "fp16": 2.0**-11}.items():
        tensors = [row.clone() for row in values] + [torch.tensor([1e-30, 3e38]).cuda()]
        before = [tensor.clone() for tensor in tensors]
        average = _distributed.Average(tensors, None, kind)
        for _ in range(2):
            average.run()
        for tensor, whole in zip(tensors, before, strict=True):
            error = (tensor.double() - whole.double()).abs()
            assert bool((error <= unit * whole.double().abs() * 1.01 + 2.0**-37 * 3e38 * (kind == "fp16")).all()), kind


def test_means_over_nccl(tmp_path):
    on_one_rank(tmp_path, means)


def gradients(model, loader, **how):
    found = []
    for each in ab.accumulate(loader, model, **how):
        with each as (inputs, targets):
            (torch.nn.functional.mse_loss(model(inputs), targets) * each.weight).backward()
        if each.is_last:
            grads = [value.grad for value in model.parameters()]
            found.append(torch.cat([getattr(grad, "full_tensor", lambda g=grad: g)().reshape(-1) for grad in grads]))
            model.zero_grad()
    return found


def of_a_wrapped_model(wrap, compress):
    whole = network().cuda()

    def loader():
        return ab.DataLoader(data(), batch_size=10, micro_batch_size=4, shuffle=True, seed=0, device="cuda")

    expected = gradients(whole, loader())
    model = network().cuda()
    model = DistributedDataParallel(model, device_ids=[0]) if wrap == "ddp" else fully_shard(model)
    found = gradients(model, loader(), **({"compress": compress} if compress else {}))
    assert len(found) == 3
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2.0**-7 if compress else 1e-6, atol=1e-6)


@pytest.mark.parametrize(("wrap", "compress"), [("ddp", None), ("ddp", "bf16"), ("ddp", "fp16"), ("fsdp", None)])
def test_gradients_over_nccl(tmp_path, wrap, compress):
    on_one_rank(tmp_path, partial(of_a_wrapped_model, wrap, compress))
