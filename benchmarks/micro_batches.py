"""Micro-batches: is what `ab.profile_step` calls fastest the fastest, and does a huge batch fit.

python benchmarks/micro_batches.py [--device cpu|cuda] [--maximum 64] [--rounds 15] [--networks small_cnn,resnet20]

For each network `ab.profile_step` picks a micro-batch size; then every size it measured is timed anew, in turns, with
the network made anew for each turn. The bound: against each other size the upper end of the ratio's 95 % interval says
that the pick takes at most 3 % more time per sample. A batch of 524,288 samples runs as 4,096 micro-batches of 128, and
its peak memory is told against that of a batch of one micro-batch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from paired import at_most, begin, middle, seconds, told, write
from torch import nn
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch.lab import models

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


def passes(model: nn.Module, step: Callable[[Any], None], batch: list[torch.Tensor], count: int) -> None:
    """A few steps in a row."""
    for _ in range(count):
        step(batch)
        model.zero_grad()


def sweep(name: str, device: str, maximum: int, rounds: int) -> dict[str, Any]:
    """What `ab.profile_step` picks against each other size, timed in turns; each turn is a round of one timing."""
    model, step, loader = step_of(name, device)
    profile = ab.profile_step(step, loader, model, torch.optim.SGD(model.parameters(), lr=0.1), maximum=maximum)
    sizes = [point.micro_batch_size for point in profile.points]
    times: dict[int, list[list[float]]] = {size: [] for size in sizes}
    for turn in range(rounds):
        model, step, loader = step_of(name, device)
        dataset: Any = loader.dataset
        for size in sizes[:: -1 if turn % 2 else 1]:
            batch = [tensor[:size] for tensor in dataset.tensors]

            run = partial(passes, model, step, batch, max(sizes) // size)
            run()
            times[size].append([seconds(run)])
    best = profile.fastest
    against = {size: at_most(told(times[best], times[size]), BOUND) for size in sizes if size != best}
    return {
        "picked": profile.fastest,
        "largest": profile.largest,
        "pick_against": against,
        "bound": BOUND,
        "holds": bool(against) and all(found["holds"] for found in against.values()),
        "seconds_per_sample": {size: middle(values) / max(sizes) for size, values in times.items()},
        "probe": profile.to_json(),
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
    environment = begin(options.out)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ADABATCH_CACHE"] = folder  # measured now, not remembered
        results = {
            name: sweep(name, options.device, options.maximum, options.rounds) for name in options.networks.split(",")
        }
    found = {"rounds": options.rounds, "networks": results, "huge": huge()}
    write(options.out, "micro_batches", environment, found)


if __name__ == "__main__":
    main()
