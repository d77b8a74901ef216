from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from tests.lab.training.checks import SMALL

from adabatch.lab.training.records import RunState
from adabatch.lab.training.tally import Tally

CPU = torch.device("cpu")


def state_of(tally: Tally, **changes) -> RunState:
    state = RunState(config=SMALL, data="", parts={}, evaluations=0, decisions=0, test_right=None, **tally.state_dict())
    return replace(state, **changes)


def counted(*stretches: tuple[int, int, float]) -> Tally:
    """A tally of stretches: batch size, samples in one update, seconds."""
    tally = Tally(CPU)
    for size, samples, seconds in stretches:
        tally.start(size)
        time.sleep(seconds)
        if samples:
            tally.add(torch.tensor(0.5), samples, times=samples)
        tally.stop()
    return tally


def test_seconds_by_batch_size():
    tally = Tally(CPU)
    for size, samples, seconds in ((16, 160, 0.03), (32, 320, 0.02), (16, 80, 0.01)):
        tally.start(size)
        time.sleep(seconds)
        tally.add(torch.tensor(0.0), samples)
        tally.stop()
        time.sleep(0.05)  # what lies between stretches does not count
    assert tally.batch_sizes == (16, 32)
    assert 0.06 <= tally.seconds < 0.11
    rates = tally.samples_per_second()
    assert rates[16] < 240 / 0.04
    assert rates[32] < 320 / 0.02
    assert (tally.updates, tally.samples) == (3, 560)


def test_a_stretch_without_samples_does_not_count():
    tally = counted((16, 0, 0.0))
    assert (tally.seconds, tally.batch_sizes, tally.samples_per_second()) == (0, (), {})


def test_the_mean_loss_is_that_of_the_samples_since_it_was_asked_for():
    tally = counted((16, 10, 0.0))
    tally.start(32)
    tally.add(torch.tensor(30.0), 30)  # a sum
    tally.stop()
    assert tally.mean_loss() == (10 * 0.5 + 30) / 40
    assert tally.loss_samples == 0
    tally.start(32)
    tally.add(torch.tensor(0.25), 8, times=8)
    assert not tally.diverged
    tally.stop()
    assert tally.mean_loss() == 0.25
    tally.start(32)
    tally.add(torch.tensor(float("nan")), 8, times=8)
    assert tally.diverged


def test_state():
    tally = Tally(CPU)
    tally.start(16)
    assert tally.elapsed() > 0
    tally.add(torch.tensor(0.5), 160, times=160)
    tally.stop()
    other = Tally(CPU)
    other.load(state_of(tally))
    assert other.samples_per_second() == tally.samples_per_second()
    assert other.seconds == pytest.approx(tally.seconds)
    assert (other.samples, tally.samples) == (160, 160)
    assert other.state_dict() == tally.state_dict()
    assert other.mean_loss() == 0.5


@pytest.mark.parametrize(
    "row", [[0, 160, 1.0], [16, -1, 1.0], [16, 160, -1.0], [16, 160, float("nan")], [16.0, 160, 1.0], [True, 160, 1.0]]
)
def test_a_state_of_something_else(row):
    with pytest.raises(ValueError, match="`stopwatch` must hold batch sizes, samples and seconds, got "):
        Tally(CPU).load(state_of(Tally(CPU), stopwatch=[[32, 320, 1.0], row]))


def test_a_state_of_other_samples():
    with pytest.raises(ValueError, match="`stopwatch` must hold 100 samples, got 160"):
        Tally(CPU).load(state_of(counted((16, 160, 0.0)), samples=100))
