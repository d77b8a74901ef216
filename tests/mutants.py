"""How many small changes to a room of the source its tests notice: `make mutants ROOM=couplings`.

mutmut works on a copy in `build/mutants`, so the working tree stays as it is. Of all mutants a sample is tried, drawn
from a seed. Texts of messages are mutated too, so a room of which all behaviour is tested scores some 90 %.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("schedules", "couplings", "scheduler", "lr_clock", "data", "accumulate", "norm")
SETTINGS = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/adabatch/{room}/*"]
pytest_add_cli_args_test_selection = [{tests}]
pytest_add_cli_args = ["-m", "not slow and not gpu"]
also_copy = ["docs", "benchmarks", "README.md", "CHANGELOG.md"]
process_isolation = "forkserver"
timeout_multiplier = 3.0
debug = true
"""


def copy_of(room: str) -> Path:
    """A fresh copy of the project, with mutmut's settings for the room."""
    copy = ROOT / "build" / "mutants" / room
    shutil.rmtree(copy, ignore_errors=True)
    (copy / "mutants" / "src").mkdir(parents=True)  # where python, started before mutmut fills it, looks for modules
    for name in ("src", "tests", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("README.md", "CHANGELOG.md", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    tests = [ROOT / "tests" / room, *sorted((ROOT / "tests").glob(f"test_{room}*.py"))]
    listed = ", ".join(f'"{path.relative_to(ROOT)}"' for path in tests if path.name != room or any(path.glob("test_*")))
    with (copy / "pyproject.toml").open("a") as file:
        file.write(SETTINGS.format(room=room, tests=listed))
    return copy


def mutmut(copy: Path, *arguments: str) -> str:
    """What mutmut prints; processes that a test starts see the mutant too."""
    environment = {**os.environ, "PYTHONPATH": str(copy / "mutants" / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def statuses(copy: Path) -> dict[str, str]:
    """All mutants of the room, and what became of each."""
    found = re.findall(r"^ +(\S+__mutmut_\d+): (.+)$", mutmut(copy, "results", "--all", "true"), re.MULTILINE)
    return dict(found)


def score(room: str, *, sample: int, seed: int, processes: int) -> float:
    """Tries a sample of the room's mutants, prints those that survive, and returns the share that was caught."""
    copy = copy_of(room)
    printed = mutmut(copy, "run", "none, so that they are made and the tests pass once")
    names = sorted(statuses(copy))
    if not names or "nothing matches" not in printed:
        raise SystemExit(f"{room}: no mutants were made\n{printed[-3000:]}")
    chosen = sorted(random.Random(seed).sample(names, min(sample, len(names))))
    printed = mutmut(copy, "run", "--max-children", str(processes), *chosen)
    found = {name: status for name, status in statuses(copy).items() if name in chosen}
    if "not checked" in found.values():
        raise SystemExit(f"{room}: not all mutants were tried\n{printed[-3000:]}")
    left = [name for name in chosen if found[name] in ("survived", "no tests")]
    for name in left:
        shown = mutmut(copy, "show", name)
        print(f"{name}: {found[name]}", *re.findall(r"^[-+](?![-+]).*$", shown, re.MULTILINE), sep="\n", flush=True)
    caught = 1 - len(left) / len(chosen)
    print(f"{room}: {len(chosen) - len(left)} of {len(chosen)} mutants caught ({caught:.0%}), of {len(names)} in all")
    return caught


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rooms", nargs="*", default=ROOMS, metavar="room", help=f"of {', '.join(ROOMS)}")
    parser.add_argument("--sample", type=int, default=60, help="mutants of each room, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    for room in options.rooms:
        if not (ROOT / "src" / "adabatch" / room).is_dir():
            raise SystemExit(f"`room` must be a folder of src/adabatch, got {room!r}; one of {', '.join(ROOMS)}")
        score(room, sample=options.sample, seed=options.seed, processes=options.processes)


if __name__ == "__main__":
    main()
