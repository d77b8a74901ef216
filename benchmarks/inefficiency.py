"""The findings of Golmant et al. at small scale: where a larger batch stops paying, and what moves that border.

Five claims of "On the Computational Inefficiency of Large Batch Sizes" (2018, arXiv 1811.12941), a part each. GRID has
all studies and PARTS says how each claim is decided; both were written before anything was measured. All training is
`adabatch study`, whose folders lie in --runs: after Ctrl-C, SIGTERM or a crash the same command goes on, and a study
that several parts need is done once. The result file of a part is written as soon as the part ends.

    ADABATCH_DATA=../shared/data python benchmarks/inefficiency.py --jobs 2
    python benchmarks/inefficiency.py --estimate
    python benchmarks/inefficiency.py --toy --parts c

Departures from the paper: losses count after a cooldown, and the target is what the best batch size reaches. In a, c, d
and e the LR is searched at each batch size, since under a fixed rule the base LR decides where scaling ends; in c, d
and e for Adam, which has no momentum to search beside it. Adam has larger critical batch sizes than SGD (Zhang et al.
2019, arXiv 1907.04164), so only those of one optimizer are compared. The base of the rules in b, LR 0.01 with momentum
0.9 at batch 8, is the best of 20 pairs from 0.01 to 0.08 and 0.2 to 0.95 on Fashion-MNIST (8,000 samples, two epochs,
one seed that plays no further part). In c all shares of the data get as many updates.
Run it in a worktree of its own; once results are committed, give the parts that are left by --parts.

A larger grid takes the same commands on GPUs, on as many machines as name one --storage, and larger sizes:

    adabatch study cifar10 --models resnet20,alexnet,vgg19_bn,wrn16_4 --fractions 1,0.5,0.25 --seeds 5
        --lr-rules constant,linear,sqrt,tuned --batch-sizes 16,32,64,128,256,512,1024,2048,4096,8192
        --epochs 20 --max-epochs 160 --storage postgresql+psycopg://...
    adabatch study mnist --train-samples 50000 (and fashion_mnist, cifar10, cifar100) --models resnet20 ...
    adabatch study gpt-tiny --models gpt,lstm --batch-sizes 2,4,8,16,32,64,128,256,512 --lr-rules tuned --seeds 5
    adabatch study camvid --batch-sizes 2,4,8,16,32,64,128 --lr-rules tuned --seeds 5 --epochs 20 --max-epochs 160
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import verdicts
from paired import ROOT, begin, write

from adabatch.lab.scaling import Rule, Study
from adabatch.lab.training.interrupt import SIGNALS

LOSSES: Final = ("train", "test")  # the paper's is the training loss


class Planned(NamedTuple):
    """A study: its task, the options of `adabatch study`, and CPU-hours, estimated from a few trainings."""

    task: str
    options: Mapping[str, str]
    hours: float

    def arguments(self) -> list[str]:
        """The words of the command, without its folder."""
        return ["study", self.task, *(word for name, value in self.options.items() for word in (f"--{name}", value))]

    def toy(self) -> Planned:
        """The same study at a size that shows whether it works, and nothing else."""
        sizes = self.options["batch-sizes"].split(",")[:2]
        data = {"train-samples": str(16 * int(sizes[1])), "test-samples": "32"}
        models = ",".join(self.options["models"].split(",")[:2])
        small = {"models": models, "batch-sizes": ",".join(sizes), "seeds": "2", "epochs": "1", "max-epochs": "2"}
        return self._replace(options={**self.options, **data, **small})


RULES: Final = {"seeds": "3", "threads": "1", "lr-rules": "constant,linear,sqrt,tuned", "lr": "0.01"}
ADAM: Final = {"seeds": "5", "threads": "1", "lr-rules": "tuned", "optimizer": "adam", "weight-decay": "0"}
IMAGES: Final = {
    "models": "small_cnn",
    "batch-sizes": "8,16,32,64,128,256,512,1024",
    "train-samples": "6000",
    "test-samples": "1000",
    "epochs": "2",
    "max-epochs": "32",
}
DIGITS: Final = {"models": "mlp,small_cnn,resnet20", "batch-sizes": "8,16,32,64,128,256"}
TEXT: Final = {"models": "lstm", "batch-sizes": "1,2,4,8,16,32,64", "train-samples": "1024", "test-samples": "64"}
STREETS: Final = {"models": "drn", "batch-sizes": "2,4,8,16,32,64", "test-samples": "64"}
GRID: Final = {
    "rules": Planned("fashion_mnist", {**IMAGES, **RULES, "epochs": "4"}, 1.9),
    "mnist": Planned("mnist", {**IMAGES, **ADAM}, 0.4),
    "fashion": Planned("fashion_mnist", {**IMAGES, **ADAM}, 0.4),
    "cifar10": Planned("cifar10", {**IMAGES, **ADAM}, 0.5),
    "whole": Planned("digits", {**DIGITS, "epochs": "2", "max-epochs": "32", **ADAM}, 0.1),
    "half": Planned("digits", {**DIGITS, "fractions": "0.5", "epochs": "4", "max-epochs": "64", **ADAM}, 0.1),
    "quarter": Planned("digits", {**DIGITS, "fractions": "0.25", "epochs": "8", "max-epochs": "128", **ADAM}, 0.1),
    "text": Planned("gpt-tiny", {**TEXT, "epochs": "1", "max-epochs": "16", **ADAM}, 0.6),
    "camvid": Planned("camvid", {**STREETS, "epochs": "3", "max-epochs": "48", **ADAM}, 0.6),
}
PICTURES: Final = ("mnist", "fashion", "cifar10")  # the easiest first


class Part(NamedTuple):
    """A claim, the rule by which it is decided, the studies that it needs, and that rule in code, for one loss."""

    claim: str
    rule: str
    studies: tuple[str, ...]
    judge: Callable[[Mapping[str, Study], str], dict[str, Any]]


BORDERS: Final = (
    "Critical batch sizes are those of the fits of a study. Where a form misfits by more than seeds differ (p < 0.05), "
    "they are those of a fit to one mean for each batch size, with intervals from its residuals. "
)
PARTS: Final = {
    "a": Part(
        "On an image task the updates to a target fall linearly with the batch size, then sub-linearly, then not at "
        "all.",
        "The slope is the fall of log updates for each unit of log batch size between neighbours, with its 95 % "
        f"interval. At {verdicts.STEEP:.3f} a doubled batch costs 10 % more samples, at {verdicts.NEARLY:.3f} 25 %; at "
        f"{verdicts.STAGNANT:.3f} it saves 10 % of the updates, at {verdicts.SCARCELY:.3f} 20 %. Linear: the interval "
        "lies above the second and reaches up to the first. Not at all: it lies below the fourth and reaches down to "
        "the third. Sub-linear: it lies between the first and the third. Under the tuned LR: holds if all three are "
        "told and the last linear slope comes before the first that is not at all; does not hold if it comes after it; "
        "else cannot tell. Intervals are of seeds: the luck of the search is not in them, nor is it corrected that "
        "seven slopes are judged.",
        ("rules",),
        verdicts.three_regimes,
    ),
    "b": Part(
        "Linear and square-root scaling of the LR need fewer updates than a constant LR up to some batch size, and no "
        "longer beyond.",
        "At each batch size: the ratio of the updates under a constant LR to those under the rule, with its 95 % "
        "interval; a training that diverged never arrives. A rule is as claimed if it needs fewer at some size and "
        "more at the largest size at which either is told; it is not if it needs more at some size and fewer at none, "
        "or fewer still at the largest size. Holds if both rules are as claimed; does not hold if one is not; else "
        "cannot tell. A scaled LR is reached by a warm-up over a twentieth of the base budget, at 1,024 one update. It "
        "is not corrected that seven batch sizes are judged.",
        ("rules",),
        verdicts.lr_rules,
    ),
    "c": Part(
        "The network moves the critical batch size more than the size of the data set.",
        f"{BORDERS}Geometric means of them: of each network over the shares of the data, of each share over the "
        "networks. The largest ratio of two networks and that of two shares, with 95 % intervals: holds if the "
        "interval of networks lies above that of shares; does not hold if it lies below; else cannot tell.",
        ("whole", "half", "quarter"),
        verdicts.network_against_size,
    ),
    "d": Part(
        "Of data sets of equal size the easier ones have the larger critical batch size.",
        f"{BORDERS}Ratios of easier to harder ones of MNIST, Fashion-MNIST and CIFAR-10, in this "
        "order, with 95 % intervals: holds if that of MNIST to CIFAR-10 lies above 1 and none below 1; does not hold "
        "if any lies below 1; else cannot tell.",
        PICTURES,
        verdicts.difficulty,
    ),
    "e": Part(
        "A language model and segmentation have a smaller critical batch size, in samples, than image classification.",
        f"{BORDERS}Ratios of those of the three tasks of image classification to that of each other task, "
        "with 95 % intervals: holds if all lie above 1; does not hold if any lies below 1; else cannot tell.",
        ("text", "camvid", *PICTURES),
        partial(verdicts.kinds, images=PICTURES),
    ),
}


def estimate(parts: Sequence[str]) -> str:
    """CPU-hours by part; a study counts in the first part that needs it."""
    lines: list[str] = []
    seen: set[str] = set()
    for name in parts:
        new = [study for study in PARTS[name].studies if study not in seen]
        seen.update(new)
        lines.append(f"{name}: {sum(GRID[study].hours for study in new):.1f} CPU-hours ({', '.join(new) or 'no more'})")
    return "\n".join([*lines, f"together: {sum(GRID[study].hours for study in seen):.1f} CPU-hours"])


@contextmanager
def passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """While entered, signals that end a study go to its process, which saves and ends."""

    def send(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    before = [(number, signal.signal(number, send)) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def studied(name: str, planned: Planned, runs: Path, jobs: int) -> dict[str, Any]:
    """A study, done as far as it was not: its command, the CPU-hours of all tries but killed ones, and its findings.

    Raises:
        SystemExit: if it fails or is interrupted, with its exit code.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    more = ["--jobs", str(jobs), "--out", str(runs / name), "--progress", "--json"]
    process = subprocess.Popen([sys.executable, "-m", "adabatch", *planned.arguments(), *more], stdout=subprocess.PIPE)
    with passed_on(process):
        printed, _ = process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = spent(runs, name, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    if process.returncode:
        print(printed.decode(), file=sys.stderr)
        raise SystemExit(process.returncode if process.returncode > 0 else 128 - process.returncode)
    command = shlex.join(["adabatch", *planned.arguments()])
    return {"command": command, "cpu_hours": seconds / 3600, "study": Study.of_json(json.loads(printed))}


def spent(runs: Path, name: str, more: float) -> float:
    """The CPU seconds of a study in all tries that were not killed, with those of this one, which are noted."""
    file = runs / "cpu_seconds.json"
    seconds = json.loads(file.read_text()) if file.exists() else {}
    seconds[name] = seconds.get(name, 0.0) + more
    file.parent.mkdir(parents=True, exist_ok=True)
    partial_file = file.with_suffix(".partial")
    partial_file.write_text(json.dumps(seconds))
    os.replace(partial_file, file)
    return float(seconds[name])


def compact(study: Study) -> list[dict[str, Any]]:
    """A study without its learning curves: for each network and LR rule where runs arrived, and the fits."""
    return [
        {
            "model": panel.model,
            "samples": panel.samples,
            "lr_rule": rule.rule,
            **{name: [getattr(cell, name) for cell in rule.cells] for name in ("batch_size", "lr", "momentum")},
            "at_edge": [cell.batch_size for cell in rule.cells if cell.at_edge],
            "linear_approximation_error": [cell.linear_approximation_error.to_json() for cell in rule.cells],
            "stopped": {str(cell.batch_size): dict(cell.stopped) for cell in rule.cells},
            **{loss: arrivals(rule, loss) for loss in LOSSES},
        }
        for panel in study.panels
        for rule in panel.rules
    ]


def arrivals(rule: Rule, loss: str) -> dict[str, Any]:
    """The target of a loss, the updates of each run until it, how many arrived, and the fits."""
    way = getattr(rule, loss)
    return {
        "target": way.target and way.target.loss,
        "arrived": {str(row.batch_size): row.arrived for row in way.to_target},
        "updates": {str(row.batch_size): [run.updates for run in row.runs] for row in way.to_target},
        "censored": {str(row.batch_size): [run.censored for run in row.runs] for row in way.to_target},
        "fits": way.fits and way.fits.to_json(),
    }


def judged(name: str, studies: Mapping[str, Study]) -> dict[str, Any]:
    """The verdicts on the claim of a part, from its finished studies; `n` is the number of seeds."""
    part = PARTS[name]
    rules = [rule for study in studies.values() for panel in study.panels for rule in panel.rules]
    return {
        "part": name,
        "claim": part.claim,
        "rule": part.rule,
        "n": min(len(cell.curves) for rule in rules for cell in rule.cells),
        "verdicts": {loss: part.judge(studies, loss) for loss in LOSSES},
    }


def done(name: str, grid: Mapping[str, Planned], runs: Path, jobs: int) -> dict[str, Any]:
    """A part: its verdicts, and the studies on which they rest."""
    found = {study: studied(study, grid[study], runs, jobs) for study in PARTS[name].studies}
    told = {study: {**one, "study": compact(one["study"])} for study, one in found.items()}
    return {**judged(name, {study: one["study"] for study, one in found.items()}), "studies": told}


def main() -> None:
    """Does the parts and writes a result for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="such as a,b; else all")
    parser.add_argument("--runs", type=Path, help="the folder of the studies, where the same command goes on")
    parser.add_argument("--out", type=Path, help="the folder of the results")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--toy", action="store_true", help="in minutes: shows whether it works, and nothing else")
    parser.add_argument("--estimate", action="store_true", help="print CPU-hours by part and train nothing")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := [name for name in parts if name not in PARTS]:
        parser.error(f"--parts must be of {', '.join(PARTS)}, got {', '.join(unknown)}")
    if options.estimate:
        print(estimate(parts))
        return
    grid = {name: planned.toy() for name, planned in GRID.items()} if options.toy else GRID
    runs = options.runs or Path("runs/inefficiency-toy" if options.toy else "runs/inefficiency")
    out = options.out or (runs if options.toy else ROOT / "benchmarks" / "results")
    for name in parts:
        file = out / f"inefficiency_{name}.json"
        environment = begin(file)
        write(file, "inefficiency", environment, done(name, grid, runs, options.jobs))


if __name__ == "__main__":
    main()
