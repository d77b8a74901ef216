"""How often a study's intervals hold: on the quadratic, whose expected losses are computed without sampling.

Each repeat is one whole study by the product's own command, with seeds that no other repeat has. Its critical batch
size is compared with the same fit to updates that are computed without sampling, with the same target. The second part
does the same with branches: the samples that a larger batch costs at each fork. The counts come with Clopper-Pearson
intervals. 100 repeats take about an hour of one core; the same command goes on with those that are there.

    python benchmarks/known_answers.py --repeats 3
    python benchmarks/known_answers.py --runs runs/known --out benchmarks/results/known_answers.json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paired import begin, write
from scipy import stats

SEEDS = 3
NOMINAL = 0.95
LEAST_SHARE, MOST_RATIO = 0.86, 3.0  # of repeats that cover; of the median of high / low


def study(seed: int, folder: Path, *more: str) -> dict[str, Any]:
    """What a study with the seeds from `seed` on finds; one that is finished in the folder is read."""
    file = folder / ("branch.json" if "--branch" in more else "study.json")
    if not file.exists():
        given = ["study", "quadratic", "--seed", str(seed), "--seeds", str(SEEDS), *more, "--out", str(folder)]
        subprocess.run([sys.executable, "-m", "adabatch", *given], stdout=subprocess.DEVNULL, check=True)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def share(covered: Sequence[bool]) -> dict[str, Any]:
    """The share of intervals that hold, with its own interval."""
    found = stats.binomtest(sum(covered), len(covered)).proportion_ci(method="exact")
    return {"covered": sum(covered), "of": len(covered), "low": float(found.low), "high": float(found.high)}


def held(low: float, high: float | None, truth: float | None) -> bool:
    """Whether an interval holds a truth; None is infinite."""
    true = math.inf if truth is None else truth
    return low <= true <= (math.inf if high is None else high)


def sweeps(repeats: int, runs: Path) -> dict[str, Any]:
    """The critical batch sizes of whole studies."""
    rows = []
    for repeat in range(repeats):
        found = study(repeat * SEEDS, runs / f"sweep-{repeat}")["critical_batch"]
        rows.append({name: found[name] for name in ("estimate", "low", "high", "truth", "target")})
        print(f"study {repeat + 1} of {repeats}: {rows[-1]}", file=sys.stderr, flush=True)
    ratios = [math.inf if row["high"] is None or not row["low"] else row["high"] / row["low"] for row in rows]
    middle = statistics.median(ratios)
    covered = [held(row["low"], row["high"], row["truth"]) for row in rows]
    ratio = middle if math.isfinite(middle) else None
    good = sum(covered) >= LEAST_SHARE * repeats and middle <= MOST_RATIO
    return {"coverage": share(covered), "median_high_over_low": ratio, "holds": good, "repeats": rows}


def branches(repeats: int, runs: Path) -> dict[str, Any]:
    """The costs of larger batches by branching, at every fork, window and factor."""
    covered: dict[str, list[bool]] = {}
    studies = []
    for repeat in range(repeats):
        sizes = ("--branch", "--lr-rules", "linear", "--batch-sizes", "16,32,64,128")
        found = study(repeat * SEEDS, runs / f"branch-{repeat}", *sizes)
        here = []
        for cell in found["cells"]:
            cost = cell["cost"]
            here.append(held(cost["low"], cost["high"], cell["truth"]))
            covered.setdefault(f"at {cell['fork']:g}, window {cell['window']:g}, {cell['factor']}x", []).append(
                here[-1]
            )
        studies.append(sum(here) / len(here))
        print(f"branches {repeat + 1} of {repeats}: {sum(here)} of {len(here)} hold", file=sys.stderr, flush=True)
    everything = [value for values in covered.values() for value in values]
    return {
        "coverage": sum(everything) / len(everything),
        "intervals": len(everything),
        "share_of_each_study": studies,
        "by_branch": {name: share(values) for name, values in covered.items()},
    }


def main() -> None:
    """Does all repeats and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=100, help="of studies")
    parser.add_argument("--branches", type=int, default=20, help="repeats of branching; 0 for none")
    parser.add_argument("--runs", type=Path, help="the folder of the studies, where the same command goes on")
    parser.add_argument("--out", type=Path, default=Path("known_answers.json"))
    options = parser.parse_args()
    environment = begin(options.out)
    with tempfile.TemporaryDirectory() as temporary:
        runs = options.runs or Path(temporary)
        found = {"nominal": NOMINAL, "seeds": SEEDS, "sweeps": sweeps(options.repeats, runs)}
        if options.branches:
            found["branches"] = branches(options.branches, runs)
    write(options.out, "known_answers", environment, found)


if __name__ == "__main__":
    main()
