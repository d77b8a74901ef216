"""Micro-batches: is what `probe` calls fastest the fastest, and does a huge batch fit.

python benchmarks/micro_batches.py [--device cpu|cuda] [--maximum 64] [--rounds 15] [--networks small_cnn,resnet20]

For each network `probe` picks a micro-batch size; then every size it measured is timed again and again, in turns, on
the same step. The bound: the pick is at most 3 % slower per sample than the best of that sweep. A batch of 524,288
samples runs as 4,096 micro-batches of 128, and its peak memory is told against that of a batch of one micro-batch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from paired import seconds, write
from torch import nn
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch import models
from adabatch.memory import tune_allocator
from adabatch.study.statistics import paired_ratio

BOUND = 1.03
SHAPES: dict[str, dict[str, int]] = {
    "small_cnn": {"in_channels": 3, "classes": 10, "image_size": 32},
    "resnet20": {"in_channels": 3, "classes": 10, "image_size": 32},
    "vgg19_bn": {"in_channels": 3, "classes": 10, "image_size": 32},
}
HUGE = """
import sys, torch, adabatch as ab
from torch.utils.data import TensorDataset
torch.set_num_threads(1)
def peak():  # of this process alone, unlike getrusage
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
count, micro = int(sys.argv[1]), 128
data = TensorDataset(torch.zeros(4096 * micro, 16), torch.zeros(4096 * micro, 1))
model = torch.nn.Linear(16, 1)
loader = ab.DataLoader(data, batch_size=count * micro, shuffle=True, seed=0, micro_batch_size=micro)
before, parts = peak(), 0
for part in ab.accumulate(loader, model):
    with part as (x, y):
        (torch.nn.functional.mse_loss(model(x), y) * part.weight).backward()
    parts += 1
    if part.is_last:
        break
print(parts, peak() - before)
"""


def step_of(name: str, device: str) -> tuple[nn.Module, Callable[[Any], None], ab.DataLoader]:
    """A network, a forward and backward pass of it, and a loader of random images."""
    torch.manual_seed(0)
    shape = SHAPES[name]
    model, loss_fn = models.build(name, **shape).to(device), nn.CrossEntropyLoss()
    x = torch.randn(2048, shape["in_channels"], shape["image_size"], shape["image_size"], device=device)
    data = TensorDataset(x, torch.randint(shape["classes"], (2048,), device=device))

    def step(batch: Any) -> None:
        loss_fn(model(batch[0]), batch[1]).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return model, step, ab.DataLoader(data, batch_size=64, seed=0)


def sweep(name: str, device: str, maximum: int, rounds: int) -> dict[str, Any]:
    """What `probe` picks against the best of all sizes, timed in turns."""
    model, step, loader = step_of(name, device)
    curve = ab.probe(step, loader, model, torch.optim.SGD(model.parameters(), lr=0.1), maximum=maximum)
    dataset: Any = loader.dataset
    batches = {p.micro_batch_size: [t[: p.micro_batch_size] for t in dataset.tensors] for p in curve.points}
    samples = max(batches)
    times: dict[int, list[float]] = {size: [] for size in batches}
    for turn in range(rounds + 1):
        for size in list(batches)[:: -1 if turn % 2 else 1]:

            def run(size: int = size) -> None:
                for _ in range(samples // size):
                    step(batches[size])
                    model.zero_grad()

            times[size].append(seconds(run))
    medians = {size: statistics.median(values[1:]) for size, values in times.items()}
    best = min(medians, key=lambda size: medians[size])
    ratio = paired_ratio(times[curve.fastest][1:], times[best][1:])
    return {
        "picked": curve.fastest,
        "best_of_the_sweep": best,
        "largest": curve.largest,
        "slower_than_best": {"median": ratio.median, "low": ratio.low, "high": ratio.high},
        "bound": BOUND,
        "holds": ratio.median is not None and ratio.median <= BOUND,
        "seconds_per_sample": {size: median / samples for size, median in medians.items()},
        "probe": curve.to_json(),
    }


def huge() -> dict[str, Any]:
    """Peak memory that a batch adds, of 4,096 micro-batches and of one."""
    found = {}
    for count in (1, 64, 4096):
        done = subprocess.run([sys.executable, "-c", HUGE, str(count)], capture_output=True, text=True, check=True)
        parts, extra = map(int, done.stdout.split())
        found[f"{count} micro-batches of 128"] = {"ran": parts, "added_peak_bytes": extra}
    return found


def main() -> None:
    """Measures all and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--maximum", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", default="small_cnn,resnet20")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/micro_batches.json"))
    options = parser.parse_args()
    tune_allocator()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ADABATCH_CACHE"] = folder  # measured now, not remembered
        results = {
            name: sweep(name, options.device, options.maximum, options.rounds) for name in options.networks.split(",")
        }
    write(options.out, "micro_batches", {"rounds": options.rounds, "networks": results, "huge": huge()})


if __name__ == "__main__":
    main()
