import re

import numpy as np
import pytest

from adabatch import _checks


@pytest.mark.parametrize("value", [3, np.int32(3), np.uint64(3)])
def test_whole_gives_an_int(value):
    assert _checks.whole("size", value) == 3
    assert type(_checks.whole("size", value)) is int


@pytest.mark.parametrize("value", [3.0, "3", True, None, np.float64(3), np.bool_(True)])
def test_whole_refuses_what_is_no_whole_number(value):
    with pytest.raises(TypeError, match=re.escape(f"`size` must be a whole number, got {value!r}")):
        _checks.whole("size", value)


def test_whole_has_a_minimum_a_maximum_and_a_remedy():
    assert _checks.whole("size", 0, minimum=0) == 0
    with pytest.raises(ValueError, match=r"^`size` must be at least 0, got -1$"):
        _checks.whole("size", -1, minimum=0)
    assert _checks.whole("size", 1024, maximum=1024) == 1024
    with pytest.raises(ValueError, match=r"^`size` must be at most 1,024, got 1025; use less$"):
        _checks.whole("size", 1025, maximum=1024, remedy="use less")
    with pytest.raises(ValueError, match=r"^`size` must be at least 1, got 0$"):
        _checks.whole("size", 0)
    with pytest.raises(ValueError, match=r"^`size` must be at least 2, got 1; use more$"):
        _checks.whole("size", 1, minimum=2, remedy="use more")


@pytest.mark.parametrize(("value", "kind"), [(3, int), (3.5, float), (np.float32(0.5), float), (np.int8(3), int)])
def test_finite_gives_a_python_number(value, kind):
    assert _checks.finite("factor", value) == value
    assert type(_checks.finite("factor", value)) is kind


def test_finite_takes_whole_numbers_of_any_size():
    assert _checks.finite("count", 10**400, minimum=0, above=1, below=10**401) == 10**400


@pytest.mark.parametrize("value", ["1", None, True, 1j])
def test_finite_refuses_what_is_no_number(value):
    with pytest.raises(TypeError, match=re.escape(f"`factor` must be a number, got {value!r}; say one")):
        _checks.finite("factor", value, remedy="say one")


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (float("inf"), {}, "must be finite, got inf"),
        (float("nan"), {"minimum": 0}, "must be finite, got nan"),
        (-0.5, {"minimum": 0}, "must be at least 0, got -0.5"),
        (1, {"above": 1}, "must be greater than 1, got 1"),
        (1.0, {"below": 1}, "must be less than 1, got 1.0"),
    ],
)
def test_finite_has_bounds(value, bounds, message):
    with pytest.raises(ValueError, match=f"^`factor` {message}; use another$"):
        _checks.finite("factor", value, remedy="use another", **bounds)


def test_finite_includes_the_minimum_only():
    assert _checks.finite("factor", 0, minimum=0) == 0
    assert _checks.finite("factor", 1.001, above=1, below=1.002) == 1.001


def test_one_of_gives_the_value_or_lists_what_is_allowed():
    assert _checks.one_of("unit", "b", iter("abc")) == "b"
    with pytest.raises(ValueError, match=r"^`unit` must be one of a, b, c, got 'd'; see the docs$"):
        _checks.one_of("unit", "d", iter("abc"), remedy="see the docs")
