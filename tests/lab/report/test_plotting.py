import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adabatch.lab.report.plotting import axis, log_axis, sizes_axis


def test_the_first_axis_has_no_number():
    assert [axis("yaxis", place) for place in range(3)] == ["yaxis", "yaxis2", "yaxis3"]


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40))
def test_ticks_at_batch_sizes(sizes):
    found = sizes_axis(sizes, most=6)
    assert 1 <= len(found["tickvals"]) <= 6
    assert found["ticktext"] == [f"{size:,}" for size in found["tickvals"]]
    low, high = found["range"]
    assert low < math.log10(min(sizes)) <= math.log10(max(sizes)) < high


def test_all_of_few_sizes_get_a_tick():
    assert sizes_axis([64, 16, 32, 16])["ticktext"] == ["16", "32", "64"]


def test_many_sizes_get_ticks_at_powers_of_two():
    assert sizes_axis(range(128, 5121, 31), most=6)["ticktext"] == [
        "128",
        "256",
        "512",
        "1,024",
        "2,048",
        "4,096",
    ]


@given(st.lists(st.floats(1e-8, 1e8), min_size=1, max_size=20))
def test_ticks_of_a_log_axis(values):
    found = log_axis(values)
    low, high = found["range"]
    assert low < math.log10(min(values)) <= math.log10(max(values)) < high
    assert 1 <= len(found["tickvals"]) <= 5
    assert all(low <= math.log10(tick) <= high for tick in found["tickvals"])


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
    assert log_axis(values)["ticktext"] == text


def test_a_log_axis_takes_another_form_of_numbers():
    assert log_axis([1000, 30_000], form="{:,.0f}".format, suffix=" s")["ticktext"][0] == "1,000 s"
