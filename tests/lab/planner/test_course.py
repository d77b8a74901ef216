import math
import re

import pytest

from adabatch import epochs, samples, updates
from adabatch.lab.planner import Course


def test_a_table_in_samples():
    course = Course.of_table([(0, 1.0), (epochs(0.5), 0.5), (samples(80), 0.1)], dataset_size=101)
    assert course.starts_samples == (0, 51, 80)
    assert [course.lr_at(clock) for clock in (0, 50, 51, 79, 80, 1000)] == [1.0, 1.0, 0.5, 0.5, 0.1, 0.1]


def test_a_mapping_is_a_table_too():
    pairs = [(0, 0.1), (epochs(1), 0.05)]
    assert Course.of_table(dict(pairs), dataset_size=100) == Course.of_table(pairs, dataset_size=100)


def test_a_table_in_samples_needs_no_data_set():
    assert Course.of_table({0: 0.1, samples(50): 0}, dataset_size=None) == Course((0, 50), (0.1, 0.0))


@pytest.mark.parametrize(
    ("table", "size", "kind", "message"),
    [
        ([(0, 0.1), (1000, math.nan)], 1000, ValueError, "`table` must be finite, got nan; it is the LR from 1000 on"),
        ([(0, 0.1), (epochs(1), math.inf)], 1000, ValueError, "`table` must be finite, got inf; it is the LR from 1 e"),
        ([(0, -0.1)], 1000, ValueError, "`table` must be at least 0, got -0.1; it is the LR from 0 on"),
        ([(0, "0.1")], 1000, TypeError, "`table` must be a number, got '0.1'; it is the LR from 0 on"),
        ([(0, 0.1), (epochs(1), 0.05)], None, ValueError, "`dataset_size` must be given to count 1 epoch, got None"),
        ([(0, 0.1), (epochs(1), 0.05)], "9", TypeError, "`dataset_size` must be a whole number, got '9'"),
        ([0, 1000], 1000, TypeError, "`table` must be pairs of a threshold and an LR, got 0"),
        ([(0, 0.1), (0.5, 0.05)], 1000, TypeError, "`table` must have whole numbers of samples or Durations as thresh"),
        (0.1, 1000, TypeError, "`table` must be a mapping or pairs such as {0: 0.1, 5000: 0.02}, got 0.1"),
        ("0.1", 1000, TypeError, "`table` must be a mapping or pairs such as {0: 0.1, 5000: 0.02}, got '0.1'"),
        ([], 1000, ValueError, "`starts_samples` must be 0 and then increasing"),
    ],
)
def test_what_is_no_table(table, size, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        Course.of_table(table, size)


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
        ((0, 5), (0.1, math.nan), "`lrs` must be finite, got nan"),
        ((0,), (-0.1,), "`lrs` must be at least 0, got -0.1"),
    ],
)
def test_errors(starts, lrs, message):
    with pytest.raises(ValueError, match=message):
        Course(starts, lrs)


def test_a_unit_that_it_cannot_count():
    with pytest.raises(ValueError, match="`table` must be one of epochs, samples, got 'updates'"):
        Course.of_table([(updates(0), 1.0)], 10)
