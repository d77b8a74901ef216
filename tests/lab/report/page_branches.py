"""Branchings like those of `adabatch study --branch`, made from known costs, without training."""

import json
from functools import cache
from itertools import product

from tests.lab.report.page_folders import VERSIONS

from adabatch import schedules
from adabatch.lab.scaling import BranchCell, BranchFindings, Estimate, Harmless

BASE = 16
FORKS = (0.05, 0.15, 0.35, 0.65)
WINDOWS = (1 / 64, 1 / 32, 1 / 16)
FACTORS = (2, 4, 8)
TOLERANCES = (0.003, 0.01, 0.03)
HARMLESS = {0.003: (1, 1, 2, 2), 0.01: (1, 2, 2, 8), 0.03: (2, 4, 8, 8)}
BEYOND = {(1 / 64, 0.05, 8): Estimate(None, 2.0, None), (1 / 64, 0.65, 2): Estimate(0.0, 0.0, 0.889)}


def cost_of(fork, factor):
    """The true cost: at the first fork that of eight times the batch is 1.8."""
    return 1 + (factor - 1) * 0.12 * (1 - fork)


def cell_of(window, fork, factor, *, truth):
    cost = cost_of(fork, factor)
    found = BEYOND.get((window, fork, factor), Estimate(1.01 * cost, 0.96 * cost, 1.07 * cost))
    return BranchCell(
        fork=fork,
        window=window,
        factor=factor,
        power=0.5,
        loss_ratio=Estimate(cost**0.3, 0.99 * cost**0.3, 1.01 * cost**0.3),
        worst_ratio=1.01 * cost**0.3,
        cost=found,
        truth=cost if truth else None,
    )


@cache
def branching(*, task="digits", model="mlp", windows=WINDOWS, forks=FORKS, truth=False, growth="late"):
    """The findings of a branching."""
    base = {"task": task, "model": model, "batch_size": BASE, "lr": 0.05, "epochs": 10, "data": "/home/somebody/digits"}
    places = product(windows, forks, FACTORS)
    harmless = HARMLESS if growth != "none" else dict.fromkeys(TOLERANCES, (1,) * len(forks))
    return BranchFindings(
        task=task,
        model=model,
        settings={"base": base, "forks": list(forks), "windows": list(windows), "seeds": [0, 1, 2]},
        versions=VERSIONS,
        loss="test",
        cells=tuple(cell_of(*place, truth=truth) for place in places),
        harmless=tuple(
            Harmless(window=window, tolerance=tolerance, factors=harmless[tolerance][: len(forks)])
            for window, tolerance in product(windows, TOLERANCES)
        ),
        window=windows[-1],
        tolerance=0.01,
        coupling="sqrt",
        growth=growth,
        schedule=schedules.steps({0: 16, 2000: 32, 9000: 128}).to_json(),
    )


def write_branch(folder, found=None, **changes):
    """A folder of a finished branching; returns the findings."""
    found = branching(**changes) if found is None else found
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "branch.json").write_text(json.dumps(found.to_json()))
    return found
