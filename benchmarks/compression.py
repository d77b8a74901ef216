"""Gradients in 16 bits between two processes: bytes and seconds of an update with `compress` against whole ones.

AlexNet for CIFAR-10's shapes under DistributedDataParallel, two ranks over gloo on this machine, where bytes are cheap:
a network between machines gains more. `ab.accumulate` trains a few updates of random images, with and without
`compress` in turns, the model made anew for each round. Told are rank 0's seconds in an update, of averaging gradients
alone and of the whole update, as ratios of compressed over whole (below 1: compressed is faster). There is no bound.

    python benchmarks/compression.py --out benchmarks/results/compression.json
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from paired import begin, compare, middle, seconds, write
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch import _distributed
from adabatch.lab import models
from adabatch.memory import tune_allocator

RANKS, UPDATES = 2, 5
KINDS = ("bf16", "fp16")


def training(kind: Any, batch_size: int) -> Callable[[], None]:
    """A few updates, made anew."""
    torch.manual_seed(0)
    model = DistributedDataParallel(models.build("alexnet", in_channels=3, image_size=32, classes=10))
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), nn.CrossEntropyLoss()
    count = UPDATES * batch_size
    data = TensorDataset(torch.randn(count, 3, 32, 32), torch.randint(10, (count,)))
    loader = ab.DataLoader(data, batch_size=batch_size, shuffle=True, seed=0)

    def run() -> None:
        for micro in ab.accumulate(loader, model, compress=kind):
            with micro as (inputs, targets):
                (loss_fn(model(inputs), targets) * micro.weight).backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def of_averaging(run: Callable[[], None]) -> float:
    """Seconds in which this rank averaged gradients."""
    before = _distributed.traffic().seconds
    seconds(run)
    return _distributed.traffic().seconds - before


def sent(kind: Any, batch_size: int) -> int:
    """Bytes of gradients in an update."""
    run, before = training(kind, batch_size), _distributed.traffic().bytes
    run()
    return (_distributed.traffic().bytes - before) // UPDATES


def measure(rank: int, options: argparse.Namespace, folder: str) -> None:
    """Times all on one rank; rank 0 writes what it found."""
    torch.set_num_threads(1)
    tune_allocator()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    found: dict[str, Any] = {"bytes": {str(kind): sent(kind, options.batch_size) for kind in (None, *KINDS)}}
    for kind in KINDS:
        both = partial(training, kind, options.batch_size), partial(training, None, options.batch_size)
        for name, timed in (("averaging", of_averaging), ("update", seconds)):
            ratios = compare(*both, rounds=options.rounds, pairs=options.pairs, timed=timed)
            ratios["seconds_of_an_update"] = {
                side: middle(ratios[f"{side}_seconds"]) / UPDATES for side in ("ours", "theirs")
            }
            found.setdefault(kind, {})[name] = ratios
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.barrier()
    gc.collect()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may abort an interpreter that finalizes


def main() -> None:
    """Measures both kinds and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/compression.json"))
    options = parser.parse_args()
    environment = begin(options.out)
    with tempfile.TemporaryDirectory() as folder:
        spawn(measure, args=(options, folder), nprocs=RANKS)  # type: ignore[no-untyped-call]
        found = json.loads(Path(folder, "found.json").read_text())
    write(options.out, "compression", environment, {"ranks": RANKS, "batch_size": options.batch_size, **found})


if __name__ == "__main__":
    main()
