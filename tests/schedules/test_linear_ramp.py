from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adabatch import epochs, samples, updates
from adabatch.schedules import linear_ramp


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 400))
def test_the_formula_at_every_clock(start, end, over):
    plan = linear_ramp(end, over=samples(over), start=start).plan(dataset_size=None)
    for clock in range(over + 2):
        way = min(Fraction(clock, over), 1) * (end - start)
        assert plan.batch_size_at(clock) == start + int(way)  # int: towards the start


def test_increments_come_at_equal_distances():
    plan = linear_ramp(8, over=epochs(3), increment=2).plan(dataset_size=10, epochs=5, batch_size=2)
    assert (plan.starts_samples, plan.batch_sizes) == ((0, 10, 20, 30), (2, 4, 6, 8))
    down = linear_ramp(2, over=samples(10), increment=2).plan(dataset_size=None, batch_size=8)
    assert (down.starts_samples, down.batch_sizes) == ((0, 4, 7, 10), (8, 6, 4, 2))


def test_a_share_of_an_update_counts_as_a_whole_one():
    plan = linear_ramp(4, over=updates(4), start=1).plan(dataset_size=None)
    # Thirds of four updates: after 2, 3 and 4 of them.
    assert [plan.batch(update).size for update in range(6)] == [1, 1, 2, 3, 4, 4]


def test_a_ramp_to_where_it_starts_is_flat():
    assert linear_ramp(8, over=epochs(1)).plan(dataset_size=10, batch_size=8).batch_sizes == (8,)


def test_increments_that_miss_the_end():
    message = "`increment` must divide the way from 16 to 100, 84, got 16; choose a divisor, or use increment=1 with"
    with pytest.raises(ValueError, match=message):
        linear_ramp(100, over=epochs(1), start=16, increment=16)
    with pytest.raises(ValueError, match=message):
        linear_ramp(100, over=epochs(1), increment=16).plan(dataset_size=1000, batch_size=16)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`end` must be at least 1, got 0"):
        linear_ramp(0, over=epochs(1))
    with pytest.raises(ValueError, match="`increment` must be at least 1, got -1"):
        linear_ramp(2, over=epochs(1), increment=-1)
    with pytest.raises(TypeError, match=r"`start` must be a whole number, got 1.5"):
        linear_ramp(2, over=epochs(1), start=1.5)
    with pytest.raises(ValueError, match="`over` must be longer than 0, got 0 updates"):
        linear_ramp(2, over=updates(0))
    with pytest.raises(TypeError, match=r"`over` must be a length such as epochs\(20\)"):
        linear_ramp(2, over="1 epoch")


def test_a_ramp_of_too_many_changes():
    message = (
        "`schedule` must change at most 100,000 times in a plan, got more by clock 200,001; change less often, by more"
    )
    with pytest.raises(ValueError, match=message):
        linear_ramp(10**9, over=samples(2 * 10**9), start=1, increment=1).plan(dataset_size=None)


def test_it_says_what_it_is():
    assert linear_ramp(4096, over=epochs(2), start=96).describe() == "from 96 to 4,096 in increments of 1 over 2 epochs"
