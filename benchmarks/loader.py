"""The loader at a constant batch size: against torch's DataLoader, and against slices of tensors.

All ratios are samples per second of ours divided by theirs (above 1: ours is faster), paired in one run. Loaders are
made anew, each in turn first, for every round, since where processes come to run is luck that lasts as long as they do;
the intervals are those of the rounds.

- `torch`: CIFAR-10 images, decoded beforehand or as JPEG bytes decoded for each sample, 0, 2 and 4 workers. Bound: the
  lower end of the interval is at least 0.98 with `sample_rng=False` on decoded images and with `True` on JPEG.
- `tensors`: 50,000 x 3 x 32 x 32 against `x[perm[i:i+B]]`, with 0 and 2 workers asked for. Bound: at least 0.95.
- `sample_rng`: what setting the generators for each sample costs, against `sample_rng=False`.
- `order`: seconds to the first batch and to a batch in the middle of 10^9 samples, and bytes held.
- `micro_batches`: peak memory while a batch of 64 micro-batches streams through, in micro-batches, and an accumulation
  of 4,096 micro-batches of 128.

    python benchmarks/loader.py --data DIR --out benchmarks/results/loader.json
"""

from __future__ import annotations

import argparse
import io
import os
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from paired import at_least, begin, speeds, write
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import adabatch as ab
from adabatch.data.order import Order


class Decoded:
    """Images decoded beforehand, one call for each sample."""

    def __init__(self, images: torch.Tensor, labels: list[int]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int]:
        return self.images[item], self.labels[item]


class Jpeg:
    """JPEG bytes, decoded for each sample."""

    def __init__(self, files: list[bytes], labels: list[int]) -> None:
        self.files, self.labels = files, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int]:
        pixels = np.asarray(Image.open(io.BytesIO(self.files[item])))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255), self.labels[item]


def images(folder: Path, count: int) -> tuple[list[bytes], list[int]]:
    """The first JPEG files of CIFAR-10's test set and their labels."""
    table = pq.read_table(folder / "cifar10" / "test-00000-of-00001.parquet")[:count]
    return table["img"].combine_chunks().field("bytes").to_pylist(), table["label"].to_pylist()


def through(loader: Iterable[Any]) -> Callable[[], None]:
    """One epoch."""

    def run() -> None:
        for _ in loader:
            pass

    return run


def rate(
    ours: Callable[[], Callable[[], None]],
    theirs: Callable[[], Callable[[], None]],
    *,
    rounds: int,
    bound: float | None = None,
) -> dict[str, Any]:
    """Ratio of samples per second, ours over theirs."""
    found = speeds(ours, theirs, rounds=rounds)
    result = found if bound is None else at_least(found, bound)
    print(result["ratio"], flush=True)
    return result


def against_torch(files: list[bytes], labels: list[int], *, jpegs: int, batch_size: int, rounds: int) -> dict[str, Any]:
    """Both data sets, 0, 2 and 4 workers; and what `sample_rng` costs. Decoding is slow, so its epochs are shorter."""
    decoded = torch.stack([Jpeg(files, labels)[item][0] for item in range(len(labels))])
    results: dict[str, Any] = {}

    def mine(dataset: Any, workers: int, rng: bool) -> Callable[[], Callable[[], None]]:
        how: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0, "shuffle": True}
        return lambda: through(ab.DataLoader(dataset, batch_size, seed=0, sample_rng=rng, **how))

    def torchs(dataset: Any, workers: int) -> Callable[[], Callable[[], None]]:
        how: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0, "shuffle": True}
        return lambda: through(DataLoader(dataset, batch_size, **how))

    few = Jpeg(files[:jpegs], labels[:jpegs])
    for name, dataset, rng in (("decoded", Decoded(decoded, labels), False), ("jpeg", few, True)):
        for workers in (0, 2, 4):
            results[f"{name}, {workers} workers"] = rate(
                mine(dataset, workers, rng), torchs(dataset, workers), rounds=rounds, bound=0.98
            )
    results["sample_rng True over False, jpeg, 0 workers"] = rate(
        mine(few, 0, True), mine(few, 0, False), rounds=rounds
    )
    return results


