"""A step of this package's optimizers against torch's, over the parameters of VGG19 with batch norm.

python benchmarks/optimizers.py [--rounds 12] [--device cpu|cuda]

RMSprop warm-up is timed within its transition, where it costs most, against Adam; LARS against SGD with momentum; LAMB
against Adam. torch's have `foreach=True` and the same weight decay. A ratio above 1 means that ours is slower.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from paired import at_most, begin, compare, write

from adabatch.lab import models
from adabatch.optim import LAMB, LARS, RMSpropWarmup

DECAY = 5e-4
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=DECAY, foreach=True)
ADAM = partial(torch.optim.Adam, lr=1e-3, weight_decay=DECAY, foreach=True)
CASES: dict[str, tuple[Callable[..., torch.optim.Optimizer], Callable[..., torch.optim.Optimizer], float]] = {
    "RMSpropWarmup against Adam": (partial(RMSpropWarmup, lr=0.1, weight_decay=DECAY, epochs=lambda: 5.0), ADAM, 1.15),
    "LARS against SGD": (partial(LARS, lr=0.1, weight_decay=DECAY), SGD, 2.0),
    "LAMB against Adam": (partial(LAMB, weight_decay=DECAY), ADAM, 2.0),
}


def steps(make: Callable[..., torch.optim.Optimizer], device: str, count: int) -> Callable[[], None]:
    """Some steps of an optimizer over a network's parameters, with gradients drawn once."""
    model = models.build("vgg19_bn", in_channels=3, image_size=32, classes=10).to(device)
    for value in model.parameters():
        value.grad = torch.randn_like(value) * 1e-4
    optimizer = make(model.parameters())

    def run() -> None:
        for _ in range(count):
            optimizer.step()
        if device != "cpu":
            torch.accelerator.synchronize()

    return run


def main() -> None:
    """Times each pair and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=3, help="timed at once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/optimizers.json"))
    options = parser.parse_args()
    environment = begin(options.out)
    found: dict[str, Any] = {}
    for name, (ours, theirs, bound) in CASES.items():
        make = partial(steps, device=options.device, count=options.steps)
        found[name] = at_most(compare(partial(make, ours), partial(make, theirs), rounds=options.rounds), bound)
        print(name, found[name]["ratio"], flush=True)
    write(options.out, "optimizers", environment, {"parameters": "VGG19_BN", "cases": found})


if __name__ == "__main__":
    main()
