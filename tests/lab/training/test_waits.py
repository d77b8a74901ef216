"""A training step on a GPU waits for nothing: neither the loader, the crops, the loop, nor the counts read a number."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.lab.training.checks import SMALL, small_data
from tests.waits import CUDA, META, Calls, refused

from adabatch.lab import tasks
from adabatch.lab.tasks.augment import CropFlip
from adabatch.lab.training import RunConfig
from adabatch.lab.training.interrupt import Interrupts
from adabatch.lab.training.loop import Trainer
from adabatch.lab.training.setup import Setup

DEVICES = [META, pytest.param(CUDA, marks=pytest.mark.gpu)]
IMAGES = RunConfig.for_task("cifar10", model="resnet20", batch_size=8, epochs=1, threads=1)


def images() -> tasks.Data:
    pixels, labels = torch.randint(256, (24, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (24,))
    transform = CropFlip((0.5,) * 3, (0.25,) * 3, image_size=32, classes=10)
    return tasks.Data(pixels, labels, pixels[:4], labels[:4], 10, "", transform=transform)


def trainer_of(config: RunConfig, data: tasks.Data, device: torch.device) -> Trainer:
    """A trainer at its first stretch."""
    trainer = Trainer(Setup(config, data, device), folder=None, interrupts=Interrupts(), progress=None)
    trainer._begin_stretch()
    return trainer


def epoch(trainer: Trainer, device: torch.device) -> Calls:
    """An epoch in which nothing may wait."""
    with refused(device), Calls() as calls:
        trainer._epoch_of_micro_batches()
    return calls


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("micro", [None, 3])
def test_an_epoch_of_pictures(device, micro):
    seen = []
    for size in (24, 6, 12):
        trainer = trainer_of(replace(IMAGES, batch_size=size, micro_batch_size=micro), images(), device)
        seen.append(epoch(trainer, device))
        assert (trainer._tally.updates, trainer._loader.clock) == (24 // size, 24)
        assert trainer._tally._loss_sum.device == device
    assert [calls.counts["sent"] for calls in seen[1:]] == [1, 1]  # the tables of the order, whatever the updates


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lars", "lamb", "rmsprop-warmup"])
def test_an_epoch_with_an_optimizer(device, optimizer):
    config = RunConfig.for_task("digits", model="mlp", batch_size=16, epochs=1, optimizer=optimizer)
    trainer = trainer_of(config, small_data(), device)
    epoch(trainer, device)
    assert trainer._tally.updates == 19


@pytest.mark.parametrize("device", DEVICES)
def test_a_loop_that_reads_its_loss_is_noticed(device, monkeypatch):
    trainer = trainer_of(SMALL, small_data(), device)
    add = trainer._tally.add
    monkeypatch.setattr(trainer._tally, "add", lambda loss, *given, **more: add(loss, *given, **more) or loss.item())
    with pytest.raises(RuntimeError, match=r"meta tensors|synchronizing"):
        epoch(trainer, device)


@pytest.mark.parametrize("device", DEVICES)
def test_losses_are_summed_where_they_are(device):
    trainer = trainer_of(SMALL, small_data(), device)
    with refused(device), Calls() as calls:
        for _ in range(5):
            trainer._tally.add(torch.ones((), device=device), 16, times=16)
    assert calls.counts["add_"] == 5
    assert set(calls.counts) <= {"add_", "ones"}
    if device.type == "cuda":
        assert trainer._tally._loss_sum.item() == 80
