"""Where measuring pays: each policy against the best schedule and the best constant batch, by the time to a target.

On each task a pilot with seeds of its own trains constant batch sizes, schedules, and each policy at several constants.
It sets the target, the lowest test accuracy at which the smallest constant batch ends, and picks from each family the
arm that is there first in the median; one that did not get there with every seed comes after those that did, by its
accuracy. The picked arms are then trained with other seeds, in turns, and compared pair by pair: the time of the best
constant batch, or of the best schedule, over that of the policy. Seconds are of training alone, with all that the tap
costs. A ratio has an interval only if every run of both arms arrived.

    python benchmarks/policies.py --data ../data --out benchmarks/results/policies.json
    python benchmarks/policies.py --toy

GRID has all that is tried; it was written before anything was measured. The LR of every arm follows a cosine over the
training, times the coupling. Finished runs in --runs are not repeated, so the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from paired import begin, write

from adabatch import couplings
from adabatch.lab import tasks
from adabatch.lab.comparison import ArmOutcome, Arrivals, Comparison
from adabatch.lab.study.arms import Arm
from adabatch.lab.study.compare import Turn, compare
from adabatch.lab.study.probe import probe
from adabatch.lab.study.statistics import paired_difference, paired_ratio
from adabatch.lab.training import Progress, RunConfig, RunResult

PILOT: Final = (1000, 1001)
SIZES: Final = 4  # doublings from the first batch size to the largest
BEST: Final = ("constant", "schedule")  # the families with which policies are compared


class Length(NamedTuple):
    """A task: its network, first batch size, epochs, and training samples, None for all."""

    model: str
    batch_size: int
    epochs: int
    samples: int | None = None
    settings: Mapping[str, Any] = {}


GRID: Final = {
    "digits": Length("small_cnn", 16, 16),
    "fashion_mnist": Length("small_cnn", 32, 8, 12_000),
    "cifar10": Length("small_cnn", 32, 10, 12_000),
    "gpt-tiny": Length("gpt", 8, 2, 2_048),
}
FOLDERS: Final = {"gpt-tiny": "tinyshakespeare"}  # in the folder of the data, where it has another name
TOY: Final = {"digits": Length("small_cnn", 16, 2)}
SIGNS: Final = ("adam", "adamw")


def base(task: str, length: Length, samples: int, device: str) -> RunConfig:
    """The training that all arms begin with."""
    how = {"lr_schedule": "cosine", "threads": 1, "device": device, "evaluate_every": f"{samples // 4} samples"}
    return RunConfig.for_task(
        task, model=length.model, batch_size=length.batch_size, epochs=length.epochs, **how, **length.settings
    )


def families(start: RunConfig, curve: Sequence[tuple[int, float]]) -> dict[str, dict[str, RunConfig]]:
    """What is tried: for each family its arms by name."""
    size, epochs = start.batch_size, start.epochs
    largest = size * 2**SIZES
    every = max(1, epochs // (SIZES + 1))

    def policy(text: str, **more: Any) -> RunConfig:
        return replace(start, policy=text, max_batch_size=largest, **more)

    def lr(factor: int) -> float:
        return start.lr * couplings.get(start.coupling).lr_factor(factor)

    found = {
        "constant": {
            f"constant-{factor * size}": replace(start, batch_size=factor * size, lr=lr(factor))
            for factor in (1, 2, 4, 8, 16)
        },
        "schedule": {
            f"by-{factor}-every-{each}": replace(start, growth=factor, every=f"{each} epochs", max_batch_size=largest)
            for factor, each in dict.fromkeys([(2, every), (2, max(1, every // 2)), (4, every), (4, epochs // 3 or 1)])
        },
        "noise-scale": {f"noise-scale-{c:g}": policy(f"noise-scale:{c:g}") for c in (0.03, 0.1, 0.3, 1.0)},
        "goodput": {"goodput": policy("goodput:" + " ".join(f"{size}:{rate:.6g}" for size, rate in curve))},
    }
    if start.optimizer in SIGNS:
        found["sign-noise"] = {f"sign-noise-{each:g}": policy(f"sign-noise:{each:g}") for each in (0.3, 0.6, 0.85)}
    else:
        found["cabs"] = {
            f"cabs-{factor:g}": policy("cabs:0.01", coupling="none", momentum=0.0, lr=start.lr * factor)
            for factor in (3.0, 10.0, 30.0)
        }
    return found


def throughput(start: RunConfig, data: tasks.Data, kept: Path) -> list[tuple[int, float]]:
    """Samples per second by batch size, measured once."""
    if not kept.exists():
        found = probe(start, max_batch_size=start.batch_size * 2**SIZES, data=data)
        curve = [(point["batch_size"], point["samples_per_second"]["median"]) for point in found["curve"]]
        kept.write_text(json.dumps(curve))
    return [(size, rate) for size, rate in json.loads(kept.read_text())]


def arrivals(arm: ArmOutcome) -> Arrivals:
    """When the runs of an arm were at the target."""
    assert arm.to_target is not None
    return arm.to_target


def picked(found: Comparison, names: Sequence[str]) -> str:
    """The arm of a family that is at the target first."""

    def place(name: str) -> tuple[bool, float]:
        arm = found.arm(name)
        missed = arrivals(arm).reached < arrivals(arm).n
        return missed, -arm.test_accuracy.mean if missed else arm.seconds_to_target or math.inf

    return min(names, key=place)


def ratio(arm: ArmOutcome, against: ArmOutcome) -> dict[str, Any] | None:
    """The time of another arm to the target over that of an arm; None unless all runs of both arrived."""
    ours, theirs = arrivals(arm).seconds, arrivals(against).seconds
    pairs = [(two, one) for one, two in zip(ours, theirs, strict=True) if one and two]
    if len(pairs) < len(ours):
        return None
    found = paired_ratio([top for top, _ in pairs], [bottom for _, bottom in pairs])
    return {"median": found.median, "low": found.low, "high": found.high}


def row(family: str, arm: ArmOutcome, best: Mapping[str, ArmOutcome]) -> dict[str, Any]:
    """An arm in figures."""
    told: dict[str, Any] = {"family": family, "arm": arm.name, "batch_sizes": list(arm.batch_sizes)}
    told |= {"reached": arrivals(arm).reached, "of": arrivals(arm).n, "seconds": list(arrivals(arm).seconds)}
    told |= {"updates": arm.updates, "accuracy": list(arm.test_accuracy.values)}
    for name, other in best.items():
        if other.name != arm.name:
            lost = paired_difference(arm.test_accuracy.values, other.test_accuracy.values)
            told[f"against_best_{name}"] = {
                "time_ratio": ratio(arm, other),
                "accuracy": {"mean": lost.mean, "interval": lost.interval},
            }
    return told


def measured(task: str, length: Length, options: argparse.Namespace, runs: Path) -> dict[str, Any]:
    """All of a task."""
    data = tasks.get(task).load(None if options.data is None else str(options.data / FOLDERS.get(task, task)))
    if length.samples is not None:
        data = replace(data, x_train=data.x_train[: length.samples], y_train=data.y_train[: length.samples])
    start = base(task, length, data.dataset_size, options.device)
    runs.mkdir(parents=True, exist_ok=True)
    tried = families(start, throughput(start, data, runs / f"{task}-curve.json"))
    arms = [Arm(name, config) for family in tried.values() for name, config in family.items()]

    def pilot(target: float) -> Comparison:
        return compare(arms, seeds=PILOT, out=runs / f"{task}-pilot", data=data, target=target, progress=told)

    target = min(pilot(1.0).arm(arms[0].name).test_accuracy.values)
    names = {family: picked(pilot(target), list(known)) for family, known in tried.items()}
    chosen = [Arm(name, tried[family][name]) for family, name in names.items()]
    seeds = range(options.seeds)
    found = compare(chosen, seeds=seeds, out=runs / task, data=data, target=target, progress=told)
    best = {family: found.arm(names[family]) for family in BEST}
    rows = [row(family, found.arm(name), best) for family, name in names.items()]
    return {"settings": start.to_json(), "samples": data.dataset_size, "target": target, "arms": rows}


def told(turn: Turn, now: Progress | RunResult | None) -> None:
    """Says which run is finished."""
    if isinstance(now, RunResult):
        print(f"{turn.number} of {turn.total}: {turn.arm.name}, {now.test_accuracy:.3f}", file=sys.stderr, flush=True)


def main() -> None:
    """Does all tasks; the result is written after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the folder that holds those of the tasks")
    parser.add_argument("--tasks", default=",".join(GRID), help="of them, with commas")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--toy", action="store_true", help="two seeds and two epochs on digits")
    parser.add_argument("--runs", type=Path, help="the folder of the runs, where the same command goes on")
    parser.add_argument("--out", type=Path, default=Path("policies.json"))
    options = parser.parse_args()
    grid = {name: GRID[name] for name in options.tasks.split(",")}
    if options.toy:
        grid, options.seeds = TOY, 2
    environment = begin(options.out)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for task, length in grid.items():
            found[task] = measured(task, length, options, options.runs or Path(temporary))
            write(
                options.out,
                "policies",
                environment,
                printed=False,
                results={"seeds": options.seeds, "pilot": list(PILOT), "tasks": found},
            )


if __name__ == "__main__":
    main()
