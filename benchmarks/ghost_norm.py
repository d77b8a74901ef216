"""Ghost batch norm against ordinary batch norm: forward and backward at batch 1024, ghost 128, layer by layer.

python benchmarks/ghost_norm.py [--rounds 12] [--device cpu|cuda]

A ratio above 1 means that ghost batch norm is slower. The layers are those of ResNet-20, one of each stage and all 19
together, in both memory formats: `adabatch train` has the ResNets in `channels_last` on a CPU by default. All 19 are
also told, without a bound, at a batch that the sub-batches do not divide, with small sub-batches, and in bf16.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from paired import at_most, begin, compare, write
from torch import nn

from adabatch.norm import ghost

BATCH, SIZE, BOUND = 1024, 128, 1.10
STAGES = ((16, 32, 7), (32, 16, 6), (64, 8, 6))  # channels, height and width, and layers of ResNet-20's stages
OTHERS = {
    "batch 1000": (1000, SIZE, torch.float32),
    "ghost 16": (BATCH, 16, torch.float32),
    "bf16": (BATCH, SIZE, torch.bfloat16),
}
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
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ghost_norm.json"))
    options = parser.parse_args()
    environment = begin(options.out, threads=None)
    whole = [layers for *_, layers in STAGES]
    chosen = {
        f"{channels}x{side}x{side}": [int(each == at) for each in range(3)]
        for at, (channels, side, _) in enumerate(STAGES)
    } | {"all 19": whole}

    def measure(name: str, batch: int, size: int, dtype: torch.dtype, counts: list[int], rounds: int) -> dict[str, Any]:
        """Ghost batch norm against ordinary batch norm in a memory format."""
        inputs = [torch.randn(batch, channels, side, side, device=options.device) for channels, side, _ in STAGES]
        inputs = [x.to(dtype).contiguous(memory_format=FORMATS[name]).requires_grad_() for x in inputs]
        plain: list[nn.Module] = [nn.BatchNorm2d(channels, device=options.device) for channels, *_ in STAGES]
        mine = [ghost(copy.deepcopy(layer), size=size) for layer in plain]
        return compare(partial(step, mine, inputs, counts), partial(step, plain, inputs, counts), rounds=rounds)

    results, others = {}, {}
    for name in FORMATS:
        for title, counts in chosen.items():
            found = measure(name, BATCH, SIZE, torch.float32, counts, options.rounds)
            results[f"{title} {name}"] = at_most(found, BOUND)
        for title, settings in OTHERS.items():
            others[f"all 19 {name}, {title}"] = measure(name, *settings, whole, max(options.rounds // 2, 1))
    found = {"batch": BATCH, "size": SIZE, "layers": results, "others": others}
    write(options.out, "ghost_norm", environment, found)


if __name__ == "__main__":
    main()
