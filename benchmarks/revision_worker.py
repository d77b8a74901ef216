"""Times epochs for `revision.py` with whichever adabatch is on the path: a line in, the seconds of one epoch out.

It imports public names alone, so that it runs with older revisions too. Without workers the seconds are
those of the processor, which other processes disturb less. Where memory lies decides over some percent, so the heap is
filled at random first, by a seed.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import adabatch as ab
from adabatch.memory import tune_allocator

SAMPLES = 2_048


class Decoded(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Images of 32 x 32 pixels, one call for each sample."""

    def __init__(self) -> None:
        self.images = torch.randn(4 * SAMPLES, 3, 32, 32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int]:
        return self.images[item], item % 10


def loop(batch_size: int, micro_batch_size: int | None = None) -> Callable[[], None]:
    """The training loop of `loop.py`, or the same with `accumulate`."""
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(SAMPLES, 1, 8, 8), torch.randint(10, (SAMPLES,)))
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), nn.CrossEntropyLoss()
    loader = ab.DataLoader(data, batch_size=batch_size, shuffle=True, seed=0)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant(), coupling="linear")

    def plain() -> None:
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
            batches.step()

    def accumulated() -> None:
        for micro in ab.accumulate(loader, model):
            with micro as (x, y):
                (loss_fn(model(x), y) * micro.weight).backward()
            if micro.is_last:
                optimizer.step()
                optimizer.zero_grad()
                batches.step()

    if micro_batch_size is None:
        return plain
    loader.micro_batch_size = micro_batch_size
    return accumulated


def tensors(batch_size: int) -> Callable[[], None]:
    """An epoch of tensors in memory, as `loader.py` times it."""
    inputs, targets = torch.randn(16_384, 3, 32, 32), torch.randint(10, (16_384,))
    return through(torch.utils.data.TensorDataset(inputs, targets), batch_size)


def through(dataset: Any, batch_size: int, **how: Any) -> Callable[[], None]:
    """One epoch of batches that nothing is done with."""
    loader = ab.DataLoader(dataset, batch_size=batch_size, shuffle=True, seed=0, **how)

    def run() -> None:
        for _ in loader:
            pass

    return run


CASES: dict[str, Callable[[], Callable[[], None]]] = {
    "loop, batch 16": lambda: loop(16),
    "loop, batch 128": lambda: loop(128),
    "loop, batch 128 in micro-batches of 32": lambda: loop(128, 32),
    "tensors, batch 16": lambda: tensors(16),
    "tensors, batch 128": lambda: tensors(128),
    "tensors, batch 1024": lambda: tensors(1024),
    "samples, 0 workers": lambda: through(Decoded(), 128),
    "samples, 2 workers": lambda: through(Decoded(), 128, num_workers=2, persistent_workers=True),
}


def disorder(seed: int) -> list[torch.Tensor]:
    """Tensors of all sizes, to be kept, with holes between them."""
    draw = random.Random(seed)
    made = [torch.empty(int(2 ** draw.uniform(0, 22))) for _ in range(200)]
    return [each for each in made if draw.random() < 0.5]


def main() -> None:
    """Answers each line with the seconds of one epoch of the case that the command line names, after a seed."""
    torch.set_num_threads(1)
    tune_allocator()
    case, kept = sys.argv[1], disorder(int(sys.argv[2]))
    run = CASES[case]()
    run()
    run()
    clock = time.perf_counter if case.endswith("2 workers") else time.process_time
    print("ready", flush=True)
    for _ in sys.stdin:
        gc.collect()
        gc.disable()
        start = clock()
        run()
        seconds = clock() - start
        gc.enable()
        print(seconds, flush=True)
    del kept


if __name__ == "__main__":
    main()
