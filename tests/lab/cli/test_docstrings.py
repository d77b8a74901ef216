"""Docstrings read from the source are Python's own, and are there even if Python strips them."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adabatch.lab import cli, models, recipes
from adabatch.lab.cli import _docstrings
from adabatch.lab.tasks import get, names

HELPS = (
    "import sys; from adabatch.lab import cli\n"
    "for name in ['', *cli.COMMANDS]:\n"
    "    try: cli.main([*name.split(), '--help'])\n"
    "    except SystemExit as done: assert done.code == 0"
)


def python(*arguments, optimize, **environment):
    """Standard output of Python; 2 strips docstrings and asserts."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONOPTIMIZE": optimize, "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("package", ["schedules", "couplings", "lab.models"])
def test_first_lines_are_those_of_what_the_package_offers(package):
    offered = importlib.import_module(f"adabatch.{package}")
    things = {name: getattr(offered, name) for name in offered.__all__ if name.islower()}
    public = f"{offered.__name__}."
    of_files = {
        name: thing
        for name, thing in things.items()
        if thing.__module__.startswith(public) and not thing.__module__.startswith(f"{public}_")
    }
    assert _docstrings.first_lines(f"adabatch.{package}") == {
        name: inspect.getdoc(thing).partition("\n")[0] for name, thing in of_files.items()
    }
    if package == "lab.models":
        assert set(of_files) == set(models.names())


def test_docstrings_of_modules_and_of_what_is_not_there():
    assert _docstrings.read("adabatch.lab.cli.list") == inspect.getdoc(importlib.import_module("adabatch.lab.cli.list"))
    assert _docstrings.read("adabatch") == inspect.getdoc(importlib.import_module("adabatch"))
    assert _docstrings.read("adabatch.lab.cli", "main") == inspect.getdoc(cli.main)
    assert _docstrings.read("adabatch.lab.cli", "nothing") == ""
    assert _docstrings.read("adabatch.compiled_only", "main") == ""


def test_help_and_list_are_the_same_without_docstrings():
    assert "Examples:" in python("-c", HELPS, optimize="")
    assert python("-c", HELPS, optimize="2") == python("-c", HELPS, optimize="")
    assert python("-m", "adabatch", "list", optimize="2") == python("-m", "adabatch", "list", optimize="")


def test_list_loads_neither_torch_nor_numpy():
    code = (
        "import sys; from adabatch.lab import cli\n"
        "try: cli.main(['list', *sys.argv[1:]])\n"
        "except SystemExit as done: print(done.code, [m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    for more in ([], ["--json"]):
        assert python("-c", code, *more, optimize="").splitlines()[-1] == "0 []"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_runs_without_docstrings(tmp_path):
    """Commands that train give the same numbers as with docstrings."""
    more, found = {"PYTHONPYCACHEPREFIX": str(tmp_path / "cache")}, {}
    quick = ["digits", "--model", "mlp", "--epochs", "1", "--device", "cpu", "--json", "--out"]
    growing = ["--seeds", "1", "--growth", "2", "--every", "0.5"]
    probe = ["digits", "--batch-size", "64", "--max-batch-size", "128", "--repeats", "1", "--seconds", "0.01", "--out"]
    for optimize in ("", "2"):
        out = tmp_path / f"python{optimize}"
        run = json.loads(adabatch("train", *quick, out / "run", optimize=optimize, **more))
        compare = json.loads(adabatch("compare", *quick, out / "compare", *growing, optimize=optimize, **more))
        losses = [(line["train_loss"], line["test_loss"]) for line in run["history"]]
        found[optimize] = losses, [arm["test_accuracy"] for arm in compare["arms"]]
    assert found[""] == found["2"]
    adabatch("report", out / "run", optimize="2", **more)
    adabatch("plan", "--preset", "adabatch", "--out", out / "plan", optimize="2", **more)
    adabatch("probe", *probe, out / "probe", optimize="2", **more)


def adabatch(*arguments, optimize, **environment):
    more = environment if optimize else {}  # the usual cache serves without
    return python("-m", "adabatch", *arguments, optimize=optimize, **more)


@pytest.mark.slow
def test_the_help_of_recipes_is_the_same_without_docstrings():
    for file in Path(recipes.__file__).parent.glob("[a-z]*.py"):
        command = ["-m", f"adabatch.lab.recipes.{file.stem}", "--help"]
        text = python(*command, optimize="")
        assert f"python -m adabatch.lab.recipes.{file.stem} --data DATA --out" in text
        assert python(*command, optimize="2") == text


def test_tasks_are_listed_by_their_own_words(capsys):
    with pytest.raises(SystemExit):
        cli.main(["list", "--json"])
    assert json.loads(capsys.readouterr().out)["tasks"] == {name: get(name).summary for name in names()}
