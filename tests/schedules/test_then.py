import pytest

from adabatch import epochs, samples, updates
from adabatch.schedules import constant, geometric, linear_ramp, steps, then


def test_the_second_starts_with_the_size_in_force_and_a_clock_of_its_own():
    growth = then(
        linear_ramp(32, over=samples(100), start=8, increment=8), geometric(2, every=samples(50)), samples(80)
    )
    plan = growth.plan(dataset_size=200, epochs=1)
    assert (plan.starts_samples, plan.batch_sizes) == ((0, 34, 67, 130, 180), (8, 16, 24, 48, 96))


def test_the_second_may_start_anew():
    plan = then(constant(), steps({0: 3, 10: 4}), after=epochs(2)).plan(dataset_size=10, batch_size=8)
    assert (plan.starts_samples, plan.batch_sizes) == ((0, 20, 30), (8, 3, 4))


def test_updates_count_on_the_batches_of_the_first():
    # 2 + 2 + 2 + 5 + 5 samples in five updates; the second counts its own three from there.
    first, second = steps({0: 2, 5: 5}), steps({0: 1, 3: 7}, unit="updates")
    plan = then(first, second, after=updates(5)).plan(dataset_size=None)
    assert [plan.batch(update).size for update in range(10)] == [2, 2, 2, 5, 5, 1, 1, 1, 7, 7]
    assert plan.starts_samples == (0, 5, 16, 19)


def test_a_stage_where_the_second_takes_over_never_holds():
    plan = then(steps({0: 2, 10: 50}), geometric(2, every=samples(10), maximum=8), samples(10)).plan(dataset_size=None)
    assert plan.batch_sizes == (2, 4, 8)


def test_an_endless_first_is_ended():
    growth = then(geometric(2, every=samples(10)), constant(), after=samples(25))
    assert growth.finite
    assert growth.plan(dataset_size=None, batch_size=1).batch_sizes == (1, 2, 4)
    assert not then(constant(), geometric(2, every=samples(10)), after=samples(25)).finite


def test_three_in_a_row():
    growth = then(then(constant(2), constant(4), samples(10)), constant(8), samples(30))
    assert growth.plan(dataset_size=None).starts_samples == (0, 10, 30)
    growth = then(constant(2), then(constant(4), constant(8), samples(10)), samples(30))
    assert growth.plan(dataset_size=None).starts_samples == (0, 30, 40)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`after` must be longer than 0, got 0 samples"):
        then(constant(), constant(), samples(0))
    with pytest.raises(TypeError, match="`second` must be a schedule such as"):
        then(constant(), 8, samples(1))
    with pytest.raises(TypeError, match="`first` must be a schedule such as"):
        then(constant, constant(), samples(1))
    with pytest.raises(TypeError, match="`after` must be a length such as"):
        then(constant(), constant(), 8)


def test_it_says_what_it_is():
    assert (
        then(constant(8), constant(9), epochs(2)).describe() == "(constant at 8), then after 2 epochs (constant at 9)"
    )
