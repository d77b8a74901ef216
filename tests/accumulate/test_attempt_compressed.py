"""Gradients in 16 bits on their way: uneven shares, micro-batches, and both ways in which DDP's are averaged."""

from __future__ import annotations

import pytest
import torch
from tests.accumulate.ranks import on_ranks
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch import _distributed

SAMPLES, BATCH = 23, 10  # the last batch has 3


def data():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(SAMPLES, 6, generator=generator), torch.randn(SAMPLES, 1, generator=generator))


def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 1))


def loader_of(**more):
    return ab.DataLoader(data(), batch_size=BATCH, shuffle=True, seed=0, **more)


def joined(model):
    return torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])


def expected():
    """The gradient of each batch in float64, and the mean magnitude of a sample's."""
    model, found = network().double(), []
    for inputs, targets in loader_of(shard=False):
        single = []
        for sample in zip(inputs.double(), targets.double(), strict=True):
            model.zero_grad()
            torch.nn.functional.mse_loss(model(sample[0]), sample[1]).backward()
            single.append(joined(model).clone())
        every = torch.stack(single)
        found.append((every.mean(0), every.abs().mean(0)))
    return found


def gradients(model, *, micro, **how):
    found, used = [], []
    before = _distributed.traffic().bytes
    for each in ab.accumulate(loader_of(micro_batch_size=micro), model, **how):
        with each as (inputs, targets):
            (torch.nn.functional.mse_loss(model(inputs), targets) * each.weight).backward()
        if each.is_last:
            found.append(joined(model).clone())
            model.zero_grad()
            used.append(_distributed.traffic().bytes - before)
            before = _distributed.traffic().bytes
    return found, used


def they_are_those_of_the_batch(rank, world):
    wanted, size = expected(), sum(parameter.numel() for parameter in network().parameters())
    for recover in (True, False):
        model = DistributedDataParallel(network())
        for kind, unit in (("bf16", 2.0**-8), ("fp16", 2.0**-11), (None, 0.0), ("bf16", 2.0**-8)):
            for micro in (None, 2):
                found, used = gradients(model, micro=micro, recover=recover, compress=kind)
                for mine, (mean, magnitude) in zip(found, wanted, strict=True):
                    most = unit * (magnitude + mean.abs()) * (1 + unit) + 2e-6 * magnitude + 2.0**-38 + 1e-7
                    assert bool(((mine.double() - mean).abs() <= most).all()), (kind, micro, recover)
                    assert (kind is None) == bool(((mine.double() - mean).abs() <= 1e-6).all()), "nothing compressed"
                assert used == [size * (2 if kind else 4)] * 3, "one reduction an update"
        del model


def what_cannot_be_compressed(rank, world):
    plain = network()
    with pytest.raises(
        ValueError, match=r"`compress` must come with a model under DistributedDataParallel where .*wrap"
    ):
        ab.accumulate(loader_of(), plain, compress="bf16")
    with pytest.raises(ValueError, match=r"`compress` must be one of fp16, bf16, got 'int8'"):
        ab.accumulate(loader_of(), plain, compress="int8")
    with pytest.raises(ValueError, match=r"`compress` must be None where parameters are sharded, .*reduce_dtype=torch"):
        ab.accumulate(loader_of(), fully_shard(network()), compress="bf16")
    double = DistributedDataParallel(network().double())
    with pytest.raises(ValueError, match=r"`compress` must come with parameters of float32 or 16 bits, got float64"):
        ab.accumulate(loader_of(), double, compress="bf16")
    hooked = DistributedDataParallel(network())
    hooked.register_comm_hook(None, another)
    ab.accumulate(loader_of(), hooked)
    with pytest.raises(ValueError, match=r"`compress` must be None where DistributedDataParallel has a communication"):
        ab.accumulate(loader_of(), hooked, compress="bf16")
    for recover in (True, False):
        sparse = DistributedDataParallel(torch.nn.Embedding(5, 2, sparse=True))
        tokens = ab.DataLoader(torch.arange(4), batch_size=4)
        with pytest.raises(ValueError, match="model with sparse gradients" if recover else "must have dense gradients"):
            backward(sparse, tokens, recover=recover, compress="bf16")
    del double, hooked, sparse


def backward(model, loader, **how):
    for each in ab.accumulate(loader, model, **how):
        with each as chosen:
            (model(chosen).sum() * each.weight).backward()


def another(state, bucket):
    raise AssertionError


@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, they_are_those_of_the_batch, what_cannot_be_compressed)


@pytest.mark.slow
@pytest.mark.world_size(3)
def test_three_ranks():
    on_ranks(3, they_are_those_of_the_batch)


def test_nothing_is_rounded_in_one_process():
    whole, compressed = (gradients(network(), micro=3, compress=kind)[0] for kind in (None, "bf16"))
    assert all(torch.equal(one, other) for one, other in zip(whole, compressed, strict=True))
