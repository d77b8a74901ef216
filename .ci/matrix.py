"""The fast tests on each Python with each torch that can be had here.

`python .ci/matrix.py [--python 3.12] [--torch 2.11] [-- arguments of pytest]`

Pythons are those on the path and under pyenv. Each pair gets an environment in `build/matrix`, from `constraints.txt`
but for torch. What cannot be had here (no such Python, no such wheel of torch) is named as such, and is no failure. On
a Python other than the machine's own, pip may download torch with CUDA: some gigabytes a pair. The table also goes to
`build/matrix/matrix.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS, TORCHES = ("3.11", "3.12", "3.13", "3.14"), ("2.11", "2.12", "2.13")
PASSED, FAILED, ABSENT = "passed", "FAILED", "not to be had here"
TESTS = ["tests", "-m", "not slow and not gpu", "-q", "-n", "2", "-p", "no:cacheprovider"]


def interpreter(version: str) -> str | None:
    """The path of a Python; None if there is none here."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python{version}")))]
    return next((path for path in found if path and _is(path, version)), None)


def _is(path: str, version: str) -> bool:
    """Whether it runs, and is that version; pyenv's shims may do neither."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() == version


def attempt(python: str, torch: str, tests: list[str]) -> tuple[str, str]:
    """One pair: how it went, and a line about it."""
    found = interpreter(python)
    if found is None:
        return ABSENT, f"no Python {python}"
    home = ROOT / "build" / "matrix" / f"python{python}-torch{torch}"
    shutil.rmtree(home, ignore_errors=True)
    pins = home / "constraints.txt"
    done = subprocess.run([found, "-m", "venv", str(home)], capture_output=True, text=True, check=False)
    if done.returncode:
        return ABSENT, f"Python {python} makes no environment: {_last(done.stderr or done.stdout)}"
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins.write_text("\n".join(line for line in lines if not line.startswith("torch==")) + "\n")
    pip = [str(home / "bin/python"), "-m", "pip", "--quiet", "install", "--constraint", str(pins)]
    ours = ["--no-build-isolation", "--editable", ".[dev]"]
    for more in (["--upgrade", "pip", "setuptools"], [f"torch=={torch}.*"], ours):
        done = subprocess.run([*pip, *more], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:  # no such torch is nobody's fault; that the package cannot be installed is ours
            return (FAILED if more is ours else ABSENT), f"pip install {more[-1]}: {_last(done.stderr)}"
    done = subprocess.run([str(home / "bin/pytest"), *tests], cwd=ROOT, capture_output=True, text=True, check=False)
    (home / "tests.txt").write_text(done.stdout + done.stderr)
    return (PASSED if done.returncode == 0 else FAILED), _last(done.stdout).strip("= ")


def _last(output: str) -> str:
    """The last line of what a command printed."""
    return (output.strip().splitlines() or ["no output"])[-1]


def main(given: list[str]) -> int:
    """Tries all pairs; returns the exit code: 1 if tests failed, or nothing could be tried."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", action="append", help=f"default: {', '.join(PYTHONS)}")
    parser.add_argument("--torch", action="append", help=f"default: {', '.join(TORCHES)}")
    parser.add_argument("tests", nargs="*", default=TESTS, help="arguments of pytest, after --")
    options = parser.parse_args(given)
    rows = []
    for python in options.python or PYTHONS:
        for torch in options.torch or TORCHES:
            began = time.monotonic()
            state, line = attempt(python, torch, options.tests)
            rows.append({"python": python, "torch": torch, "state": state, "line": line})
            print(f"Python {python}, torch {torch}: {state} ({line}; {time.monotonic() - began:,.0f} s)", flush=True)
    folder = ROOT / "build" / "matrix"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "matrix.json").write_text(json.dumps(rows, indent=2) + "\n")
    count = {state: sum(row["state"] == state for row in rows) for state in (PASSED, FAILED, ABSENT)}
    print(f"{count[PASSED]} passed, {count[FAILED]} failed, {count[ABSENT]} skipped")
    return 1 if count[FAILED] or not count[PASSED] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
