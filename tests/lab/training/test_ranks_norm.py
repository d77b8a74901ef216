"""Batch norm on several ranks: synchronised, or in ghost batches, it trains what one process trains."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.accumulate.ranks import on_ranks
from tests.lab.training.checks import weights

from adabatch.lab import tasks
from adabatch.lab.training import RunConfig, train

# 41 images, so the last batch of an epoch is of 1 sample.
NORM = RunConfig.for_task(
    "cifar10", model="resnet20", batch_size=10, growth=2.0, every="1 epoch", max_batch_size=20, epochs=2,
    lr=0.01, device="cpu", threads=1, precision="float64", channels_last=False,
)  # fmt: skip


def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(41, 3, 8, 8, generator=generator)
    labels = torch.randint(10, (41,), generator=generator)
    return tasks.Data(pixels, labels, pixels[:4], labels[:4], 10, "")


def trained(rank, world, *, runs):
    for config, out in runs:
        train(config, out, data=images())


def differences(one, other):
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    return {name: float((mine[name].double() - theirs[name].double()).abs().max()) for name in mine}


SYNC, GHOST = replace(NORM, sync_batch_norm=True), replace(NORM, ghost_batch_size=4)


@pytest.mark.parametrize(("world", "kinds"), [(2, 1), pytest.param(3, 2, marks=pytest.mark.slow)])
def test_the_weights_and_running_statistics_of_one_process(tmp_path, world, kinds):
    names = {"sync": SYNC, "ghost": GHOST}
    for name, config in names.items():
        train(config, tmp_path / name, data=images())
    plain = list(names.items())
    every = plain + [(name, replace(config, fsdp=True, channels_last=True)) for name, config in plain]
    chosen = every if kinds == 2 else [every[0], every[-1]]  # synchronised under DDP, ghosts in shards
    runs = [(config, tmp_path / f"{name} {config.fsdp}") for name, config in chosen]
    on_ranks(world, partial(trained, runs=runs))
    for config, out in runs:
        found = differences(tmp_path / ("sync" if config.sync_batch_norm else "ghost"), out)
        assert max(found.values()) < 1e-10, (config.fsdp, found)


@pytest.mark.slow
def test_per_rank_statistics_are_the_default_and_an_empty_share_leaves_them_alone(tmp_path):
    one = replace(NORM, batch_size=40, growth=None, epochs=1)
    alone, many = tmp_path / "one", tmp_path / "many"
    on_ranks(2, partial(trained, runs=[(one, many)]))
    train(one, alone, data=images())
    found = weights(many)
    assert all(bool(value.isfinite().all()) for value in found.values())
    assert max(differences(alone, many).values()) > 1e-6
    assert int(found["bn1.num_batches_tracked"]) == 2


@pytest.mark.parametrize("name", ["sync_batch_norm", "ghost_batch_size"])
def test_networks_without_batch_norm(name):
    config = replace(NORM, model="small_cnn", **{name: True if name == "sync_batch_norm" else 4})
    with pytest.raises(ValueError, match=f"`{name}` must come with a network that has batch norm, got small_cnn"):
        train(config, data=images())
