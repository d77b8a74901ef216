"""Asserts what the demo must show: `python .ci/check_demo.py [COMPARE.JSON]`.

Everything is computed anew from the raw values of the runs, with statistics of its own: what the file derives from them
must be the same, and what is claimed is claimed by the end of the 95 % interval that is against it. Seconds belong to
the machine: they are reported, not bounded. Prints one line per check and a closing line `N passed, N failed`; exit
code 1 if any failed.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEEDS = list(range(10))
T_9 = 2.2621571628  # 97.5 % of Student's t with 9 degrees of freedom
MARGIN, FEWER_UPDATES, WORSE, SMALL_ACCURACY = 0.01, 2.4, 0.015, 0.965
TRAIN, TEST, EPOCHS = 1437, 360, 14
SHARED = {
    "task": "digits", "model": "small_cnn", "every": "2 epochs", "max_batch_size": 256, "rule": None,
    "drop_last": False, "lr_schedule": "step:0.65:2", "momentum": 0.9, "weight_decay": 0.0, "optimizer": "sgd",
    "epochs": EPOCHS, "micro_batch_size": None, "ghost_batch_size": None, "threads": 1, "evaluate_every": "1 epoch",
    "precision": "float32", "compile": False,
}  # fmt: skip
OWN = {
    "fixed-small": {"batch_size": 16, "growth": None, "lr": 0.006},
    "fixed-large": {"batch_size": 256, "growth": None, "lr": 0.096},
    "adaptive": {"batch_size": 16, "growth": 2.0, "lr": 0.006, "coupling": "linear"},
    "uncoupled": {"batch_size": 16, "growth": 2.0, "lr": 0.006, "coupling": "none"},
}
Check = tuple[str, Any, bool]


def checks(compare: dict[str, Any]) -> Iterator[Check]:
    """Each check: what must hold, what was found, whether it holds."""
    head = {key: compare.get(key) for key in ("task", "model", "seeds", "margin", "target")}
    wanted = {"task": "digits", "model": "small_cnn", "seeds": SEEDS, "margin": MARGIN, "target": 0.95}
    yield "the demo's task, seeds and margin", head, head == wanted
    arms = {arm["name"]: arm for arm in compare["arms"]}
    yield "the four arms", list(arms), list(arms) == list(OWN) and list(compare["settings"]) == list(OWN)
    for name, own in OWN.items():
        yield from settings(name, compare["settings"][name], SHARED | own)
        yield from runs(name, arms[name])
    small, adaptive = arms["fixed-small"], arms["adaptive"]
    fewer = small["updates"] / adaptive["updates"]
    yield f"adaptive takes {FEWER_UPDATES} times fewer updates", f"{fewer:.2f}", fewer >= FEWER_UPDATES
    low = interval(accuracies(small))[1]
    text = f"fixed-small is no straw man: at least {100 * SMALL_ACCURACY} % by the interval"
    yield text, f"{100 * low:.2f} %", low >= SMALL_ACCURACY
    yield from differences(compare, arms)


def settings(name: str, found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[Check]:
    """The settings that decide what is trained."""
    other = {key: found.get(key) for key in wanted if found.get(key, "missing") != wanted[key]}
    yield f"{name}: the demo's settings", f"others: {other}" if other else "the same", not other


def runs(name: str, arm: dict[str, Any]) -> Iterator[Check]:
    """The raw values of an arm, and what the file derives from each arm alone."""
    values, seconds = accuracies(arm), arm["train_seconds"]["values"]
    whole = len(values) == len(seconds) == len(SEEDS)
    yield f"{name}: {len(SEEDS)} seeds", f"{len(values)} accuracies, {len(seconds)} times", whole
    counted = [round(TEST * value) for value in values]
    fractions = all(0 <= value <= 1 and abs(TEST * value - round(TEST * value)) < 1e-9 for value in values)
    yield f"{name}: accuracies are of {TEST} test samples", counted, fractions
    sizes = [min(16 * 2 ** (epoch // 2), 256) for epoch in range(EPOCHS)]
    if OWN[name]["growth"] is None:
        sizes = [OWN[name]["batch_size"]] * EPOCHS
    updates, samples = sum(math.ceil(TRAIN / size) for size in sizes), TRAIN * EPOCHS
    found = arm["updates"], arm["samples"], arm["batch_sizes"]
    yield f"{name}: updates, samples and sizes are the plan's", found, found == (updates, samples, sorted(set(sizes)))
    yield f"{name}: no run diverged", arm["diverged"], arm["diverged"] == 0
    derived = arm["test_accuracy"]
    same = close(derived["mean"], statistics.fmean(values)) and close(derived["std"], statistics.stdev(values))
    same = same and derived["n"] == len(values) and close(arm["train_seconds"]["median"], statistics.median(seconds))
    yield f"{name}: mean, deviation and median are those of the runs", derived["mean"], same and min(seconds) > 0


def differences(compare: dict[str, Any], arms: dict[str, Any]) -> Iterator[Check]:
    """What is claimed against fixed-small, by intervals that are computed here."""
    base = arms["fixed-small"]
    for name in ("adaptive", "fixed-large", "uncoupled"):
        arm, derived = arms[name], compare["against_fixed_small"][name]
        by_seed = [ours - theirs for ours, theirs in zip(accuracies(arm), accuracies(base), strict=True)]
        mean, low, high = interval(by_seed)
        points = f"{100 * mean:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}] points, worst seed {100 * min(by_seed):+.2f}"
        if name == "adaptive":
            yield f"{name} is within {MARGIN:.0%} of fixed-small's accuracy by the interval", points, low > -MARGIN
        else:
            yield f"{name} is at least {100 * WORSE} points worse by the interval", points, high <= -WORSE
        times = zip(base["train_seconds"]["values"], arm["train_seconds"]["values"], strict=True)
        ratios = sorted(theirs / ours for theirs, ours in times)
        less = [statistics.median(ratios), ratios[1], ratios[-2]]  # of 10 they cover the median with 97.9 %
        verdict = "shown" if low > -MARGIN else "worse" if high < -MARGIN else "not shown"
        same = derived["within_margin"]["verdict"] == verdict
        same = same and close(derived["updates_ratio"], base["updates"] / arm["updates"])
        difference, ratio = derived["accuracy_difference"], derived["seconds_ratio"]
        found = [difference["mean"], difference["low"], difference["high"]]
        found += [ratio["median"], ratio["low"], ratio["high"]]
        same = same and all(map(close, found, [mean, low, high, *less]))
        yield f"{name}: the file's ratios, intervals and verdict are those of the runs", derived["within_margin"], same
        print(f"reported: {name} is {less[0]:.2f}x faster than fixed-small [{less[1]:.2f}, {less[2]:.2f}]")


def accuracies(arm: dict[str, Any]) -> list[float]:
    """The test accuracies at the end, one for each seed."""
    values: list[float] = arm["test_accuracy"]["values"]
    return values


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval of ten values."""
    mean, half = statistics.fmean(values), T_9 * statistics.stdev(values) / math.sqrt(len(SEEDS))
    return mean, mean - half, mean + half


def close(found: float, computed: float) -> bool:
    """Whether two numbers are the same but for rounding."""
    return math.isclose(found, computed, rel_tol=1e-9, abs_tol=1e-9)


def main(path: Path) -> int:
    """Reads the comparison and checks it; what cannot be read is a check that failed."""
    tally = {True: 0, False: 0}
    try:
        for text, found, holds in checks(json.loads(path.read_text())):
            tally[holds] += 1
            print(f"{'passed' if holds else 'FAILED'}: {text}; found {found}")
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
        tally[False] += 1
        print(f"FAILED: the file is whole; {type(error).__name__}: {error}")
    print(f"{tally[True]} passed, {tally[False]} failed")
    return 1 if tally[False] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo/compare.json")))
