"""How far the noise scale is off, how often its interval covers, and what a tap costs, by the product's own code.

    python benchmarks/noise.py [--cases mnist,fashion_mnist,batch_norm,dropout,bf16,gpt] [--trials 20] [--seeds 5]
    python benchmarks/noise.py --runs runs/noise      # keeps each case there, and goes on with those that are left

At fixed weights: a network is trained for some updates and then held (LR 0), and taps measure it in trials of 100
updates of 64 samples, each with another order of the data. The truth is that of all training samples, cut into parts of
the same size, so that batch norm has the same ghost batches. In training: a tap with its defaults follows a training,
and the truth of the weights of the moment is compared with the estimate of the moment. Samples come by epochs, as
loaders give them, or are drawn independently. `covers` is the share of 95 % intervals with the truth inside, as they
are and as the estimator gives them, before they are widened for sampling by epochs. An interval without an upper end
covers, and is counted apart. Cost: trainings with and without a tap, paired; the bound is 3 % for the recommended ones.

All of it should take about 90 minutes on one CPU thread; with `--toy` it takes a minute, on digits.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from paired import at_most, begin, compare, write
from torch import Tensor, nn
from torch.utils.data import RandomSampler, TensorDataset

import adabatch as ab
from adabatch.lab import models, tasks
from adabatch.noise import parts, trace_and_signal
from adabatch.noise.tap import EPOCHS
from adabatch.types import NoiseEstimate

BATCH, UPDATES, BOUND = 64, 100, 1.03
HELD_AFTER = (30, 300, 1500)
WAYS = {"8 micro-batches": 8, "2 halves": None}
"""The taps that are compared, by the micro-batch size of the loader."""


@dataclass(frozen=True)
class Case:
    """A network on a task.

    Attributes:
        task: the data.
        make: the network for the shape of its inputs.
        lr: of SGD with momentum 0.9.
        bf16: whether forward passes run in bf16.
        passes: over the data for the truth; more than one where a pass is random.
    """

    task: str
    make: Callable[..., nn.Module]
    lr: float = 0.02
    bf16: bool = False
    passes: int = 1

    def forward(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext()


def small(*, batch_norm: bool = False, dropout: float = 0.0, **shape: int) -> nn.Module:
    """A small convolutional network with batch norm or dropout."""
    channels = shape["in_channels"]
    layers: list[nn.Module] = []
    for width in (8, 16):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1)]
        layers += [nn.BatchNorm2d(width)] if batch_norm else []
        layers += [nn.ReLU()]
        channels = width
    side = -(-shape["image_size"] // 4)
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels * side * side, shape["classes"])
    )


CASES = {
    "mnist": Case("mnist", partial(models.build, "small_cnn")),
    "fashion_mnist": Case("fashion_mnist", partial(models.build, "small_cnn")),
    "batch_norm": Case("fashion_mnist", partial(small, batch_norm=True)),
    "dropout": Case("fashion_mnist", partial(small, dropout=0.25), passes=4),
    "bf16": Case("fashion_mnist", partial(models.build, "small_cnn"), bf16=True),
    "gpt": Case("gpt-tiny", partial(models.gpt, width=32, layers=2, heads=2), lr=0.03),
}
TOY = {"digits": Case("digits", small), "batch_norm": Case("digits", partial(small, batch_norm=True))}


def data_of(case: Case) -> tuple[TensorDataset, dict[str, int]]:
    """The training data and the shape of the inputs."""
    data = tasks.get(case.task).load(None)
    x = data.x_train
    if x.dim() == 2:
        return TensorDataset(x, data.y_train), {"vocabulary": int(data.classes), "context": x.shape[1]}
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    shape = {"in_channels": x.shape[1], "image_size": x.shape[-1], "classes": int(data.classes)}
    return TensorDataset(x, data.y_train), shape


class Training:
    """A network, its optimizer and loss, and one epoch after the other of batches in micro-batches."""

    def __init__(self, case: Case, model: nn.Module, loader: ab.DataLoader, *, lr: float) -> None:
        self.case, self.model, self.loader = case, model, loader
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        with self.case.forward():
            return nn.functional.cross_entropy(self.model(inputs), targets)

    def updates(self) -> Iterator[int]:
        """Trains; yields after each update its number, from 1."""
        done = 0
        while True:
            for micro in ab.accumulate(self.loader, self.model):
                with micro as (inputs, targets):
                    (self.loss(inputs, targets) * micro.weight).backward()  # type: ignore[no-untyped-call]
                if micro.is_last:
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                    done += 1
                    yield done


def train_for(case: Case, model: nn.Module, data: TensorDataset, updates: int, *, seed: int = 0) -> nn.Module:
    """The network after some updates."""
    loader = ab.DataLoader(data, batch_size=BATCH, shuffle=True, seed=seed, drop_last=True)
    for done in Training(case, model, loader, lr=case.lr).updates():
        if done >= updates:
            break
    return model


def truth(case: Case, model: nn.Module, data: TensorDataset, size: int, *, samples: int | None = None) -> float:
    """The noise scale of the network's present weights over the training samples, from parts of a size.

    Args:
        case: the case.
        model: the network; a copy of it is used.
        data: the training data.
        size: samples in a part.
        samples: how many are used; None for all.
    """
    model = copy.deepcopy(model)
    training = Training(case, model, ab.DataLoader(data, batch_size=size), lr=0.0)
    parameters, squares, counts = [*model.parameters()], [], []
    total = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    most = min(len(data), samples or len(data))
    for turn in range(case.passes):
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(turn))[:most]
        for chosen in torch.split(order, size):
            if len(chosen) < size:
                continue
            loss = training.loss(*(column[chosen] for column in data.tensors))
            gradient = torch.autograd.grad(loss, parameters)
            squares.append(sum(float(each.double().square().sum()) for each in gradient))
            counts.append(size)
            for kept, each in zip(total, gradient, strict=True):
                kept += each
    whole = sum(float((each / len(squares)).square().sum()) for each in total)
    trace, _ = trace_and_signal(parts(counts, squares), whole)
    return trace / whole  # the samples are all there are, so the square of their mean is no estimate


def held(case: Case, data: TensorDataset, shape: dict[str, int], *, after: int, trials: int, updates: int) -> Any:
    """Estimates at fixed weights, for each way: those of all trials, and the truth."""
    torch.manual_seed(0)
    model = train_for(case, case.make(**shape), data, after)
    found: dict[str, Any] = {}
    for way, micro in WAYS.items():
        true = truth(case, model, data, micro or BATCH // 2)
        estimates = []
        for trial in range(trials):
            loader = ab.DataLoader(data, batch_size=BATCH, shuffle=True, seed=1000 + trial, drop_last=True,
                                   micro_batch_size=micro)  # fmt: skip
            training = Training(case, copy.deepcopy(model), loader, lr=0.0)
            noise = ab.noise.tap(training.model, training.optimizer, loader, every=1, half_life=1e12)
            for done in training.updates():
                if done >= updates:
                    break
            estimates.append(noise.estimate())
            noise.close()
        found[way] = {"truth": true, **judged([(true, each) for each in estimates if each is not None])}
    return found


def followed(
    case: Case, data: TensorDataset, shape: dict[str, int], *, independent: bool, seeds: int, marks: list[int]
) -> Any:
    """Estimates in training against the truth of the moment, from a tap with its defaults."""
    pairs: list[tuple[float, NoiseEstimate]] = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = case.make(**shape)
        sampler = RandomSampler(data, replacement=True, generator=torch.Generator().manual_seed(seed))
        order: dict[str, Any] = {"sampler": sampler} if independent else {"shuffle": True, "seed": seed}
        loader = ab.DataLoader(data, batch_size=BATCH, drop_last=True, **order)
        training = Training(case, model, loader, lr=case.lr)
        noise = ab.noise.tap(model, training.optimizer, loader)
        for done in training.updates():
            if done in marks:
                estimate = noise.estimate()
                assert estimate is not None
                pairs.append((truth(case, model, data, BATCH // 2, samples=16_384), estimate))
            if done >= marks[-1]:
                break
        noise.close()
    return judged(pairs)


def judged(pairs: list[tuple[float, NoiseEstimate]]) -> dict[str, Any]:
    """Errors and coverage of estimates, each with its truth."""
    ratios = [found.noise_scale / true for true, found in pairs]
    wide = [found.low <= true <= found.high for true, found in pairs]
    narrow = [found.low * EPOCHS <= true <= found.high / EPOCHS for true, found in pairs]
    return {
        "n": len(pairs),
        "median_error": statistics.median(abs(ratio - 1) for ratio in ratios),
        "median_ratio": statistics.median(ratios),
        "covers": statistics.fmean(wide),
        "covers_before_widening": statistics.fmean(narrow),
        "without_upper_end": statistics.fmean(math.isinf(found.high) for _, found in pairs),
        "ratios": ratios,
    }


def cost(case: Case, data: TensorDataset, shape: dict[str, int], *, micro: int | None, rounds: int) -> Any:
    """Trainings with a tap against trainings without, in seconds, for the ways that are recommended and one more."""

    def make(every: int | None) -> Callable[[], None]:
        torch.manual_seed(0)
        loader = ab.DataLoader(data, batch_size=BATCH, shuffle=True, seed=0, drop_last=True, micro_batch_size=micro)
        training = Training(case, case.make(**shape), loader, lr=case.lr)
        kept = [] if every is None else [ab.noise.tap(training.model, training.optimizer, loader, every=every)]
        updates = training.updates()

        def run() -> None:
            for _ in range(40):
                next(updates)
            for each in kept:
                each.estimate()

        return run

    found = {"every 10th": at_most(compare(lambda: make(10), lambda: make(None), rounds=rounds), BOUND)}
    if micro is not None:
        found["every one"] = compare(lambda: make(1), lambda: make(None), rounds=rounds)
    return found


def measured(name: str, case: Case, settings: dict[str, Any], *, rounds: int) -> Any:
    """Everything about one case."""
    data, shape = data_of(case)
    seeds, trials = settings["seeds"], settings["trials"]

    def at(after: int) -> Any:
        print(f"{name}: held after {after:,} updates", file=sys.stderr, flush=True)
        return held(case, data, shape, after=after, trials=trials, updates=settings["updates"])

    def along(*, independent: bool) -> Any:
        print(f"{name}: in training, {'independent' if independent else 'by epochs'}", file=sys.stderr, flush=True)
        return followed(case, data, shape, independent=independent, seeds=seeds, marks=settings["marks"])

    return {
        "held": {str(after): at(after) for after in settings["after"]},
        "training": {"by epochs": along(independent=False), "independent": along(independent=True)},
        "cost": {way: cost(case, data, shape, micro=micro, rounds=rounds) for way, micro in WAYS.items()},
    }


def kept(file: Path | None, settings: dict[str, Any], make: Callable[[], Any]) -> Any:
    """What a file holds of the same settings; else what `make` gives, which the file keeps."""
    if file is not None and file.exists():
        there = json.loads(file.read_text())
        if there["settings"] == settings:
            return there["result"]
    result = make()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"settings": settings, "result": result}))
    return result


def main() -> None:
    """Measures all and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--toy", action="store_true", help="two small cases, to see that it runs")
    parser.add_argument("--runs", type=Path, help="a folder that keeps each case, where the same command goes on")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/noise.json"))
    options = parser.parse_args()
    cases = TOY if options.toy else CASES
    wanted = [name for name in options.cases.split(",") if name] or list(cases)
    if unknown := set(wanted) - set(cases):
        parser.error(f"--cases must be among {', '.join(cases)}, got {', '.join(sorted(unknown))}")
    environment = begin(options.out)
    settings: dict[str, Any] = {
        "batch_size": BATCH,
        "updates": 20 if options.toy else UPDATES,
        "after": [5] if options.toy else list(HELD_AFTER),
        "marks": [20] if options.toy else list(range(150, 1051, 150)),
        "trials": options.trials,
        "seeds": options.seeds,
    }
    results = {}
    for name in wanted:
        file = None if options.runs is None else options.runs / f"{name}.json"
        results[name] = kept(file, settings, partial(measured, name, cases[name], settings, rounds=options.rounds))
    write(options.out, "noise", environment, {**settings, "bound": BOUND, "margin": EPOCHS, "cases": results})


if __name__ == "__main__":
    main()
