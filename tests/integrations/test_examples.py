"""Every file in `examples/` runs and learns; one that shows a framework makes the updates of its plan."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples").glob("with_*.py"))


def test_each_framework_has_an_example():
    rooms = {path.stem for path in (ROOT / "src/adabatch/integrations").glob("[a-z]*.py")}
    assert {f"with_{name}" for name in rooms} == {path.stem for path in FILES}


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_examples_run(path, tmp_path):
    framework = path.stem.removeprefix("with_")
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"needs {framework}")
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.search(r"(\d+) updates of (\d+), accuracy ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    assert found[1] == found[2] == "330"  # 188 of 16, 94 of 32, 48 of 64 samples
    assert float(found[3]) > 0.75  # of ten classes


def test_reinforcement_learning_with_another_batch_size_at_every_update(tmp_path):
    """The example compares the LR in force with the coupling at each update itself."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "reinforcement.py")], capture_output=True, text=True, check=False,
        cwd=tmp_path, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.search(r"in batches of (\d+) to (\d+); .* stood (\d+) steps at first and (\d+) at last", done.stdout)
    assert found is not None, done.stdout
    smallest, largest, first, last = map(int, found.groups())
    assert 2 * smallest < largest
    assert 2 * first < last
