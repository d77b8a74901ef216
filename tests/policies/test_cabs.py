from __future__ import annotations

from math import nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.policies.checks import follow, known, seen

from adabatch import policies
from adabatch.types import NoiseEstimate

WEIGHTS = [torch.zeros(2)]


@given(st.floats(1e-3, 10), st.floats(0.1, 1e6), st.floats(1e-3, 10), st.floats(-1, 1))
def test_the_batch_is_lr_times_trace_over_loss(lr, trace, above, floor):
    policy = policies.cabs(floor, maximum=64)
    noise = NoiseEstimate(trace, trace / 2, trace * 2, trace, 1.0, 1e7)
    low, high = policy.interval(seen(noise, lr=lr, loss=floor + above), 3.0)
    expected = lr * trace / above
    assert low < expected < high
    assert low == pytest.approx(expected, rel=2e-3)
    assert high == pytest.approx(expected, rel=2e-3)


def test_it_needs_no_signal():
    """The trace is known where the signal is not told from 0; other policies cannot tell there."""
    noises = [NoiseEstimate(-1e4, 0.0, float("inf"), 1e4 + number, -1.0, 1000.0) for number in range(1200)]
    assert follow(policies.cabs(maximum=4096), noises)[-1].batch_size == 4096
    assert follow(policies.noise_scale(maximum=4096), noises)[-1].batch_size == 32


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"lr": None}, "no LR was in force yet"),
        ({"loss": None}, "no loss was told: call `batches.step(loss=loss)`"),
        ({"loss": nan}, "the loss of nan is no number"),
        ({"loss": 0.5}, "the loss of 0.5 is not above the floor of 0.5"),
    ],
)
def test_what_it_needs(changed, reason):
    last = follow(policies.cabs(0.5, maximum=64), [known(1e6, number=number) for number in range(200)], **changed)[-1]
    assert last.batch_size == 32
    assert last.reason == reason


def test_it_is_for_sgd_without_momentum_and_without_a_coupling():
    policy = policies.cabs(maximum=64)
    assert policy.coupling == "none"
    policy.check_training(torch.optim.SGD(WEIGHTS, lr=0.1), "none")
    with pytest.raises(
        ValueError, match="'cabs' was derived for SGD without momentum, got Adam; use `noise_scale` for"
    ):
        policy.check_training(torch.optim.Adam(WEIGHTS), "none")
    with pytest.raises(ValueError, match=r"got a momentum of 0.9; use `noise_scale`, or a momentum of 0"):
        policy.check_training(torch.optim.SGD(WEIGHTS, lr=0.1, momentum=0.9), "none")
    with pytest.raises(
        ValueError, match=r"`coupling` must be 'none' under the policy 'cabs'.*got 'linear'; leave it out"
    ):
        policy.check_training(torch.optim.SGD(WEIGHTS, lr=0.1), "linear")


def test_a_floor_that_is_no_number():
    with pytest.raises(ValueError, match="`loss_floor` must be finite, got nan"):
        policies.cabs(nan, maximum=64)
