"""What a BatchSizeScheduler refuses before anything is attached."""

from __future__ import annotations

import pytest
from tests.scheduler.checks import loader_of, model_of, sgd
from tests.scheduler.taps import Numbers

import adabatch as ab

POLICY = ab.policies.noise_scale(maximum=32)


@pytest.mark.parametrize(
    ("schedule", "given", "message"),
    [
        (POLICY, {"epochs": 3}, "`epochs` must be left out under a policy, got int; there is no plan that could end"),
        (POLICY, {"tokens_per_sample": 2}, "`tokens_per_sample` must be left out under a policy"),
        (
            POLICY,
            {},
            r"`noise` must be given, since the policy 'noise_scale' decides by .*; make one with `ab.noise.tap",
        ),
        (
            ab.schedules.constant(),
            {"noise": Numbers()},
            "`noise` must be left out under a schedule, got Numbers; a tap is",
        ),
    ],
)
def test_arguments_that_belong_to_the_other(schedule, given, message):
    optimizer, loader = sgd(model_of()), loader_of()
    with pytest.raises(ValueError, match=message):
        ab.BatchSizeScheduler(optimizer, loader, schedule, **given)
    assert loader.driver is None
    ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant()).close()


@pytest.mark.parametrize("schedule", ["linear", 2, ab.policies.noise_scale])
def test_neither_a_schedule_nor_a_policy(schedule):
    with pytest.raises(
        TypeError, match=r"`schedule` must be a schedule or a policy, got .*; write for example `ab.sch"
    ):
        ab.BatchSizeScheduler(sgd(model_of()), loader_of(), schedule)


def test_what_is_no_tap():
    with pytest.raises(
        TypeError, match=r"`noise` must be a tap, which measures the gradient's noise, got float; make one"
    ):
        ab.BatchSizeScheduler(sgd(model_of()), loader_of(), POLICY, noise=0.5)
