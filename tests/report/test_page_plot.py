import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adabatch.report import page_plot as plot
from adabatch.report.picture import COLOURS


def test_colours_are_those_of_the_picture():
    assert plot.colours(list(COLOURS)) == dict(COLOURS)
    found = plot.colours(["adaptive", "mine", "other", "third"])
    assert found["adaptive"] == COLOURS["adaptive"]
    assert len(set(found.values())) == 4


def test_arms_of_one_colour_range_differ_in_grey():
    assert {plot.dash(name) for name in ("adaptive", "uncoupled", "fixed-large")} == {"solid", "dash", "dot"}
    assert plot.symbol(0) != plot.symbol(1)
    assert plot.symbol(0) == plot.symbol(6)


def test_a_faint_colour():
    assert plot.faint("#0072B2") == "rgba(0,114,178,0.16)"


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40))
def test_ticks_at_batch_sizes(sizes):
    axis = plot.sizes_axis(sizes, most=6)
    assert 1 <= len(axis["tickvals"]) <= 6
    assert set(axis["tickvals"]) <= set(sizes)
    assert min(sizes) in axis["tickvals"]
    assert len(axis["ticktext"]) == len(axis["tickvals"])
    low, high = axis["range"]
    assert low < math.log10(min(sizes)) <= math.log10(max(sizes)) < high


def test_all_of_few_sizes_get_a_tick():
    assert plot.sizes_axis([64, 16, 32, 16])["ticktext"] == ["16", "32", "64"]


@given(st.lists(st.floats(1e-8, 1e8), min_size=1, max_size=20))
def test_ticks_of_a_log_axis(values):
    axis = plot.log_axis(values)
    low, high = axis["range"]
    assert low < math.log10(min(values)) <= math.log10(max(values)) < high
    assert 1 <= len(axis["tickvals"]) <= 17
    assert all(low <= math.log10(tick) <= high for tick in axis["tickvals"])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.001, 0.008], ["0.001", "0.002", "0.005"]),
        ([0.0008, 0.1], ["0.001", "0.003", "0.01", "0.03", "0.1"]),
        ([0.006, 0.012], ["0.006", "0.012"]),
        ([0.1, 0.1], ["0.1"]),
    ],
)
def test_ticks_are_round(values, text):
    assert plot.log_axis(values)["ticktext"] == text
