"""What `--channels-last`, `--precision bf16` and `--compile` bring on this machine: the same training with and without.

AlexNet and ResNet-20 on CIFAR-10's shapes at a constant batch, on random pixels, each option against float32 in
contiguous memory without compilation, in turns in one process; and ResNet-20 with ghost batch norm in both memory
formats. Ratios are samples per second with the option divided by without (above 1: it is faster). Compilation comes
before the first update and is not part of it. Nothing is bounded: what is faster depends on the processor, and what
`adabatch train` does if nothing is said follows the result.

    python benchmarks/options.py --out benchmarks/results/options.json
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from paired import begin, trainings, write
from throughput import data

from adabatch.lab.tasks import Data
from adabatch.lab.training import RunConfig, train

PLAIN: dict[str, Any] = {"channels_last": False, "precision": "float32", "compile": False}
GHOST = PLAIN | {"ghost_batch_size": 128}
CASES: dict[str, tuple[str, int, dict[str, Any], dict[str, Any]]] = {
    f"{model}, batch {size}, {name}": (model, size, PLAIN, PLAIN | option)
    for model in ("alexnet", "resnet20")
    for size in (128, 512)
    for name, option in (
        ("channels_last", {"channels_last": True}),
        ("bf16", {"precision": "bf16"}),
        ("compile", {"compile": True}),
    )
} | {"resnet20, batch 512, ghost 128, channels_last": ("resnet20", 512, GHOST, GHOST | {"channels_last": True})}


def measure(case: str, found: Data, *, pairs: int, device: str, threads: int) -> dict[str, Any]:
    """Without and with, in turns."""
    model, size, without, option = CASES[case]
    base = RunConfig(task="cifar10", model=model, batch_size=size, lr=0.001, epochs=1, device=device, threads=threads)
    plain, changed = (partial(seconds_of, replace(base, **settings), data=found) for settings in (without, option))
    result = trainings(changed, plain, pairs=pairs)
    print(case, result["ratio"], flush=True)
    return result


def seconds_of(config: RunConfig, *, data: Data) -> float:
    """Seconds of one training."""
    return train(config, data=data).train_seconds


def main() -> None:
    """Measures every case and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--samples", type=int, default=1_024)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/options.json"))
    options = parser.parse_args()
    environment = begin(options.out, threads=options.threads)
    torch.manual_seed(0)
    found = data(options.samples)
    ratios = {
        case: measure(case, found, pairs=options.pairs, device=options.device, threads=options.threads)
        for case in CASES
    }
    write(options.out, "options", environment, {"samples": options.samples, "device": options.device, "ratios": ratios})


if __name__ == "__main__":
    main()
