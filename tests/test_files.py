"""Reading files of which nothing is sure."""

from __future__ import annotations

import os

import pytest

from adabatch import _files


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "values.json"
    path.write_text('{"a": [1, 2.5, null, "\u00e9"]}', encoding="utf-8")
    assert _files.json_of(path) == {"a": [1, 2.5, None, "\u00e9"]}
    (tmp_path / "link").symlink_to(path)
    assert _files.json_of(tmp_path / "link") == _files.json_of(path)


def test_what_is_no_file_is_said_and_nothing_waits(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, words in (("", "a folder"), ("pipe", "a pipe"), ("device", "a device")):
        with pytest.raises(ValueError, match=f"^{words} in place of a file$"):
            _files.json_of(tmp_path / name)


def test_links_in_a_circle_and_into_nothing_are_nothing(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    for name in ("a", "nowhere", "missing"):
        with pytest.raises(FileNotFoundError, match="No such file or directory: .*" + name):
            _files.check_file(tmp_path / name)


@pytest.mark.parametrize("levels", [51, 990, 100_000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
def test_values_nested_without_end(levels, opens, closes):
    text = opens * levels + "1" + closes * levels
    with pytest.raises(ValueError, match=r"^more than 50 levels of values in each other$"):
        _files.values_of(text)


def test_as_many_levels_as_there_may_be():
    assert _files.values_of("[" * 50 + "1" + "]" * 50)


@pytest.mark.parametrize("text", ["", "{", "nul", "[1,]"])
def test_what_is_no_json(text):
    with pytest.raises(ValueError, match=r"line 1 column"):
        _files.values_of(text)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="utf-8"):
        _files.json_of(tmp_path / "bytes")
