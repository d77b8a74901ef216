import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adabatch.lab.report import look
from adabatch.lab.report import page_plot as plot


def test_arms_look_as_in_the_picture():
    names = ["adaptive", "mine", "other", "third"]
    assert plot.colours(names) == look.colours(names)
    assert [plot.dash(name, names) for name in names] == [look.dash(name, names) for name in names]
    assert plot.symbol(3) == look.symbol(3)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40))
def test_ticks_at_batch_sizes(sizes):
    axis = plot.sizes_axis(sizes, most=6)
    assert 1 <= len(axis["tickvals"]) <= 6
    assert axis["ticktext"] == [f"{size:,}" for size in axis["tickvals"]]
    low, high = axis["range"]
    assert low < math.log10(min(sizes)) <= math.log10(max(sizes)) < high


def test_all_of_few_sizes_get_a_tick():
    assert plot.sizes_axis([64, 16, 32, 16])["ticktext"] == ["16", "32", "64"]


def test_many_sizes_get_ticks_at_powers_of_two():
    assert plot.sizes_axis(range(128, 5121, 31), most=6)["ticktext"] == ["128", "256", "512", "1,024", "2,048", "4,096"]


@given(st.lists(st.floats(1e-8, 1e8), min_size=1, max_size=20))
def test_ticks_of_a_log_axis(values):
    axis = plot.log_axis(values)
    low, high = axis["range"]
    assert low < math.log10(min(values)) <= math.log10(max(values)) < high
    assert 1 <= len(axis["tickvals"]) <= 5
    assert all(low <= math.log10(tick) <= high for tick in axis["tickvals"])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.001, 0.008], ["0.001", "0.002", "0.005"]),
        ([0.0008, 0.1], ["0.001", "0.003", "0.01", "0.03", "0.1"]),
        ([0.006, 0.012], ["0.006", "0.008", "0.01", "0.012"]),
        ([0.1, 0.1], ["0.1"]),
    ],
)
def test_ticks_are_round(values, text):
    assert plot.log_axis(values)["ticktext"] == text
