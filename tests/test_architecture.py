"""The house of docs/design.md: contracts of imports, a small face, short files, and a test for each module."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "adabatch"


def test_the_contracts_of_imports_hold() -> None:
    """Layers, circles and torch's side are contracts in pyproject.toml; `lint-imports` says which import breaks one."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_face_loads_no_torch() -> None:
    code = (
        "import sys, adabatch as ab; ab.epochs(2); ab.schedules.constant(); ab.couplings.get('sqrt')\n"
        "ab.policies.noise_scale(maximum=8)\n"
        "ab.scale_up(lr=0.1, momentum=0.9, batch_size=128, to_lr=0.5); dir(ab); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_face_is_small_and_complete() -> None:
    import adabatch

    assert len(adabatch.__all__) <= 25
    for name in adabatch.__all__:
        assert getattr(adabatch, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'; it offers"):
        adabatch.nothing  # noqa: B018


NO_TEST = {"__init__", "__main__", "_version"}


def test_tests_mirror_the_tree() -> None:
    """`src/adabatch/data/_order.py` is tested in `tests/data/test_order.py`."""
    modules = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.stem not in NO_TEST]
    wanted = {module: module.parent / f"test_{module.stem.strip('_')}.py" for module in modules}
    missing = {str(module): str(test) for module, test in wanted.items() if not (ROOT / "tests" / test).exists()}
    assert not missing, f"{len(missing)} modules lack their test file: {missing}"


def test_files_are_short() -> None:
    long = {str(p.relative_to(ROOT)): n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 600}
    assert not long


@pytest.mark.parametrize("box", ["schedules", "couplings", "noise", "norm", "policies"])
def test_each_method_has_a_test_and_a_row_in_the_docs(box: str) -> None:

    rows = (ROOT / "docs" / "methods.md").read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests" / box).rglob("*.py"))
    package = importlib.import_module(f"adabatch.{box}")
    methods = [name for name in package.__all__ if name.islower() and name != "get"]
    assert methods
    for name in methods:
        assert f"`{name}" in rows, f"docs/methods.md has no row for {box}.{name}"
        assert name in tests, f"tests/{box} never names {name}"
        assert getattr(package, name).__doc__