def against_slices(*, rounds: int) -> dict[str, Any]:
    """A tensor data set, with and without workers asked for."""
    inputs, targets = torch.randn(50_000, 3, 32, 32), torch.randint(10, (50_000,))
    dataset, results = TensorDataset(inputs, targets), {}

    def mine(batch_size: int, workers: int) -> Callable[[], Callable[[], None]]:
        return lambda: through(ab.DataLoader(dataset, batch_size, shuffle=True, seed=0, num_workers=workers))

    def by_hand(batch_size: int) -> Callable[[], Callable[[], None]]:
        def run() -> None:
            order = torch.randperm(len(inputs))
            for start in range(0, len(inputs), batch_size):
                chosen = order[start : start + batch_size]
                _ = inputs[chosen], targets[chosen]

        return lambda: run

    for batch_size in (16, 128, 1024):
        for workers in (0, 2):
            results[f"batch {batch_size}, {workers} workers"] = rate(
                mine(batch_size, workers), by_hand(batch_size), rounds=rounds, bound=0.95
            )
    return results


def order_at_a_billion() -> dict[str, Any]:
    """Seconds and bytes of the order of 10^9 samples."""
    results = {}
    Order(10**6, seed=1, shuffle=True).items(0, 1)
    for name, start in (("first", 0), ("middle", 10**9 // 2)):
        values = []
        for seed in range(20):
            begun = time.perf_counter()
            Order(10**9, seed=seed, shuffle=True).items(start, start + 128)
            values.append(time.perf_counter() - begun)
        results[f"{name}_batch_seconds"] = {"median": float(np.median(values)), "max": max(values), "bound": 0.01}
    tracemalloc.start()
    order = Order(10**9, seed=1, shuffle=True)
    order.items(0, 128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = order._block.untyped_storage().nbytes()
    return {**results, "peak_bytes": peak + held, "held_bytes": held, "bound_bytes": 10**6}


def resident() -> int:
    """Bytes of this process in memory that no file or other process shares."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def streaming() -> dict[str, Any]:
    """Peak memory of a batch of 64 micro-batches, and an accumulation of 4,096 micro-batches of 128."""
    micro, shape = 128, (3, 64, 64)
    size = micro * 4 * int(np.prod(shape))

    class Zeros:
        def __len__(self) -> int:
            return 128 * 64 * 2

        def __getitem__(self, item: int) -> torch.Tensor:
            return torch.full(shape, float(item))

    results: dict[str, Any] = {"micro_batch_bytes": size}
    for workers in (0, 2):
        loader = ab.DataLoader(Zeros(), 128 * 64, micro_batch_size=micro, num_workers=workers, sample_rng=False, seed=0)
        before, peak = None, 0
        for data, part in loader.parts():
            if part.batch.clock and part.index == 0:
                before = resident() - data.untyped_storage().nbytes()
            if before is not None:
                peak = max(peak, resident() - before)
        results[f"peak_micro_batches, {workers} workers"] = peak / size
    inputs = torch.randn(524_288, 4)
    loader = ab.DataLoader(inputs, 524_288, micro_batch_size=128, seed=0, shuffle=True)
    begun = time.perf_counter()
    count = sum(1 for _ in loader.parts())
    results["accumulation"] = {"micro_batches": count, "seconds": time.perf_counter() - begun}
    return results


def main() -> None:
    """Measures all and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ADABATCH_DATA", "data")))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--jpegs", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/loader.json"))
    options = parser.parse_args()
    environment = begin(options.out)
    warnings.filterwarnings("ignore", "This DataLoader will create")
    files, labels = images(options.data, options.images)
    results = {
        "images": options.images,
        "jpegs": options.jpegs,
        "batch_size": 128,
        "order": order_at_a_billion(),
        "micro_batches": streaming(),
        "tensors": against_slices(rounds=options.rounds),
        "torch": against_torch(files, labels, jpegs=options.jpegs, batch_size=128, rounds=options.rounds),
    }
    write(options.out, "loader", environment, results)


if __name__ == "__main__":
    main()
