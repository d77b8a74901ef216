from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from adabatch.lab.shapes import Count, Number, Positive, Rates, Record, Size, Text, cut, faults, setting_in_words


@dataclass(frozen=True, slots=True)
class Inner(Record):
    low: Number | None
    high: Number | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer(Record):
    name: Text
    sizes: tuple[Size, ...]
    inner: Inner
    named: Mapping[str, Inner]
    maybe: Inner | None = None
    count: Count = 0


WHOLE = {"name": "a", "sizes": [1, 2], "inner": {"low": None, "high": 1.0}, "named": {"b": {"low": 0, "high": None}}}


def test_a_record_is_read_and_written():
    assert list(faults(WHOLE, Outer)) == []
    found = Outer.of_json(WHOLE | {"unknown": 3})
    assert found == Outer(name="a", sizes=(1, 2), inner=Inner(None, 1.0), named={"b": Inner(0, None)})
    assert found.to_json() == WHOLE | {"maybe": None, "count": 0}
    assert list(found.to_json()) == ["name", "sizes", "inner", "named", "maybe", "count"]
    assert Outer.of_json(WHOLE | {"maybe": {"low": 1, "high": 2}}).maybe == Inner(1, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": 3}, "with name 3, which must be text"),
        ({"sizes": []}, "with sizes [], which must be a list that is not empty"),
        ({"sizes": [1, 0]}, "with sizes[1] 0, which must be a whole number from 1 on"),
        ({"inner": None}, "without a record in inner"),
        ({"inner": {"low": 1}}, "without inner.high"),
        ({"inner": {"low": "x", "high": 1}}, "with inner.low 'x', which must be a finite number or null"),
        ({"named": {"b": {"low": 0}}}, "without named.b.high"),
        ({"maybe": {"low": 0}}, "without maybe.high"),
        ({"count": -1}, "with count -1, which must be a whole number from 0 on"),
    ],
)
def test_faults_are_named(changes, words):
    assert list(faults(WHOLE | changes, Outer)) == [words]


def test_dicts_are_shapes_too():
    shape = {"size": Size, "speed?": Positive | None, "points": [{"rate": Rates}]}
    assert list(faults({"size": 1, "points": [{"rate": {"16": 2.0}}]}, shape)) == []
    assert list(faults({"points": [{"rate": {"x": 2.0}}], "speed": 0}, shape)) == [
        "without size",
        "with speed 0, which must be a number above 0 or null",
        "with points[0].rate {'x': 2.0}, which must be batch sizes with their samples per second",
    ]
    assert list(faults([], shape)) == ["without a record"]


def test_settings_in_words():
    steps = '{"kind":"steps","changes":[[{"count":0,"unit":"samples"},16],[{"count":1,"unit":"epochs"},32]]}'
    words = setting_in_words("growth_file", steps)
    assert words.startswith("16, 32 from 1 epoch (")
    assert setting_in_words("growth_file", steps.replace(",", ", ")) == words
    assert setting_in_words("growth_file", steps.replace("32", "64")) != words
    assert [setting_in_words("growth_file", value) for value in (None, "{}", '{"kind":"mine"}')] == [
        None, "{}", '{"kind":"mine"}',
    ]  # fmt: skip
    assert setting_in_words("growth_file", "x" * 1000) == "x" * 57 + "..."
    assert setting_in_words("growth_file", "[" * 10**5).endswith("...")
    assert setting_in_words("lr", 0.1) == 0.1


def test_long_text_is_cut():
    assert [cut("abcdef", most) for most in (7, 6, 5)] == ["abcdef", "abcdef", "ab..."]
