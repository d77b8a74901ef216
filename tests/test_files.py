"""Writing files whole or not at all, and reading those of which nothing is sure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def test_text_is_the_same_whatever_the_locale(tmp_path):
    code = (
        "import locale, sys; from pathlib import Path; from adabatch._files import write_text\n"
        "write_text(Path(sys.argv[1]), '90 \\xb1 1 %, \\u0394'); print(locale.getpreferredencoding(False))\n"
    )
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    file = tmp_path / "compare.md"
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True, env=plain)
    assert done.stdout.lower().startswith(("ansi", "us-ascii", "ascii"))
    assert file.read_bytes().decode("utf-8") == "90 \xb1 1 %, \u0394"


def test_the_folder_of_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ADABATCH_CACHE", str(tmp_path / "cache"))
    assert _files.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("ADABATCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _files.cache_folder() == tmp_path / "adabatch"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert _files.cache_folder() == Path.home() / ".cache" / "adabatch"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    _files.write_json(path, {"a": [1, "\u00e9"]})
    assert _files.json_of(path) == {"a": [1, "\u00e9"]}

    def broken(file):
        file.write(b"half")
        raise KeyboardInterrupt

    before = path.read_bytes()
    for alone in (True, False):
        with pytest.raises(KeyboardInterrupt):
            _files.write(path, broken, alone=alone)
    with pytest.raises(ValueError, match="not JSON compliant"):
        _files.write_json(path, float("nan"))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.json"]


def test_those_who_are_not_alone_have_a_draft_each(tmp_path):
    """And leave that of another one alone."""
    path, seen = tmp_path / "a", []
    other = _files.draft_of(path)
    other.write_text("another's")
    _files.write(path, lambda file: seen.append(Path(file.name)), alone=False)
    assert seen == [_files.draft_of(path, alone=False)] != [other]
    assert sorted(os.listdir(tmp_path)) == [other.name, "a"]


def test_content_is_on_disk_before_it_has_its_name_and_its_second_name_before_that(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "link", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1])
    _files.write(tmp_path / "a", lambda file: file.write(b"x"), also=tmp_path / "b")
    assert calls == ["fsync", "link", "replace", "replace"]
    assert (tmp_path / "a").samefile(tmp_path / "b")
