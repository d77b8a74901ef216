"""What the library costs on two processes: our loop at a constant batch size against the same loop by hand.

Two gloo processes with one thread each, under DistributedDataParallel and under `fully_shard`. By hand: torch's
DataLoader over a DistributedSampler, which fetches whole batches. Ours: `ab.DataLoader` and `ab.BatchSizeScheduler`
with a constant schedule under the linear coupling; once as a plain loop, once with `ab.accumulate`, by which ranks vote
before they reduce. Seconds are the slower process's. Bound: the upper end of the ratio's 95 % interval is at most 1.02.

    python benchmarks/distributed.py --out benchmarks/results/distributed.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from paired import at_most, begin, compare, write
from processes import CPU, joined, slowest
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import adabatch as ab
from adabatch import _distributed
from adabatch.lab import models

BOUND = 1.02
SHAPES: dict[str, dict[str, int]] = {
    "small_cnn": {"in_channels": 1, "image_size": 8, "classes": 10},
    "alexnet": {"in_channels": 3, "image_size": 32, "classes": 10},
}
Loop = Callable[[], None]


def setting(name: str, samples: int, *, fsdp: bool) -> tuple[TensorDataset, nn.Module, torch.optim.Optimizer]:
    """Data, wrapped model and optimizer, the same at every call."""
    torch.manual_seed(0)
    shape = SHAPES[name]
    inputs = torch.randn(samples, shape["in_channels"], shape["image_size"], shape["image_size"])
    data = TensorDataset(inputs, torch.randint(10, (samples,)))
    model: nn.Module = models.build(name, **shape)
    if fsdp:
        _distributed.shard(model, CPU)
    else:
        model = DistributedDataParallel(model)
    return data, model, torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)


def by_hand(name: str, samples: int, batch_size: int, *, fsdp: bool) -> Loop:
    """The loop that a user would write."""
    data, model, optimizer = setting(name, samples, fsdp=fsdp)
    sampler: DistributedSampler[Any] = DistributedSampler(data, drop_last=True)
    share = batch_size // _distributed.rank_and_world()[1]
    loader = DataLoader(data, batch_size=None, sampler=BatchSampler(sampler, share, drop_last=True))
    loss_fn, epochs = nn.CrossEntropyLoss(), iter(range(2**31))

    def run() -> None:
        sampler.set_epoch(next(epochs))
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()

    return run


def by_library(name: str, samples: int, batch_size: int, *, fsdp: bool, accumulate: bool) -> Loop:
    """The same loop with the library's loader, scheduler and coupling."""
    data, model, optimizer = setting(name, samples, fsdp=fsdp)
    loader = ab.DataLoader(data, batch_size=batch_size, shuffle=True, seed=0, drop_last=True)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant(), coupling="linear")
    loss_fn = nn.CrossEntropyLoss()

    def run() -> None:
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
            batches.step()

    def run_in_micro_batches() -> None:
        for micro in ab.accumulate(loader, model):
            optimizer.zero_grad()
            with micro as (x, y):
                (loss_fn(model(x), y) * micro.weight).backward()
            optimizer.step()
            batches.step()

    return run_in_micro_batches if accumulate else run


def main() -> None:
    """Times all kinds and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1_024)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--networks", default=",".join(SHAPES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/distributed.json"))
    options = parser.parse_args()
    with joined(__file__) as rank:
        environment = begin(options.out)
        ratios = {}
        for name in options.networks.split(","):
            for wrapper in ("DistributedDataParallel", "fully_shard"):
                for loop in ("plain", "accumulate"):
                    how = (name, options.samples, options.batch_size)
                    ours = partial(by_library, *how, fsdp=wrapper == "fully_shard", accumulate=loop == "accumulate")
                    theirs = partial(by_hand, *how, fsdp=wrapper == "fully_shard")
                    found = compare(ours, theirs, rounds=options.rounds, pairs=options.pairs, timed=slowest)
                    ratios[f"{name}, {wrapper}, {loop}"] = at_most(found, BOUND)
                    if rank == 0:
                        print(name, wrapper, loop, found["ratio"], flush=True)
        if rank == 0:
            found = {"processes": 2, "samples": options.samples, "batch_size": options.batch_size}
            write(options.out, "distributed", environment, {**found, "ratios": ratios})


if __name__ == "__main__":
    main()
