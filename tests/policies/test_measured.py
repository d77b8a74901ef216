"""A policy over the tap that measures: together as users have them, with nothing made up."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
import torch

import adabatch as ab

SAMPLES, EPOCHS = 2048, 8


class Training(NamedTuple):
    """What was trained, in the order of a checkpoint, and the tap."""

    parts: tuple[Any, ...]
    noise: ab.noise.Tap
    updates: int

    @property
    def decided(self) -> list[tuple[int, int]]:
        return [(decision.clock, decision.batch_size) for decision in self.parts[-1].decisions]


def trained(*, micro: int | None, signal: float = 1.0, stop: int | None = None, saved: Any = None) -> Training:
    """Eight epochs of a linear regression whose targets are noise, and `signal` times the inputs' sum."""
    torch.manual_seed(0)
    inputs = torch.randn(SAMPLES, 8)
    targets = signal * inputs.sum(1, keepdim=True) + torch.randn(SAMPLES, 1)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    data = torch.utils.data.TensorDataset(inputs, targets)
    loader = ab.DataLoader(data, batch_size=16, shuffle=True, seed=0, micro_batch_size=micro)
    noise = ab.noise.tap(model, optimizer, loader, every=2)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.policies.noise_scale(maximum=128), noise=noise)
    parts: tuple[Any, ...] = (model, optimizer, loader, batches)
    for part, state in zip(parts, saved or (), strict=False):
        part.load_state_dict(state)
    updates = 0
    while loader.clock < EPOCHS * SAMPLES:
        for one in ab.accumulate(loader, model):
            with one as (x, y):
                loss = torch.nn.functional.mse_loss(model(x), y)
                (loss * one.weight).backward()
            if one.is_last:
                optimizer.step()
                optimizer.zero_grad()
                batches.step(loss)
                updates += 1
                if updates == stop:
                    return Training(parts, noise, updates)
    return Training(parts, noise, updates)


@pytest.mark.parametrize("micro", [4, None], ids=["micro-batches", "halves"])
def test_the_batch_grows_once_the_noise_outweighs_the_gradient(micro):
    """Near the optimum the gradient is noise alone; each step waits for the lower end of the interval."""
    done = trained(micro=micro)
    decisions = done.parts[-1].decisions
    assert [decision.batch_size for decision in decisions] == [32, 64, 128][: len(decisions)]
    assert decisions, "it never grew"
    for decision in decisions:
        assert decision.interval[0] >= decision.batch_size
        assert decision.observation.noise.measured >= 20
    assert done.noise.estimate().low > 32
    assert done.parts[-1].last_lr == [pytest.approx(0.02 * decisions[-1].batch_size / 16)]


def test_it_stays_where_the_gradient_outweighs_the_noise():
    """At first, far from the optimum, the noise scale is a few samples."""
    done = trained(micro=4, signal=1e4, stop=100)
    assert done.decided == []
    assert 0 < done.noise.estimate().noise_scale < 32


@pytest.mark.parametrize("stop", [1, 200, 330])
def test_a_resumed_training_decides_the_same_bit_for_bit(stop):
    whole, begun = trained(micro=4), trained(micro=4, stop=stop)
    model, optimizer, *drivers = (part.state_dict() for part in begun.parts)
    resumed = trained(micro=4, saved=[model, optimizer, *json.loads(json.dumps(drivers))])
    assert begun.decided + resumed.decided == whole.decided
    assert resumed.updates == whole.updates - stop
    assert resumed.noise.state_dict() == whole.noise.state_dict()
    assert torch.equal(resumed.parts[0].weight, whole.parts[0].weight)
