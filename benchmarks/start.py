"""How long it takes to begin: `import adabatch`, which loads neither torch nor numpy, and `adabatch --help`.

    python benchmarks/start.py --out benchmarks/results/start.json

Each round starts a new Python that times the import alone, and `adabatch --help` as a whole process; in every second
round the other way round. Seconds on the clock are those that a user waits; seconds on the processor stand beside them,
since those on the clock mean little while others run: `chrt -f 10` before the command lets nobody between. Files have
been read before, by two rounds that do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from paired import begin, write

from adabatch.lab.study.statistics import paired_ratio

IMPORT: Final = """
import json, sys, time
clock, processor = time.perf_counter(), time.process_time()
import adabatch
spent = time.perf_counter() - clock, time.process_time() - processor
print(json.dumps([spent, sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "numpy"})]))
"""
HELP: Final = (str(Path(sys.executable).with_name("adabatch")), "--help")
BOUNDS: Final = {"import": 0.05, "help": 0.5}
WARM_UP: Final = 2
Clocks = tuple[float, float]


def imported() -> tuple[Clocks, list[str]]:
    """Seconds of the import on the clock and on the processor, and which of torch and numpy it loaded."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    (clock, processor), loaded = json.loads(done.stdout)
    return (clock, processor), loaded


def helped() -> Clocks:
    """Seconds of the whole process that prints the help."""
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    start = time.perf_counter()
    process = os.posix_spawn(HELP[0], list(HELP), os.environ, file_actions=quiet)
    _, status, usage = os.wait4(process, 0)
    spent = time.perf_counter() - start
    if status:
        raise RuntimeError(f"{' '.join(HELP)} ended with status {status}")
    return spent, usage.ru_utime + usage.ru_stime


def measure(rounds: int) -> dict[str, Any]:
    """Both, on both clocks: median, interval and all values; and what the import loaded."""
    imports: list[Clocks] = []
    helps: list[Clocks] = []
    loaded: set[str] = set()
    for turn in range(rounds + WARM_UP):
        first = helped() if turn % 2 else None
        found, names = imported()
        second = first or helped()
        loaded |= {*names}
        if turn >= WARM_UP:
            imports.append(found)
            helps.append(second)
    return {
        "loaded_by_import": sorted(loaded),
        "import": told(imports, BOUNDS["import"]),
        "help": told(helps, BOUNDS["help"]),
    }


def told(values: Sequence[Clocks], bound: float) -> dict[str, Any]:
    """One thing on both clocks; the bound is for the one that a user waits by, at the interval's upper end."""
    found: dict[str, Any] = {}
    for name, column in zip(("seconds", "processor_seconds"), zip(*values, strict=True), strict=True):
        middle = paired_ratio(list(column), [1.0] * len(column))  # the median's interval, in seconds
        found[name] = {**middle.to_json(), "values": list(column)}
    high = found["seconds"]["high"]
    return {**found, "bound_seconds": bound, "holds": high is not None and high <= bound}


def main() -> None:
    """Measures both and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/start.json"))
    options = parser.parse_args()
    environment = begin(options.out)
    alone = os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)
    found = measure(options.rounds)
    results = {"rounds": options.rounds, **found, "real_time": alone, "load_average": os.getloadavg()}
    write(options.out, "start", environment, results)


if __name__ == "__main__":
    main()
