"""The command, run in this process."""

from __future__ import annotations

import json

import pytest

from adabatch.lab import cli

QUICK = ["--model", "mlp", "--epochs", "2", "--device", "cpu"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def refused(capsys, *arguments: str) -> str:
    """The message of a command that must be refused, checked in both forms."""
    assert run(*arguments) == 2
    plain = capsys.readouterr()
    assert plain.out == ""
    assert plain.err.startswith("error: ")
    assert plain.err.count("\n") == 1, "one line"
    assert run(*arguments, "--json") == 2
    printed = capsys.readouterr()
    assert printed.err == ""
    error = json.loads(printed.out)["error"]
    assert f"error: {error['message']}\n" == plain.err
    if "`" in error["message"]:
        assert f"`{error['argument']}`" in error["message"]
    return str(error["message"])
