from __future__ import annotations

import re
from dataclasses import replace

import pytest
from tests.lab.training.checks import SMALL

from adabatch.lab.training import extension


def check(schedule, *, epochs, to, passed, **settings):
    began = replace(SMALL, lr_schedule=schedule, epochs=epochs, **settings)
    extension.check(replace(began, epochs=to), began, epochs=passed)


@pytest.mark.parametrize("passed", [0, 1, 3, 4])
@pytest.mark.parametrize(
    "schedule", ["constant", "step:0.5:2", "milestones:0.2:1,3,9", "exponential:0.9", "warmup:2+step:0.5:2"]
)
def test_schedules_that_do_not_know_their_length(schedule, passed):
    check(schedule, epochs=4, to=9, passed=passed)


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "warmup:2+cosine"])
def test_schedules_that_do(schedule):
    check(schedule, epochs=4, to=4, passed=4)
    check(schedule, epochs=4, to=9, passed=0)  # the first LR is all that was used yet
    for passed in (1, 2, 4):
        message = (
            f"`epochs` must stay 4, got 9: the LRs of `lr_schedule` {schedule} up to epoch {passed} depend on the "
            "length of the training; leave it out, or start a new run of that length"
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            check(schedule, epochs=4, to=9, passed=passed)


def test_a_decay_at_the_end_may_be_put_off_until_it_begins():
    for passed in (0, 4, 7):
        check("wsd:2", epochs=10, to=20, passed=passed)
    for passed in (8, 9, 10):
        with pytest.raises(ValueError, match=f"`lr_schedule` wsd:2 up to epoch {passed} depend on the length"):
            check("wsd:2", epochs=10, to=20, passed=passed)
