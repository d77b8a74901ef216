"""Paired timing: A B, B A, ... in one process, told as ratios with intervals, written with versions and hardware.

Luck lasts: where processes come to run, or where memory comes to lie, holds as long as what was made. So what is timed
is made anew for each round, a round gives one ratio, the median of its pairs, and the interval is that of the rounds.
All seconds are kept in the result.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import adabatch
from adabatch.lab.study.statistics import paired_ratio
from adabatch.memory import tune_allocator

ROOT = Path(__file__).parents[1]
PAIRS_OF_A_ROUND = 5
Run = Callable[[], object]


def seconds(call: Run) -> float:
    """Wall time of one call, with the garbage collector held back as `timeit` does."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    finally:
        gc.enable()


def compare(
    ours: Callable[[], Run],
    theirs: Callable[[], Run],
    *,
    rounds: int,
    pairs: int = PAIRS_OF_A_ROUND,
    warm_up: int = 1,
    timed: Callable[[Any], float] = seconds,
) -> dict[str, Any]:
    """Times both in alternating order, each made anew, in turn first, for every round.

    Args:
        ours: makes what is timed.
        theirs: makes what it is measured against.
        rounds: how often both are made.
        pairs: timed in each round.
        warm_up: runs of each that are not counted, in each round.
        timed: the seconds of what was made.

    Returns:
        What `told` makes of the seconds.
    """
    mine: list[list[float]] = []
    other: list[list[float]] = []
    for turn in range(rounds):
        order = (0, 1) if turn % 2 else (1, 0)
        times = _round((ours, theirs), order, pairs=pairs, warm_up=warm_up, timed=timed)
        mine.append(times[0])
        other.append(times[1])
    return told(mine, other)


def _round(
    makers: Sequence[Callable[[], Run]],
    order: Sequence[int],
    *,
    pairs: int,
    warm_up: int,
    timed: Callable[[Any], float],
) -> tuple[list[float], list[float]]:
    """The seconds of both sides in one round; what was made goes with it."""
    times: tuple[list[float], list[float]] = ([], [])
    made: dict[int, Run] = {}
    for which in order:
        made[which] = makers[which]()
        for _ in range(warm_up):
            timed(made[which])
    for pair in range(pairs):
        for which in order[:: -1 if pair % 2 else 1]:
            times[which].append(timed(made[which]))
    return times


def speeds(ours: Callable[[], Run], theirs: Callable[[], Run], **how: Any) -> dict[str, Any]:
    """`compare`, told as samples per second of ours over theirs (above 1: ours is faster)."""
    found = compare(theirs, ours, **how)
    return {**found, "ours_seconds": found["theirs_seconds"], "theirs_seconds": found["ours_seconds"]}


def trainings(ours: Callable[[], float], theirs: Callable[[], float], *, pairs: int) -> dict[str, Any]:
    """`speeds` of whole trainings, which tell their own seconds and make everything anew: each pair is a round."""
    ours(), theirs()
    return speeds(lambda: ours, lambda: theirs, rounds=pairs, pairs=1, warm_up=0, timed=lambda train: train())


def told(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The ratio ours / theirs (below 1: ours is faster) with the interval over rounds, and all seconds, round by round.

    Args:
        ours: for each round its seconds.
        theirs: of the same pairs.
    """
    ratios = [statistics.median(a / b for a, b in zip(*pairs, strict=True)) for pairs in zip(ours, theirs, strict=True)]
    return {
        "rounds": len(ratios),
        "pairs": sum(map(len, ours)),
        "ratio": paired_ratio(ratios, [1.0] * len(ratios)).to_json(),
        "ours_seconds": [list(times) for times in ours],
        "theirs_seconds": [list(times) for times in theirs],
    }


def middle(rounds: Sequence[Sequence[float]]) -> float:
    """The median of all seconds of a side."""
    return statistics.median(value for times in rounds for value in times)


def at_most(found: dict[str, Any], bound: float) -> dict[str, Any]:
    """Adds a bound from above: it is held by the upper end of the ratio's interval, which is the end against us."""
    high = found["ratio"]["high"]
    return {**found, "bound": bound, "holds": high is not None and high <= bound}


def at_least(found: dict[str, Any], bound: float) -> dict[str, Any]:
    """Adds a bound from below: it is held by the lower end of the ratio's interval, which is the end against us."""
    low = found["ratio"]["low"]
    return {**found, "bound": bound, "holds": low is not None and low >= bound}


def begin(out: Path, *, threads: int | None = 1) -> dict[str, Any]:
    """Sets the threads, tunes the allocator, and says which code, versions and hardware the result belongs to.

    Args:
        out: the result file; among the kept results only that of a committed tree is taken.
        threads: of torch in this process; None: torch's own number.

    Raises:
        SystemExit: if `out` is among the kept results and other tracked files have changes.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    tune_allocator()
    git = revision(besides=out)
    check_clean(git, out)
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "adabatch": adabatch.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git": git,
    }


def revision(besides: Path | None = None) -> dict[str, Any] | None:
    """The revision of the code and whether tracked files differ from it, as runs record it; None without git.

    Args:
        besides: a file that may differ, such as a result that is written anew.
    """
    left_out = [f":(exclude){path}"] if besides is not None and (path := besides.resolve()).is_relative_to(ROOT) else []

    def ask(*arguments: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True).stdout

    try:
        return {
            "revision": ask("rev-parse", "HEAD").strip(),
            "changed": bool(ask("status", "--porcelain", "--untracked-files=no", "--", ".", *left_out).strip()),
        }
    except (OSError, subprocess.CalledProcessError):
        return None


def check_clean(git: dict[str, Any] | None, out: Path) -> None:
    """Raises when a result of no known code would be kept.

    Args:
        git: `revision` and `changed`; None: unknown.
        out: the file that is to be written.

    Raises:
        SystemExit: if `out` lies in benchmarks/results and the code is unknown or has changes.
    """
    kept = ROOT / "benchmarks" / "results"
    if out.resolve().parent == kept.resolve() and (git is None or git["changed"]):
        raise SystemExit(
            f"{out} must be the result of a committed tree, got {'changes' if git else 'no revision'}; commit them and "
            "run again, or write to another folder with --out"
        )


def write(path: Path, name: str, environment: dict[str, Any], results: dict[str, Any], *, printed: bool = True) -> None:
    """Writes one result file, whole or not at all, and prints it.

    Args:
        path: the file.
        name: of the benchmark.
        environment: what `begin` returned.
        results: what was found.
        printed: False: is not.

    Raises:
        SystemExit: if the file is among the kept results and the code changed meanwhile.
    """
    git = revision(besides=path)
    check_clean(git and {**git, "changed": git["changed"] or git != environment["git"]}, path)
    script = Path(sys.argv[0]).resolve()  # torchrun gives the whole path
    typed = [str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else sys.argv[0], *sys.argv[1:]]
    content = {"benchmark": name, "command": " ".join(["python", *typed]), "environment": environment, **results}
    text = short_lists(json.dumps(content, indent=2)) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, path)
    if printed:
        print(text, end="")


def short_lists(text: str) -> str:
    """JSON with each list of numbers on one line."""
    return re.sub(r"\[([-+.\deE,\s]*)\]", lambda found: f"[{' '.join(found[1].split())}]", text)
