"""Study folders like those of `adabatch study`, made from known updates by batch size, without training."""

import json
import math
from functools import cache
from itertools import product

import numpy as np
from tests.lab.report.page_folders import VERSIONS

from adabatch.lab.scaling import (
    Arrival,
    Cell,
    CriticalBatch,
    Estimate,
    LearningCurve,
    Panel,
    Rule,
    Study,
    Target,
    ToLoss,
)
from adabatch.lab.study import fits, measures

SIZES = (16, 32, 64, 128, 256)
SETTINGS = {
    "base": {"task": "digits", "model": "mlp", "lr": 0.006, "batch_size": 16, "data": "/home/somebody/digits"},
    "batch_sizes": list(SIZES),
    "epochs": 4,
    "target": "best",
}
BUDGET = 20_000  # samples
_REACH = {"linear": 1.0, "sqrt": 0.5, "constant": 0.05, "tuned": 1.3}


def updates(size, *, critical, seed=0, noise=0.02):
    """Updates to target by form 1: 5,600 samples for a small batch; seeds differ a little."""
    return 5600 / critical * (1 + critical / size) * math.exp(noise * math.sin(1 + 7 * seed + size))


def rule_of(name, *, critical, seeds, sizes=SIZES, noise=0.02, edge=False, budget=BUDGET, target=0.14):
    """A rule whose runs stop at the budget; what takes longer than that is censored."""
    critical = max(critical * _REACH[name], 2.0)
    arrivals, cells = {}, []
    for place, size in enumerate(sizes):
        runs, curves = [], []
        for seed in range(seeds):
            k = updates(size, critical=critical, seed=seed, noise=noise)
            late = k * size > budget
            at = budget / size if late else k
            runs.append(Arrival(at, at * size, at * 1e-3 * size**0.4, "later" if late else ""))
            steps = [max(1, round(at * share)) + n for n, share in enumerate((0.1, 0.2, 0.4, 0.7, 1.0))]
            points = [[n, n * size, n * 1e-3 * size**0.4, *_losses(n / k, target)] for n in steps]
            curves.append(LearningCurve(seed, points))
        arrivals[size] = runs
        count = sum(run.censored == "" for run in runs)
        stopped = {"arrived": count, "budget": seeds - count}
        cells.append(
            Cell(
                batch_size=size,
                lr=0.006 * size / 16 if name == "linear" else 0.006,
                momentum=0.9,
                at_edge=edge and place == len(sizes) - 1,
                samples_per_second=1e3 * size**0.6,
                linear_approximation_error=Estimate(size / 100, size / 110, size / 90),
                stopped={reason: number for reason, number in stopped.items() if number},
                curves=tuple(curves),
            )
        )
    found = measures.to_target(arrivals)
    with np.errstate(invalid="ignore"):  # of runs of which none arrived
        both = fits.fits(arrivals) if len(arrivals) > 1 else None
    aims = {"train": 0.15, "test": target}
    ways = {loss: ToLoss(target=Target(aim, 32), to_target=found, fits=both) for loss, aim in aims.items()}
    return Rule(rule=name, cells=tuple(cells), **ways)


def _losses(share, target):
    return [aim * math.pow(share, -0.8) for aim in (0.15, target)]


@cache
def study(
    *, task="digits", models=("mlp",), fractions=(1.0,), rules=("linear", "constant"), seeds=3, critical=300, **more
):
    """A finished study."""
    panels = tuple(
        Panel(
            model=model,
            fraction=fraction,
            samples=round(1437 * fraction),
            rules=tuple(rule_of(name, critical=critical * (1 + place), seeds=seeds, **more) for name in rules),
        )
        for place, (model, fraction) in enumerate(product(models, fractions))
    )
    first = panels[0].rules[0].test
    one = first.fits and first.fits.form_1.critical_batch
    return Study(
        task=task,
        settings=SETTINGS,
        versions=VERSIONS,
        panels=panels,
        critical_batch=one
        and CriticalBatch(
            estimate=one.estimate, low=one.low, high=one.high, model=models[0], rule=rules[0], loss="test", target=0.14
        ),
    )


def write_study(folder, found=None, **changes):
    """A folder of a finished study; returns the study."""
    found = study(**changes) if found is None else found
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(found.to_json()))
    return found


RATES = {16: 400.0, 32: 700.0, 64: 960.0, 128: 1000.0}
SAME = {"median": 1.0, "low": 1.0, "high": 1.0}


def probe(*, task="digits", model="mlp", rates=RATES, full=256, device="Some(R) Processor"):
    """The content of a `probe.json`: throughput is at 95 % from batch size 64 on, and memory is full at 256."""
    curve = [
        {"batch_size": size, "samples_per_second": {"median": rate, "min": rate, "max": rate}, "against_first": SAME}
        for size, rate in rates.items()
    ]
    return {
        "task": task,
        "model": model,
        "device": "cpu",
        "versions": {"device": "cpu", "device_name": device},
        "repeats": 9,
        "out_of_memory_at": full,
        "curve": curve,
        "fastest": max(rates),
        "speedup": SAME,
        "enough": 64,
        "sentence": "growing the batch can make this task at most 2.5x faster here",
    }


def write_probe(folder, **changes):
    """A folder of a probe; returns its content."""
    found = probe(**changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "probe.json").write_text(json.dumps(found))
    return found
