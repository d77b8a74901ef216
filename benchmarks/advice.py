"""How good the forecasts of `adabatch advise` are, on tasks, networks and seeds that its rules were not made on.

Each case is one `adabatch advise --budget 3min --check` by the product's own command: advice, then whole trainings with
other seeds. Counted are: how often the intervals of 80 and 95 % hold the outcome, with Clopper-Pearson intervals; the
regret of what was advised against the best constant batch size; how often growth was advised where it was slower. The
digits are left out, since the rules were tried on them. All cases take about two hours of one core. After each the
result is written; the same command goes on with the cases that it lacks, also on another machine.

    python benchmarks/advice.py --data ../data --cases 1
    python benchmarks/advice.py --data ../data --runs runs/advice --out benchmarks/results/advice.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from paired import begin, write
from scipy import stats

from adabatch.lab.advice import Advice
from adabatch.lab.report.advising.words import regret
from adabatch.lab.scaling import Estimate


class Case(NamedTuple):
    """What is advised on; `seed` is the first."""

    task: str
    model: str
    batch_size: int
    seed: int


# Task, network and base batch size. A core that is full at four times the base needs no advice.
TRAINED = (
    ("mnist", "mlp", 32),
    ("fashion_mnist", "mlp", 32),
    ("cifar10", "small_cnn", 8),
    ("mnist", "small_cnn", 8),
    ("fashion_mnist", "small_cnn", 8),
)
SEEDS = (400, 500, 600, 700)  # 0 to 399 were seen while the rules were made
# Of each task: few samples, so that a whole training is short.
SIZES = ("--train-samples", "5000", "--test-samples", "1000", "--epochs", "6")


def cases() -> list[Case]:
    """All cases, so that every part of the list holds all tasks."""
    return [Case(*trained, seed) for seed, trained in product(SEEDS, TRAINED)]


def advised(case: Case, folder: Path, options: argparse.Namespace) -> Advice:
    """The advice on a case with its outcome; one that is finished in the folder is read."""
    given = ["advise", case.task, "--model", case.model, "--batch-size", str(case.batch_size), *SIZES]
    given += ["--seed", str(case.seed), "--data", str(options.data / case.task), "--budget", options.budget, "--check"]
    given += ["--threads", "1", "--out", str(folder), "--json"]
    done = subprocess.run([sys.executable, "-m", "adabatch", *given], stdout=subprocess.PIPE, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    if done.returncode:
        raise SystemExit(f"{case}: {found}")
    return Advice.of_json(found)


def row(case: Case, found: Advice) -> dict[str, Any]:
    """A case in figures."""
    choice, outcome = found.choice, found.outcome
    told: dict[str, Any] = case._asdict()
    told |= {"verdict": found.verdict, "gain": found.gain, "epochs": found.epochs, "seconds": found.seconds}
    if choice is None or outcome is None:
        return told
    told |= {"schedule": choice.name, "seeds": len(found.seeds)}
    told |= {"ratio": choice.ratio.to_json(), "forecast": choice.forecast.to_json()}
    told |= {"outcome": outcome.to_json(), "regret": regret(found)}
    against = outcome.against_best
    slower = against == Estimate() or (against.high is not None and against.high < 1)  # or it diverged
    return told | {"harmed": found.verdict == "grow" and slower}


def share(answers: list[bool]) -> dict[str, Any] | None:
    """A share with its Clopper-Pearson interval of 95 %."""
    if not answers:
        return None
    found = stats.binomtest(sum(answers), len(answers)).proportion_ci(method="exact")
    return {"held": sum(answers), "of": len(answers), "low": float(found.low), "high": float(found.high)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What all cases say together."""
    known = [each for each in rows if "outcome" in each]
    regrets = [each["regret"] for each in known if each["regret"] is not None]
    grown = [each for each in known if each["verdict"] == "grow"]
    return {
        "within_80": share([each["outcome"]["within_80"] for each in known]),
        "within_95": share([each["outcome"]["within_95"] for each in known]),
        "verdicts": {
            name: sum(each["verdict"] == name for each in rows) for name in {each["verdict"] for each in rows}
        },
        "regret": {"median": statistics.median(regrets), "largest": max(regrets), "of": len(regrets)}
        if regrets
        else None,
        "harmed": share([each["harmed"] for each in grown]),
    }


def main() -> None:
    """Does all cases and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds those of the tasks")
    parser.add_argument("--cases", type=int, default=len(cases()), help="the first of them")
    parser.add_argument("--budget", default="3min", help="of each advice")
    parser.add_argument("--runs", type=Path, help="the folder of the advice, where the same command goes on")
    parser.add_argument("--out", type=Path, default=Path("advice.json"))
    options = parser.parse_args()
    environment = begin(options.out)
    known = measured(options.out, options.budget)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for case in cases()[: options.cases]:
            folder = (options.runs or Path(temporary)) / f"{case.task}-{case.model}-{case.seed}"
            if case not in known:
                made = {"cpu": environment["cpu"], "revision": environment["git"]["revision"]}
                known[case] = row(case, advised(case, folder, options)) | made
                told = {name: known[case].get(name) for name in ("verdict", "forecast", "regret")}
                print(f"{len(rows) + 1} of {options.cases}: {case}: {told}", file=sys.stderr, flush=True)
            rows.append(known[case])
            write(options.out, "advice", environment, {"budget": options.budget, **summary(rows), "cases": rows})


def measured(out: Path, budget: str) -> dict[Case, dict[str, Any]]:
    """The cases in a result file.

    Raises:
        SystemExit: if they had another budget.
    """
    if not out.exists():
        return {}
    found = json.loads(out.read_text())
    if found["budget"] != budget:
        raise SystemExit(
            f"{out} has cases with a budget of {found['budget']}, got {budget}; take another file by --out"
        )
    return {Case(**{name: each[name] for name in Case._fields}): each for each in found["cases"]}


if __name__ == "__main__":
    main()
