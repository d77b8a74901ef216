"""The house of docs/design.md, walked: imports run downward only, torch stays on its side, names have their papers."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "adabatch"

# What each room may import of the package. A room missing here fails the test: say first where it belongs.
BASE = {"types", "units", "_checks", "_files", "_distributed"}
DRIVERS = {"scheduler", "accumulate", "lr_clock"}
BOXES_WITHOUT_TORCH = {"schedules", "policies", "couplings"}
BOXES_WITH_TORCH = {"noise", "data", "memory", "optim", "norm", "models"}
BOXES = BOXES_WITHOUT_TORCH | BOXES_WITH_TORCH
ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "_checks": set(),
    "_files": set(),
    "units": {"_checks"},
    "_distributed": {"_checks", "types"},
    **dict.fromkeys(BOXES_WITHOUT_TORCH, BASE - {"_distributed"}),
    **dict.fromkeys(BOXES_WITH_TORCH, BASE),
    "lr_clock": BASE | BOXES,
    "accumulate": BASE | BOXES | {"lr_clock"},
    "scheduler": BASE | BOXES | {"accumulate", "lr_clock"},
    "tasks": BASE | BOXES | DRIVERS,
    "training": BASE | BOXES | DRIVERS | {"tasks"},
    "planner": BASE | BOXES | DRIVERS | {"tasks", "training"},
    "study": BASE | BOXES | DRIVERS | {"tasks", "training", "planner"},
    "report": BASE,
    "integrations": BASE | {"scheduler", "accumulate"},
    "__main__": {"cli"},
    "cli": BASE | BOXES | DRIVERS | {"tasks", "training", "planner", "study", "report", "integrations"},
    "recipes": BASE | BOXES | DRIVERS | {"tasks", "training", "planner", "study", "report", "cli"},
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if room_of(path) != "__init__"]


def is_typing_only(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports anywhere, but for types alone."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and is_typing_only(node)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path) -> None:
    room = room_of(path)
    assert room in ALLOWED, f"{room} has no place in the house: add it to docs/design.md and here"
    for name in imports_of(path):
        if top(name) == "adabatch" and name.count("."):
            other = name.split(".")[1]
            if other in ("__version__", room):
                continue
            assert other in ALLOWED[room], f"{path.name} imports {name}: {room} may import {sorted(ALLOWED[room])}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_stays_on_its_side(path: Path) -> None:
    room = room_of(path)
    names = imports_of(path)
    if room in BOXES_WITHOUT_TORCH | {"types", "units", "_checks", "_files", "report"}:
        assert not any(top(name) == "torch" for name in names)
    if room != "_distributed":
        outside = [name for name in names if name.startswith("torch.distributed")]
        assert not outside, f"only _distributed imports torch.distributed, found {outside}"


def test_the_allowed_arrows_have_no_circle() -> None:
    seen: dict[str, int] = {}

    def visit(room: str) -> None:
        assert seen.get(room) != 1, f"circle through {room}"
        if seen.get(room) == 2:
            return
        seen[room] = 1
        for other in ALLOWED[room]:
            visit(other)
        seen[room] = 2

    for room in ALLOWED:
        visit(room)


def test_importing_the_face_loads_no_torch() -> None:
    code = (
        "import sys, adabatch as ab; ab.epochs(2); ab.schedules.constant(); ab.couplings.get('sqrt')\n"
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


def test_files_are_short() -> None:
    long = {str(p.relative_to(ROOT)): n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 600}
    assert not long


@pytest.mark.parametrize("box", ["schedules", "couplings", "norm"])
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
