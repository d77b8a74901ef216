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
    assert found is None or matrix._is(found, HERE)
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


VENV = """#!/bin/sh
# A Python that makes an environment whose pip and pytest end with the codes that were asked for.
case "$*" in *"-m venv"*) ;; *) exit 9;; esac
{ensurepip}
mkdir -p "$3/bin"
printf '#!/bin/sh\ncase "$*" in *{pip}*) echo broken >&2; exit 1;; esac\n' > "$3/bin/python"
printf '#!/bin/sh\necho "= 1 passed ="\n' > "$3/bin/pytest"
chmod +x "$3/bin/python" "$3/bin/pytest"
"""


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, ("PASSED", "1 passed")),
        ({"pip": "--editable"}, ("FAILED", "pip install .[dev]: broken")),
        ({"pip": "torch==2.11"}, ("ABSENT", "pip install torch==2.11.*: broken")),
        ({"ensurepip": "echo no ensurepip; exit 1"}, ("ABSENT", "Python 3.11 makes no environment: no ensurepip")),
    ],
)
def test_what_fails_and_what_is_not_here(told, expected, tmp_path, monkeypatch):
    """A package that cannot be installed is a failure; a torch or an environment that cannot be had is none."""
    python = tmp_path / "python"
    python.write_text(VENV.format(**{"pip": "nothing-of-this", "ensurepip": "", **told}))
    python.chmod(0o755)
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\nnumpy==2.0\n")
    monkeypatch.setattr(matrix, "ROOT", tmp_path)
    monkeypatch.setattr(matrix, "interpreter", lambda _: str(python))
    state, line = matrix.attempt("3.11", "2.11", [])
    assert (state, line) == (getattr(matrix, expected[0]), expected[1])
    monkeypatch.setattr(matrix, "interpreter", lambda _: None)
    assert matrix.attempt("3.11", "2.11", []) == (matrix.ABSENT, "no Python 3.11")


def test_the_matrix_is_that_of_the_package():
    """The Pythons of the classifiers are in it, and the oldest torch that the extra allows."""
    text = (ROOT / "pyproject.toml").read_text()
    assert all(f"Python :: {version}" not in text or version in matrix.PYTHONS for version in ("3.11", "3.12", "3.13"))
    assert f'"torch>={matrix.TORCHES[0]}"' in text
