"""The matrix names what cannot be had, runs what can, and fails where tests fail or nothing ran."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
from tests.test_docs import ROOT

_spec = importlib.util.spec_from_file_location("matrix", ROOT / ".ci" / "matrix.py")
matrix = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(matrix)
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_a_python_that_is_here_and_one_that_is_not():
    assert matrix.interpreter("3.99") is None
    found = matrix.interpreter(HERE)
    assert found is None or HERE in found or found.endswith("python")
    assert matrix._is(sys.executable, HERE)
    assert not matrix._is(sys.executable, "3.99")


@pytest.mark.parametrize(
    ("states", "code", "last"),
    [
        ([matrix.PASSED, matrix.ABSENT], 0, "1 passed, 0 failed, 1 skipped"),
        ([matrix.PASSED, matrix.FAILED], 1, "1 passed, 1 failed, 0 skipped"),
        ([matrix.ABSENT, matrix.ABSENT], 1, "0 passed, 0 failed, 2 skipped"),
    ],
)
def test_the_verdict(states, code, last, tmp_path, monkeypatch, capsys):
    left = list(states)
    monkeypatch.setattr(matrix, "ROOT", tmp_path)
    monkeypatch.setattr(matrix, "attempt", lambda *_: (left.pop(0), "a line"))
    assert matrix.main(["--python", "3.11", "--torch", "2.11", "--torch", "2.13"]) == code
    assert capsys.readouterr().out.splitlines()[-1] == last
    rows = json.loads((tmp_path / "build" / "matrix" / "matrix.json").read_text())
    assert [row["state"] for row in rows] == states


def test_the_matrix_is_that_of_the_package():
    """The Pythons of the classifiers are in it, and the oldest torch that the extra allows."""
    text = (ROOT / "pyproject.toml").read_text()
    assert all(f"Python :: {version}" not in text or version in matrix.PYTHONS for version in ("3.11", "3.12", "3.13"))
    assert f'"torch>={matrix.TORCHES[0]}"' in text
