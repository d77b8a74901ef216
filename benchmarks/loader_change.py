"""A change of batch size from 64 to 128 in mid-epoch with 4 workers: stale batches, and the delay of the next one.

Each way of changing is tried in turn, again and again in one run: ours (assign `loader.batch_size`), torch's DataLoader
rebuilt over the rest of the epoch, and bs-scheduler and AdaptDL where they are installed (in an environment of their
own, `pip install bs-scheduler adaptdl requests setuptools==80.9.0`; they are never dependencies). Stale batches are
those that still have the old size after the change. The delay is the time to the first batch of the new size, also as a
multiple of the median time of an ordinary batch of 128 of that loader. Each batch is "trained on" for some
milliseconds, as in life, and its time includes that, so that workers are ahead at the change.

AdaptDL changes the size at the start of a pass only, to what its policy then decides, so no batch of the new size comes
in the pass: all that are left are stale, and there is no delay to tell.

    python benchmarks/loader_change.py --out benchmarks/results/loader_change.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from paired import begin, write
from torch.utils.data import DataLoader, Dataset, Subset

import adabatch as ab

OLD, NEW, BEFORE, AFTER, WORKERS = 64, 128, 12, 24, 4
TRAINING_SECONDS = {OLD: 0.02, NEW: 0.04}


class Slow(Dataset[torch.Tensor]):
    """A sample that takes a while, without needing the processor, so that 4 workers fit on any machine."""

    def __len__(self) -> int:
        return 8192

    def __getitem__(self, item: int) -> torch.Tensor:
        time.sleep(0.0005)
        return torch.full((3, 32, 32), float(item))


def ours() -> tuple[Iterator[Any], Callable[[], Iterator[Any]]]:
    """Assign."""
    loader = ab.DataLoader(Slow(), OLD, num_workers=WORKERS, sample_rng=False, seed=0)
    batches = iter(loader)

    def change() -> Iterator[Any]:
        loader.batch_size = NEW
        return batches

    return batches, change


def rebuilt() -> tuple[Iterator[Any], Callable[[], Iterator[Any]]]:
    """A new DataLoader over what is left."""
    batches = iter(DataLoader(Slow(), OLD, num_workers=WORKERS))

    def change() -> Iterator[Any]:
        return iter(DataLoader(Subset(Slow(), range(BEFORE * OLD, len(Slow()))), NEW, num_workers=WORKERS))

    return batches, change


def in_place() -> tuple[Iterator[Any], Callable[[], Iterator[Any]]]:
    """What bs-scheduler does: it sets the size in the batch sampler of torch's loader."""
    from bs_scheduler import LambdaBS

    loader = DataLoader(Slow(), OLD, num_workers=WORKERS)
    scheduler = LambdaBS(loader, bs_lambda=lambda step: 1 if step == 0 else 2, max_batch_size=NEW)
    batches = iter(loader)

    def change() -> Iterator[Any]:
        scheduler.step()
        return batches

    return batches, change


def adaptive() -> tuple[Iterator[Any], Callable[[], Iterator[Any]]]:
    """AdaptDL: what its policy would write, in mid-pass."""
    import adaptdl.torch as adaptdl

    loader = adaptdl.AdaptiveDataLoader(Slow(), batch_size=OLD, num_workers=WORKERS)
    batches = _one_pass(adaptdl, loader)

    def change() -> Iterator[Any]:
        loader._elastic._state.current_local_bsz = NEW
        return batches

    return batches, change


def _one_pass(adaptdl: Any, loader: Any) -> Iterator[Any]:
    for _ in adaptdl.remaining_epochs_until(adaptdl.finished_epochs() + 1):
        yield from loader


def once(make: Callable[[], tuple[Iterator[Any], Callable[[], Iterator[Any]]]]) -> dict[str, Any]:
    """One change: stale batches, delay, and the time of ordinary batches of the new size."""
    batches, change = make()
    for _ in range(BEFORE):
        time.sleep(TRAINING_SECONDS[len(next(batches))])
    begun = time.perf_counter()
    batches = change()
    stale, delay = 0, None
    waits: list[float] = []
    while len(waits) < AFTER:
        asked = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return {"stale": stale, "delay": None, "ordinary": None}
        now = time.perf_counter()
        if len(batch) != NEW:
            stale += 1
        elif delay is None:
            delay = now - begun + TRAINING_SECONDS[NEW]
        else:
            waits.append(now - asked + TRAINING_SECONDS[NEW])
        time.sleep(TRAINING_SECONDS[len(batch)])
    return {"stale": stale, "delay": delay, "ordinary": statistics.median(waits)}


def main() -> None:
    """Measures all and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/loader_change.json"))
    options = parser.parse_args()
    environment = begin(options.out)
    warnings.filterwarnings("ignore", "This DataLoader will create")
    ways: dict[str, Any] = {"ours": ours, "torch rebuilt": rebuilt}
    versions = {}
    for name, make in (("bs-scheduler", in_place), ("adaptdl", adaptive)):
        try:
            versions[name] = importlib.metadata.version(name)
            ways[name] = make
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed: left out")
    if "adaptdl" in ways:
        import adaptdl.torch

        adaptdl.torch.init_process_group("gloo")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, make in ways.items():
            found[name].append(once(make))
    results: dict[str, dict[str, Any]] = {}
    for name, rounds in found.items():
        results[name] = {"stale_batches": sorted({one["stale"] for one in rounds}), "tries": rounds}
        if all(one["delay"] is not None for one in rounds):
            over = [one["delay"] / one["ordinary"] for one in rounds]
            spread = {"median": statistics.median(over), "min": min(over), "max": max(over)}
            results[name]["delay_over_ordinary"] = spread
    write(options.out, "loader_change", environment, {"rounds": options.rounds, "peers": versions, "ways": results})


if __name__ == "__main__":
    main()
