"""Ghost batch norm against ordinary batch norm: forward and backward at batch 1024, ghost 128, layer by layer.

python benchmarks/ghost_norm.py [--pairs 20] [--device cpu|cuda]

A ratio above 1 means that ghost batch norm is slower. The bound is on the layers of ResNet-20 in contiguous memory,
where a view serves. `channels_last`, in which `adabatch train` has the ResNets on a CPU by default, is told beside it
without a bound: no view makes sub-batches channels there, so on a CPU each sub-batch has a call of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from paired import compare, write
from torch import nn

from adabatch.memory import tune_allocator
from adabatch.norm import ghost

BATCH, SIZE, BOUND = 1024, 128, 1.10
SHAPES = ((16, 32), (32, 16), (64, 8))  # channels, height and width of ResNet-20's stages
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def step(layer: nn.Module, x: torch.Tensor, out: torch.Tensor) -> Callable[[], None]:
    """Forward and backward of one layer."""

    def run() -> None:
        x.grad = None
        layer(x).backward(out)
        if x.is_cuda:
            torch.cuda.synchronize()

    return run


def main() -> None:
    """Times each layer and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ghost_norm.json"))
    options = parser.parse_args()
    tune_allocator()
    results = {}
    for name, memory_format in FORMATS.items():
        for channels, side in SHAPES:
            x = torch.randn(BATCH, channels, side, side, device=options.device)
            x = x.contiguous(memory_format=memory_format).requires_grad_()
            out = torch.randn_like(x)
            layers = [nn.BatchNorm2d(channels), ghost(nn.BatchNorm2d(channels), size=SIZE)]
            plain, mine = (step(layer.to(options.device), x, out) for layer in layers)
            found = compare(mine, plain, pairs=options.pairs)
            holds = {"bound": BOUND, "holds": found["ratio"]["high"] <= BOUND} if name == "contiguous" else {}
            results[f"{channels}x{side}x{side} {name}"] = {**found, **holds}
    write(options.out, "ghost_norm", {"batch": BATCH, "size": SIZE, "layers": results})


if __name__ == "__main__":
    main()
