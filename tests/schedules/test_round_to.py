import pytest

from adabatch import samples, updates
from adabatch.schedules import clamp, constant, geometric, round_to, steps


def test_nearest_multiple_ties_up_at_least_one():
    plan = round_to(steps("0:16 10:1 20:3 30:4 40:11 50:12 60:13 70:20"), 8).plan(dataset_size=None)
    assert (plan.starts_samples, plan.batch_sizes) == ((0, 10, 50, 70), (16, 8, 16, 24))


def test_odd_multiples_have_no_ties_but_the_right_middle():
    plan = round_to(steps("0:7 10:10 20:11"), 7).plan(dataset_size=None)
    assert (plan.starts_samples, plan.batch_sizes) == ((0, 20), (7, 14))


def test_updates_are_counted_at_the_rounded_sizes():
    plan = round_to(steps("0:8 10:11 20:8", unit="updates"), 8).plan(dataset_size=None)
    assert plan.starts_samples == (0,)
    plan = round_to(steps("0:8 10:12 20:8", unit="updates"), 8).plan(dataset_size=None)
    assert plan.starts_samples == (0, 80, 240)


def test_a_maximum_around_it_ends_it_where_it_would():
    # Rounding takes 245 below the maximum of 240; growth goes on to the stage that is rounded above it.
    growth = clamp(round_to(geometric(2.45, every=samples(500), start=100), 100), maximum=240)
    assert growth.plan(dataset_size=None).batch_sizes == (100, 200, 240)


def test_rounding_that_changes_the_start():
    message = "`multiple` must divide the batch size that training starts with, 100, got 64; start with 128 instead"
    with pytest.raises(ValueError, match=message):
        round_to(constant(100), 64)
    with pytest.raises(ValueError, match=message):
        round_to(constant(), 64).plan(dataset_size=1000, batch_size=100)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`multiple` must be at least 1, got 0"):
        round_to(constant(8), 0)
    with pytest.raises(TypeError, match=r"`multiple` must be a whole number, got 1.5"):
        round_to(constant(8), 1.5)
    with pytest.raises(TypeError, match="`schedule` must be a schedule"):
        round_to("0:8", 8)


def test_it_says_what_it_is():
    assert round_to(geometric(2, every=updates(5)), 64).describe() == (
        "(x2 every 5 updates, from the loader's batch size), in multiples of 64"
    )
