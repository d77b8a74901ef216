import json

import pytest

from adabatch.lab.study.kept import Kept

SETTINGS = {"base": {"lr": 0.1, "threads": 1, "data": "here"}, "budget_seconds": 60.0}


def kept(out, *, data="print", **changes):
    base = {**SETTINGS["base"], **changes.pop("base", {})}
    return Kept(out, settings={**SETTINGS, "base": base, **changes}, data=data)


def test_a_thing_is_measured_once(tmp_path):
    calls = []
    first = kept(tmp_path)
    assert first.of("lr", lambda: calls.append(1) or [0.5, None]) == [0.5, None]
    assert first.of("lr", lambda: calls.append(2)) == [0.5, None]
    again = kept(tmp_path, base={"data": "there"})
    assert again.of("lr", lambda: calls.append(3)) == [0.5, None]
    assert calls == [1]
    assert again.seconds("lr") == first.seconds("lr") >= 0


def test_seconds_are_those_of_names_that_begin_so(tmp_path):
    found = kept(tmp_path)
    for name in ("seed 1, a", "seed 1, b", "seed 10, a", "whole training, seed 1, a"):
        found.of(name, lambda: 0)
    file = tmp_path / "measured.json"
    values = json.loads(file.read_text())
    for each in values["measured"].values():
        each["seconds"] = 2.0
    file.write_text(json.dumps(values))
    again = kept(tmp_path)
    assert (again.seconds("seed 1,"), again.seconds("seed"), again.seconds()) == (4.0, 6.0, 0.0)


def test_what_is_forgotten_is_measured_again(tmp_path):
    found = kept(tmp_path)
    found.of("lr", lambda: 1)
    found.forget()
    assert not list(tmp_path.iterdir())
    assert found.of("lr", lambda: 2) == 2


def test_what_fails_is_not_kept(tmp_path):
    found = kept(tmp_path)
    with pytest.raises(ZeroDivisionError):
        found.of("lr", lambda: 1 / 0)
    assert found.of("lr", lambda: 3) == 3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"base": {"lr": 0.2}}, "holds some with lr 0.1 there and 0.2 here; give the former settings, or another"),
        ({"budget_seconds": 90.0}, "with budget 60.0s there and 90.0s here"),
        ({"base": {"threads": 2}}, "with threads 1 there and 2 here"),
        ({"data": "other"}, "`data` must hold what"),
    ],
)
def test_other_settings_and_data_are_refused(tmp_path, more, words):
    kept(tmp_path).of("lr", lambda: 1)
    before = (tmp_path / "measured.json").read_bytes()
    with pytest.raises(ValueError, match=words):
        kept(tmp_path, **more)
    assert (tmp_path / "measured.json").read_bytes() == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"measured": {"lr": 3}, "settings": {"base": {}}, "data": ""}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "measured.json").write_text(text)
    with pytest.raises(ValueError, match="damaged"):
        kept(tmp_path)
