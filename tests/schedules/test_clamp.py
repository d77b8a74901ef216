import pytest

from adabatch import epochs, samples, updates
from adabatch.schedules import clamp, constant, geometric, linear_ramp, steps, then


def test_bounds_on_both_sides():
    plan = clamp(steps("0:8 10:100 20:1 30:9"), minimum=2, maximum=50).plan(dataset_size=None)
    assert (plan.starts_samples, plan.batch_sizes) == ((0, 10, 20, 30), (8, 50, 2, 9))


def test_equal_sizes_are_one_stage():
    plan = clamp(linear_ramp(20, over=samples(190), start=1), maximum=3).plan(dataset_size=None)
    assert (plan.starts_samples, plan.batch_sizes) == ((0, 10, 20), (1, 2, 3))


def test_updates_are_counted_at_the_bounded_sizes():
    # 10 updates of 4, 10 of 6: the third stage comes after 40 + 60 samples, not after 40 + 80.
    plan = clamp(steps("0:4 10:8 20:2", unit="updates"), maximum=6).plan(dataset_size=None)
    assert plan.starts_samples == (0, 40, 100)


def test_a_maximum_ends_what_never_ends():
    growth = clamp(geometric(2, every=updates(1)), maximum=100)
    assert growth.finite
    assert growth.plan(dataset_size=None, batch_size=3).batch_sizes == (3, 6, 12, 24, 48, 96, 100)
    assert not clamp(geometric(2, every=updates(1)), minimum=1).finite


def test_sizes_above_the_maximum_still_steer_what_comes_after():
    # Unbounded, growth reaches 64 before the ramp takes over, which then falls by 2 a sample: below 20 after 23.
    growth = then(geometric(2, every=samples(31), start=8), linear_ramp(2, over=samples(31)), after=samples(94))
    plan = clamp(growth, maximum=20).plan(dataset_size=31, epochs=10)
    assert plan.starts_samples == (0, 31, 62, *range(117, 126))
    assert plan.batch_sizes == (8, 16, 20, *range(18, 0, -2))


def test_bounds_that_change_the_start():
    message = (
        "`maximum` must leave the batch size that training starts with, 128, as it is, got 64; start with 64 instead"
    )
    with pytest.raises(ValueError, match=message):
        clamp(constant(128), maximum=64)
    with pytest.raises(ValueError, match=message):
        clamp(constant(), maximum=64).plan(dataset_size=1000, batch_size=128)
    with pytest.raises(
        ValueError, match="`minimum` must leave the batch size that training starts with, 8, as it is, got 16"
    ):
        clamp(constant(8), minimum=16, maximum=64)


def test_bounds_may_change_where_a_later_schedule_starts():
    late = then(constant(128), clamp(constant(), maximum=64), after=epochs(1))
    assert late.plan(dataset_size=1000).batch_sizes == (128, 64)


def test_bad_arguments():
    with pytest.raises(
        ValueError, match="`maximum` or `minimum` must be given, got None for both; or leave `clamp` out"
    ):
        clamp(constant(8))
    with pytest.raises(ValueError, match="`maximum` must be at least `minimum` = 8, got 4"):
        clamp(constant(8), minimum=8, maximum=4)
    with pytest.raises(ValueError, match="`minimum` must be at least 1, got 0"):
        clamp(constant(8), minimum=0)
    with pytest.raises(TypeError, match=r"`schedule` must be a schedule such as constant\(128\), got 8"):
        clamp(8, maximum=8)


def test_it_says_what_it_is():
    assert clamp(constant(8), minimum=4, maximum=2000).describe() == "(constant at 8), at least 4 and at most 2,000"
