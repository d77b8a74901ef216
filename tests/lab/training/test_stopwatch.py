from __future__ import annotations

import time

import pytest
import torch

from adabatch.lab.training.stopwatch import Stopwatch


def test_seconds_by_batch_size():
    watch = Stopwatch(torch.device("cpu"))
    for size, samples, seconds in ((16, 160, 0.03), (32, 320, 0.02), (16, 80, 0.01)):
        watch.start()
        time.sleep(seconds)
        watch.stop(batch_size=size, samples=samples)
        time.sleep(0.05)  # what lies between stretches does not count
    assert watch.batch_sizes == (16, 32)
    assert 0.06 <= watch.seconds < 0.11
    rates = watch.samples_per_second()
    assert rates[16] < 240 / 0.04
    assert rates[32] < 320 / 0.02


def test_a_stretch_without_samples_does_not_count():
    watch = Stopwatch(torch.device("cpu"))
    watch.start()
    watch.stop(batch_size=16, samples=0)
    assert (watch.seconds, watch.batch_sizes, watch.samples_per_second()) == (0, (), {})


def test_state():
    watch = Stopwatch(torch.device("cpu"))
    watch.start()
    assert watch.elapsed() > 0
    watch.stop(batch_size=16, samples=160)
    other = Stopwatch(torch.device("cpu"))
    other.load_state_dict(watch.state_dict())
    assert other.samples_per_second() == watch.samples_per_second()
    assert other.seconds == pytest.approx(watch.seconds)
    assert (other.samples, watch.samples) == (160, 160)


@pytest.mark.parametrize(
    "row", [[0, 160, 1.0], [16, -1, 1.0], [16, 160, -1.0], [16, 160, float("nan")], [16.0, 160, 1.0], [True, 160, 1.0]]
)
def test_a_state_of_something_else(row):
    with pytest.raises(ValueError, match="stopwatch must hold batch sizes, samples and seconds, got "):
        Stopwatch(torch.device("cpu")).load_state_dict([[32, 320, 1.0], row])
