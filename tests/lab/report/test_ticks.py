import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adabatch.lab.report import ticks


@pytest.mark.parametrize(
    ("sizes", "most", "wanted"),
    [
        ([64, 16, 32, 16], 5, [16, 32, 64]),
        ([128, 200, 321], 5, [128, 200, 321]),
        (range(128, 5121, 7), 6, [128, 256, 512, 1024, 2048, 4096]),
        (range(100, 5121, 7), 4, [128, 512, 2048]),
        (range(9, 16), 6, [10, 12, 14]),
        (range(5, 12), 6, [5, 10]),
    ],
)
def test_ticks_at_batch_sizes(sizes, most, wanted):
    assert ticks.sizes(sizes, most) == wanted


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40), st.integers(5, 12))
def test_there_are_enough_ticks_and_not_too_many(sizes, most):
    found = ticks.sizes(sizes, most)
    assert min(2, len(set(sizes))) <= len(found) <= most
    assert found == sorted(set(found))
    assert min(sizes) <= found[0] <= found[-1] <= max(sizes)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.9, 1100, [1, 10, 100, 1000]),
        (1, 10, [1, 2, 5, 10]),
        (3.2, 4.9, [3.5, 4.0, 4.5]),
        (70, 150, [80, 100, 120, 140]),
        (20, 400, [20, 50, 100, 200]),
        (1e-6, 1e6, [1e-6, 1e-3, 1, 1e3, 1e6]),
        (0.1, 0.1, [0.1]),
    ],
)
def test_ticks_of_a_log_axis(low, high, wanted):
    assert ticks.logarithmic(low, high) == pytest.approx(wanted)


@given(st.floats(1e-8, 1e8), st.floats(1.05, 1e10))
def test_a_log_axis_has_two_ticks_at_least(low, factor):
    found = ticks.logarithmic(low, low * factor)
    assert 2 <= len(found) <= 5
    assert all(math.log10(low) <= math.log10(tick) <= math.log10(low * factor) for tick in found)


def test_even_ticks():
    assert ticks.even(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert ticks.even(1, 1, 5) == [1]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (20_118, "20.118k"), (2_000_000, "2M"), (1.5e9, "1.5G"), (250, "250"), (0.5, "0.5")]
)
def test_short_numbers(value, text):
    assert ticks.short(value) == text


@pytest.mark.parametrize(
    ("first", "worst", "low"),
    [
        (33.6, 96.3, 80),
        (33.6, 48.0, 30),
        (96.0, 99.0, 95),
        (10.0, 98.0, 80),
        (8.6, 8.6, 0),
        (40.0, 34.9, 35),
        (0, 34.9, 0),
    ],
)
def test_an_accuracy_axis_begins_at_a_round_value(first, worst, low):
    assert ticks.floor(first, worst) == low
