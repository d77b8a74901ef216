"""Ghost batch norm against ordinary batch norm: forward and backward at batch 1024, ghost 128, layer by layer.

python benchmarks/ghost_norm.py [--pairs 40] [--device cpu|cuda]

A ratio above 1 means that ghost batch norm is slower. The layers are those of ResNet-20, one of each stage and all 19
together, in both memory formats: `adabatch train` has the ResNets in `channels_last` on a CPU by default.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import torch
from paired import compare, write
from torch import nn

from adabatch.memory import tune_allocator
from adabatch.norm import ghost

BATCH, SIZE, BOUND = 1024, 128, 1.10
STAGES = ((16, 32, 7), (32, 16, 6), (64, 8, 6))  # channels, height and width, and layers of ResNet-20's stages
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def step(layers: list[nn.Module], inputs: list[torch.Tensor], counts: list[int]) -> Callable[[], None]:
    """Forward and backward of the layers, each as often as its count."""
    gradients = [torch.randn_like(x) for x in inputs]

    def run() -> None:
        for layer, x, gradient, count in zip(layers, inputs, gradients, counts, strict=True):
            for _ in range(count):
                x.grad = None
                layer(x).backward(gradient)
        if inputs[0].is_cuda:
            torch.cuda.synchronize()

    return run


def main() -> None:
    """Times each layer, all of them, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ghost_norm.json"))
    options = parser.parse_args()
    tune_allocator()
    results = {}
    for name, memory_format in FORMATS.items():
        inputs = [torch.randn(BATCH, channels, side, side, device=options.device) for channels, side, _ in STAGES]
        inputs = [x.contiguous(memory_format=memory_format).requires_grad_() for x in inputs]
        plain = [nn.BatchNorm2d(channels, device=options.device) for channels, *_ in STAGES]
        mine = [ghost(copy.deepcopy(layer), size=SIZE) for layer in plain]
        chosen = {
            f"{channels}x{side}x{side}": [int(each == at) for each in range(3)]
            for at, (channels, side, _) in enumerate(STAGES)
        }
        chosen["all 19"] = [layers for *_, layers in STAGES]
        for title, counts in chosen.items():
            found = compare(step(mine, inputs, counts), step(plain, inputs, counts), pairs=options.pairs)
            holds = {"bound": BOUND, "holds": found["ratio"]["high"] <= BOUND}
            results[f"{title} {name}"] = {**found, **holds}
    write(options.out, "ghost_norm", {"batch": BATCH, "size": SIZE, "layers": results})


if __name__ == "__main__":
    main()
