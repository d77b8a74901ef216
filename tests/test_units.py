from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adabatch import epochs, samples, tokens, units, updates
from adabatch.units import Duration


def test_each_unit_has_its_constructor():
    for make in (epochs, samples, updates, tokens):
        assert make(3) == Duration(3, make.__name__)


def test_a_whole_count_is_an_int_whatever_it_came_as():
    for count in (20, 20.0, np.int64(20), np.float64(20), Fraction(20)):
        assert epochs(count) == epochs(20)
        assert type(epochs(count).count) is int
    assert type(epochs(np.float64(0.1)).count) is float
    assert samples(np.int64(2**53 + 1)).count == 2**53 + 1
    assert samples(10**400).count == 10**400


def test_a_float_counts_as_the_decimal_that_it_prints_as():
    assert epochs(0.1).exact == Fraction(1, 10)
    assert epochs(np.float64(0.7)).exact == Fraction(7, 10)
    assert epochs(1e-7).exact == Fraction(1, 10**7)
    assert samples(7).exact == 7


def test_durations_read_like_text():
    assert str(epochs(1)) == "1 epoch"
    assert str(epochs(0.5)) == "0.5 epochs"
    assert str(samples(50_000)) == "50,000 samples"


@pytest.mark.parametrize("make", [samples, updates])
def test_only_epochs_and_tokens_may_be_fractional(make):
    assert tokens(2.5).count == epochs(2.5).count == 2.5
    with pytest.raises(ValueError, match=r"`count` of \w+ must be a whole number, got 2.5; use `epochs` for fractions"):
        make(2.5)


@pytest.mark.parametrize("count", [float("nan"), float("inf")])
def test_a_count_is_finite(count):
    with pytest.raises(ValueError, match="`count` must be finite, got"):
        epochs(count)


def test_a_count_is_a_number_from_0_on():
    assert epochs(0).count == 0
    with pytest.raises(ValueError, match="`count` must be at least 0, got -1"):
        epochs(-1)
    for count in ("20", True, None):
        with pytest.raises(TypeError, match="`count` must be a number, got"):
            epochs(count)


def test_an_unknown_unit_names_those_that_there_are():
    message = r"`unit` must be one of epochs, samples, updates, tokens, got 'steps'; write for example `epochs\(20\)`"
    with pytest.raises(ValueError, match=message):
        Duration(3, "steps")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("768", 768),
        ("250B", 250 * 10**9),
        ("1.5k", 1500),
        (" 2 M ", 2 * 10**6),
        ("3t", 3 * 10**12),
        ("1e3", 1000),
        ("5e-1", Fraction(1, 2)),
    ],
)
def test_count(text, number):
    assert units.count(text) == number


@pytest.mark.parametrize("text", ["", "B", "-1", "1.2.3", ".", "5 samples", "5X", "nan", "1e9999999999"])
def test_count_refuses_what_is_no_number(text):
    with pytest.raises(ValueError, match="`size` must be a number such as 768 or 250B, got"):
        units.count(text, name="size")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20", epochs(20)),
        ("20 epochs", epochs(20)),
        ("1 epoch", epochs(1)),
        ("0.5epochs", epochs(0.5)),
        ("500 updates", updates(500)),
        ("250B tokens", tokens(250 * 10**9)),
        ("5 tokens", tokens(5)),
        ("5 t tokens", tokens(5 * 10**12)),
        ("5k samples", samples(5000)),
        ("5ksamples", None),
        ("5m", epochs(5_000_000)),
        ("1e-3 epochs", epochs(0.001)),
        (f"{2**53 + 1} tokens", tokens(2**53 + 1)),  # no float holds it
    ],
)
def test_duration(text, expected):
    if expected is None:
        with pytest.raises(ValueError, match="`every` must be in epochs, samples, updates, tokens, got 'ksamples' in"):
            units.duration(text, name="every")
    else:
        assert units.duration(text) == expected


def test_a_bare_number_has_the_unit_that_is_asked_for():
    assert units.duration("20", unit="updates") == updates(20)
    assert units.duration("20 epochs", unit="updates") == epochs(20)


@pytest.mark.parametrize("text", ["", "epochs", "-3 epochs", "3 Epochs", "3 epochs and more"])
def test_duration_refuses_what_it_cannot_read(text):
    with pytest.raises(ValueError, match="`duration` must be a number and a unit, such as '20 epochs'"):
        units.duration(text)


@pytest.mark.parametrize(("text", "message"), [("3 steps", "got 'steps' in"), ("0.5 updates", "whole number")])
def test_duration_refuses_units_and_fractions(text, message):
    with pytest.raises(ValueError, match=message):
        units.duration(text)


@settings(deadline=None)
@given(st.integers(0, 10**15) | st.floats(0, 1e9), st.sampled_from(["epochs", "tokens"]))
def test_text_and_back(number, unit):
    duration = Duration(number, unit)
    assert units.duration(f"{duration.count!r} {unit}") == duration
