import math

import pytest

from adabatch import epochs, samples, updates
from adabatch.planner import Course


def test_a_table_in_samples():
    course = Course.of_table([(0, 1.0), (epochs(0.5), 0.5), (samples(80), 0.1)], dataset_size=101)
    assert course.starts_samples == (0, 51, 80)
    assert [course.lr_at(clock) for clock in (0, 50, 51, 79, 80, 1000)] == [1.0, 1.0, 0.5, 0.5, 0.1, 0.1]


def test_a_function_by_points():
    course = Course.of_function(lambda clock: math.exp(-clock), end=10, points=5)
    assert course.starts_samples == (0, 2, 4, 6, 8)
    assert course.lrs[1] == math.exp(-2)
    assert len(Course.of_function(lambda clock: 1.0, end=3).lrs) == 3


@pytest.mark.parametrize(
    ("starts", "lrs", "message"),
    [
        ((1,), (0.1,), "`starts_samples` must be 0 and then increasing"),
        ((0, 0), (0.1, 0.2), "`starts_samples` must be 0 and then increasing"),
        ((0, 5), (0.1,), "`lrs` must be one per start, got 1 for 2"),
    ],
)
def test_errors(starts, lrs, message):
    with pytest.raises(ValueError, match=message):
        Course(starts, lrs)


def test_a_unit_that_it_cannot_count():
    with pytest.raises(ValueError, match="`table` must be one of epochs, samples, got 'updates'"):
        Course.of_table([(updates(0), 1.0)], 10)
