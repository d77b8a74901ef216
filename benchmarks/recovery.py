"""The price of being able to repeat a batch that ran out of memory, and that of repeating one.

python benchmarks/recovery.py [--rounds 8] [--batch 64]

Without a failure: epochs of `accumulate(..., recover=True)` against `recover=False`, in one process and in two over
gloo, where gradients are averaged after a vote instead of during the backward pass. With one: a batch whose first
micro-batch fails after its forward pass, repeated in halves, against the same batch begun in halves.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from paired import begin, compare, write
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch.lab import models
from adabatch.memory import tune_allocator

BATCHES = 4
PAIRS = 2  # of a round


class Limited(nn.Module):
    """A network that runs out of memory above `fits` samples, after its forward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.fits = network, 2**30

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fails after the pass, when all that it touches is touched."""
        out: torch.Tensor = self.network(x)
        if len(x) > self.fits:
            raise torch.OutOfMemoryError("out of memory, as a device would say it")
        return out


def network() -> nn.Module:
    """ResNet-20 for CIFAR-10."""
    torch.manual_seed(0)
    return models.build("resnet20", in_channels=3, classes=10, image_size=32)


def images(count: int) -> TensorDataset:
    """Random ones."""
    return TensorDataset(torch.randn(count, 3, 32, 32), torch.randint(10, (count,)))


def epoch(model: nn.Module, data: TensorDataset, *, batch: int, micro: int, recover: bool) -> Callable[[], None]:
    """One epoch, without an optimizer step."""
    loss_fn = nn.CrossEntropyLoss()

    def run() -> None:
        loader = ab.DataLoader(data, batch_size=batch, seed=0, micro_batch_size=micro)
        for part in ab.accumulate(loader, model, recover=recover):
            with part as (x, y):
                (loss_fn(model(x), y) * part.weight).backward()
            if part.is_last:
                model.zero_grad()

    return run


def pair(model: nn.Module, *, batch: int, micro: int, rounds: int) -> dict[str, Any]:
    """Epochs that may recover against epochs that may not."""
    data = images(BATCHES * batch)
    ours, theirs = (partial(epoch, model, data, batch=batch, micro=micro, recover=recover) for recover in (True, False))
    return compare(ours, theirs, rounds=rounds, pairs=PAIRS)


def failing(batch: int, rounds: int) -> dict[str, Any]:
    """An epoch of one batch that fails in one micro-batch of `batch / 2`, against one begun with `batch / 4`."""
    model, data = Limited(network()), images(batch)

    def failed() -> None:
        model.fits = batch // 4
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            epoch(model, data, batch=batch, micro=batch // 2, recover=True)()

    def halved() -> None:
        model.fits = batch
        epoch(model, data, batch=batch, micro=batch // 4, recover=True)()

    return compare(lambda: failed, lambda: halved, rounds=rounds, pairs=PAIRS)


def on_each_rank(rank: int, world: int, folder: str, batch: int, rounds: int) -> None:
    """Both ways under DDP; rank 0 writes the result."""
    torch.set_num_threads(1)
    tune_allocator()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found = {}
    for micro in (batch // 2, batch // 8):
        model = DistributedDataParallel(network())
        found[f"{batch // 2 // micro} micro-batches"] = pair(model, batch=batch, micro=micro, rounds=rounds)
        del model
    if rank == 0:
        Path(folder, "result.json").write_text(json.dumps(found))
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()
    gc.collect()
    os._exit(0)


def main() -> None:
    """Times all and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recovery.json"))
    options = parser.parse_args()
    environment = begin(options.out)
    batch, rounds = options.batch, options.rounds
    alone = {
        f"{count} micro-batches": pair(network(), batch=batch, micro=batch // count, rounds=rounds) for count in (1, 4)
    }
    with tempfile.TemporaryDirectory() as folder:
        spawn(on_each_rank, args=(2, folder, batch, rounds), nprocs=2)  # type: ignore[no-untyped-call]
        ranks = json.loads(Path(folder, "result.json").read_text())
    results = {"one process": alone, "two ranks over gloo": ranks, "a failure": failing(batch, rounds)}
    found = {"network": "resnet20", "batch": batch, "updates": BATCHES, **results}
    write(options.out, "recovery", environment, found)


if __name__ == "__main__":
    main()
