"""How many small changes to a room of the source its tests notice: `make mutants ROOM=couplings`.

cosmic-ray makes each change in a copy in `build/mutants`, so the working tree stays as it is. Of all changes a sample
is tried, drawn from a seed; annotations, which nothing executes, are left out.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shlex
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.testing import run_tests
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkResult

ROOT = Path(__file__).parents[1]
ROOMS = ("schedules", "couplings", "scheduler", "lr_clock", "data", "accumulate", "norm")


def copy_of(room: str, number: int) -> Path:
    """A fresh copy of the project, in which one process at a time makes changes."""
    copy = ROOT / "build" / "mutants" / room / str(number)
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("src", "tests", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("README.md", "CHANGELOG.md", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def changes(room: str) -> list[MutationSpec]:
    """All changes to a room, in a fixed order."""
    modules = sorted((ROOT / "src" / "adabatch" / room).glob("*.py"))
    with use_db(":memory:", WorkDB.Mode.create) as found:
        init([module.relative_to(ROOT) for module in modules], found, {})
        specs = [spec for item in found.work_items for spec in item.mutations]
    quiet = {module.relative_to(ROOT): annotated(module) for module in modules}
    specs = [s for s in specs if not any(a <= s.start_pos and s.end_pos <= b for a, b in quiet[s.module_path])]
    return sorted(specs, key=lambda spec: (str(spec.module_path), spec.operator_name, spec.occurrence))


def annotated(module: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where the annotations of a module begin and end, as lines and columns."""
    nodes = list(ast.walk(ast.parse(module.read_text())))
    found = [getattr(node, name, None) for node in nodes for name in ("annotation", "returns")]
    return [((a.lineno, a.col_offset), (a.end_lineno, a.end_col_offset)) for a in found if isinstance(a, ast.expr)]


def command_of(room: str) -> str:
    """What runs the tests of a room, in a copy."""
    tests = [ROOT / "tests" / room, *sorted((ROOT / "tests").glob(f"test_{room}*.py"))]
    listed = [str(path.relative_to(ROOT)) for path in tests if path.name != room or any(path.glob("test_*"))]
    return shlex.join([sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *listed]) + (
        " -m 'not slow and not gpu'"
    )


def tried(copy: Path, specs: list[MutationSpec], command: str, timeout: float) -> list[WorkResult]:
    """What became of each change, in one copy; processes that a test starts see it too."""
    os.chdir(copy)
    os.environ |= {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
    return [mutate_and_test([spec], command, timeout) for spec in specs]


def score(room: str, *, sample: int, seed: int, processes: int) -> float:
    """Tries a sample of a room's changes, prints those that no test notices, and returns the share that was noticed."""
    command, every = command_of(room), changes(room)
    chosen = random.Random(seed).sample(every, min(sample, len(every)))
    copies = [copy_of(room, number) for number in range(processes)]
    with ProcessPoolExecutor(processes) as pool:
        began = time.monotonic()
        outcome, printed = pool.submit(unchanged, copies[0], command).result()
        if outcome is not TestOutcome.SURVIVED:
            raise SystemExit(f"{room}: the tests fail without a change\n{printed[-3000:]}")
        timeout = 60 + 5 * (time.monotonic() - began)
        parts = [chosen[number::processes] for number in range(processes)]
        runs = [pool.submit(tried, copies[n], part, command, timeout) for n, part in enumerate(parts)]
        results = [result for run in runs for result in run.result()]
    left = [result for result in results if result.test_outcome is TestOutcome.SURVIVED]
    broken = [result for result in results if result.test_outcome is None or result.diff is None]
    if broken:
        raise SystemExit(f"{room}: not all changes were tried\n{broken[0].output or ''}")
    for result in left:
        print(*re.findall(r"^(?:@@|[-+]).*$", result.diff or "", re.MULTILINE), sep="\n", flush=True)
    caught = 1 - len(left) / len(results)
    print(
        f"{room}: {len(results) - len(left)} of {len(results)} changes noticed ({caught:.0%}), of {len(every)} in all"
    )
    return caught


def unchanged(copy: Path, command: str) -> Any:
    """What the tests say of a copy without a change."""
    tried(copy, [], command, 0)
    return run_tests(command, 600)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rooms", nargs="*", default=ROOMS, metavar="room", help=f"of {', '.join(ROOMS)}")
    parser.add_argument("--sample", type=int, default=60, help="changes to each room, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    for room in options.rooms:
        if not (ROOT / "src" / "adabatch" / room).is_dir():
            raise SystemExit(f"`room` must be a folder of src/adabatch, got {room!r}; one of {', '.join(ROOMS)}")
        score(room, sample=options.sample, seed=options.seed, processes=options.processes)


if __name__ == "__main__":
    main()
