"""This tree against another revision of it: seconds of training loops and of the loader's epochs, paired.

Each round starts a process for each of the two, since where memory comes to lie is luck that lasts as long as a process
does, fills both heaps alike at random, and asks them in turn for an epoch. The ratio is this tree's seconds by the
other's. Bound: its median over the rounds is at most 1.01.

    git worktree add ../before REVISION
    python benchmarks/revision.py --before ../before/src
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from paired import ROOT, begin, told, write
from revision_worker import CASES

BOUND = 1.01


class Side:
    """A process that times one case with one tree."""

    def __init__(self, src: Path, case: str, seed: int) -> None:
        command = [sys.executable, str(Path(__file__).with_name("revision_worker.py")), case, str(seed)]
        environment = {**os.environ, "PYTHONPATH": str(src)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        self.answer()

    def answer(self) -> str:
        """The next line that the process prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a timed process ended early; its traceback stands above")
        return line

    def seconds(self) -> float:
        """The seconds of an epoch."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.answer())

    def close(self) -> None:
        """Ends the process."""
        self.process.communicate()


def compare(case: str, before: Path, *, rounds: int, pairs: int) -> dict[str, Any]:
    """The ratio of seconds, this tree by `before`."""
    mine: list[list[float]] = []
    other: list[list[float]] = []
    for turn in range(rounds):
        paths = [ROOT / "src", before]
        sides = {path: Side(path, case, turn) for path in (paths if turn % 2 else paths[::-1])}
        times: dict[Path, list[float]] = {path: [] for path in paths}
        for pair in range(pairs):
            for path in paths[:: -1 if pair % 2 else 1]:
                times[path].append(sides[path].seconds())
        for side in sides.values():
            side.close()
        mine.append(times[paths[0]])
        other.append(times[paths[1]])
    found = told(mine, other)
    return {**found, "bound": BOUND, "holds": found["ratio"]["median"] <= BOUND}


def main() -> None:
    """Compares every case and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, help="the other revision's src folder")
    parser.add_argument("--case", action="append", choices=CASES, help="repeatable; all if left out")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/revision.json"))
    options = parser.parse_args()
    environment = begin(options.out)
    git = ["git", "-C", str(options.before), "rev-parse", "HEAD"]
    before = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    cases = {}
    for case in options.case or CASES:
        cases[case] = compare(case, options.before.resolve(), rounds=options.rounds, pairs=options.pairs)
        print(case, cases[case]["ratio"], flush=True)
    write(options.out, "revision", environment, {"before": before, "cases": cases})


if __name__ == "__main__":
    main()
