"""What the library costs: our loop at a constant batch size against the same loop by hand over tensor slices.

Small CNN, digits' shapes. Ours is the plain loop of the README: `ab.DataLoader`, `ab.BatchSizeScheduler` with a
constant schedule under the linear coupling, `batches.step()` after each update. The hand-written one draws a
permutation and indexes the tensors. Bound: the upper end of the ratio's 95 % interval is at most 1.05 at batch 16 and
1.02 at batch 128.

    python benchmarks/loop.py --out benchmarks/results/loop.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from paired import at_most, begin, compare, write
from torch import nn

import adabatch as ab
from adabatch.lab.models import build

SAMPLES = 1_437
BOUNDS = {16: 1.05, 128: 1.02}


def setting() -> tuple[torch.Tensor, torch.Tensor, nn.Module, torch.optim.Optimizer]:
    """Data, model and optimizer, the same at every call."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(SAMPLES, 1, 8, 8), torch.randint(10, (SAMPLES,))
    model = build("small_cnn", in_channels=1, image_size=8, classes=10)
    return inputs, targets, model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def by_hand(batch_size: int, epochs: int) -> Callable[[], None]:
    """The loop that a user would write over tensors."""
    inputs, targets, model, optimizer = setting()
    loss_fn = nn.CrossEntropyLoss()

    def run() -> None:
        for _ in range(epochs):
            order = torch.randperm(SAMPLES)
            for start in range(0, SAMPLES, batch_size):
                chosen = order[start : start + batch_size]
                optimizer.zero_grad()
                loss_fn(model(inputs[chosen]), targets[chosen]).backward()
                optimizer.step()

    return run


def by_library(batch_size: int, epochs: int) -> Callable[[], None]:
    """The same loop with the library's loader, scheduler and coupling."""
    inputs, targets, model, optimizer = setting()
    loss_fn = nn.CrossEntropyLoss()
    loader = ab.DataLoader(torch.utils.data.TensorDataset(inputs, targets), batch_size=batch_size, shuffle=True, seed=0)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant(), coupling="linear")

    def run() -> None:
        for _ in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                optimizer.step()
                batches.step()

    return run


def main() -> None:
    """Times both at each batch size and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/loop.json"))
    options = parser.parse_args()
    environment = begin(options.out)
    results = {}
    for batch_size, bound in BOUNDS.items():
        epochs = max(1, batch_size // 16)
        ours, theirs = partial(by_library, batch_size, epochs), partial(by_hand, batch_size, epochs)
        found = compare(ours, theirs, rounds=options.rounds)
        results[str(batch_size)] = {"epochs_per_timing": epochs, **at_most(found, bound)}
    write(options.out, "loop", environment, {"samples": SAMPLES, "batch_sizes": results})


if __name__ == "__main__":
    main()
