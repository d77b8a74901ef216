"""Predicted against measured seconds of an update on one, two and three processes of this machine.

`adabatch probe` of two networks, rounds of one, two and three processes in turn. The model of `adabatch plan --workers`
is fitted to some batch sizes of one process and of two; what it says of the other sizes, and of three processes, is
compared with what was measured, as ratios to one process. Bound: every ratio of a held-out point within 15 %.

    python benchmarks/performance.py --out benchmarks/results/performance.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paired import begin, write
from processes import torchrun

from adabatch.lab.planner import of_probes

BOUND = 0.15
SIZES = (32, 64, 128, 256, 512)  # probed
FITTED = {1: (32, 128, 512), 2: (64, 512)}  # by processes; others are held out
ASKED = (64, 128, 256, 512)
NETWORKS = ("resnet20", "small_cnn")


def probed(network: str, processes: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a probe of some processes found."""
    sizes = ("--batch-size", str(SIZES[0]), "--max-batch-size", str(SIZES[-1]), "--threads", "1")
    how = ("--repeats", str(options.repeats), "--seconds", str(options.seconds))
    given = ("probe", "digits", "--model", network, *sizes, *how, "--out", str(folder))
    if not (folder / "probe.json").exists():
        torchrun("-m", "adabatch", *given, count=processes)
    found: dict[str, Any] = json.loads((folder / "probe.json").read_text())
    return found


def joined(found: Sequence[Any]) -> Any:
    """Probes of the same things as one with all their turns."""
    first = found[0]
    if isinstance(first, Mapping):
        return {
            key: [value for each in found for value in each[key]]
            if key == "values"
            else joined([each[key] for each in found])
            for key in first
        }
    if isinstance(first, list) and first and isinstance(first[0], Mapping):
        return [joined(points) for points in zip(*found, strict=True)]
    return first


def some(probe: Mapping[str, Any], sizes: Sequence[int]) -> dict[str, Any]:
    """A probe with these batch sizes alone."""
    return {**probe, "curve": [point for point in probe["curve"] if point["batch_size"] in sizes]}


def seconds(probe: Mapping[str, Any], size: int) -> float:
    """Measured seconds of an update, the median over turns."""
    (rates,) = (point["samples_per_second"]["values"] for point in probe["curve"] if point["batch_size"] == size)
    return size / float(statistics.median(rates))


def compared(probes: Mapping[int, dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A record for each number of processes and batch size; and what was fitted, medians over turns."""
    fitted = {processes: some(probes[processes], sizes) for processes, sizes in FITTED.items()}
    models = of_probes(fitted[1], fitted[2])
    found = []
    for processes, probe in probes.items():
        for size in ASKED:
            predicted = statistics.median(model.update(size, processes).seconds for model in models)
            alone = statistics.median(model.update(size, 1).seconds for model in models)
            measured, measured_alone = seconds(probe, size), seconds(probes[1], size)
            # One process is compared in seconds: its ratio to itself says nothing.
            ratio = predicted / measured if processes == 1 else (predicted / alone) / (measured / measured_alone)
            found.append(
                {
                    "processes": processes,
                    "batch_size": size,
                    "held_out": size not in FITTED.get(processes, ()),
                    "measured_seconds": measured,
                    "predicted_seconds": predicted,
                    "measured_ratio": measured / measured_alone,
                    "predicted_ratio": predicted / alone,
                    "predicted_over_measured": ratio,
                }
            )
    return found, {
        "latency_seconds": statistics.median(model.link.latency_seconds for model in models),
        "bytes_per_second": statistics.median(model.link.bytes_per_second for model in models),
        "overlap": statistics.median(model.overlap for model in models),
        **{
            name: statistics.median(getattr(model.shared, name) for model in models)
            for name in ("contention", "waiting_seconds")
        },
        "optimizer_seconds": statistics.median(model.optimizer_seconds for model in models),
        "buckets": models[0].buckets,
    }


def main() -> None:
    """Probes, fits, compares and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="turns of each probe")
    parser.add_argument("--seconds", type=float, default=0.15)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--probes", type=Path, help="folder that keeps the probes; those there are taken as they are")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/performance.json"))
    options = parser.parse_args()
    environment = begin(options.out)
    networks: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for network in options.networks.split(","):
            rounds: dict[int, list[dict[str, Any]]] = {1: [], 2: [], 3: []}
            for turn in range(options.rounds):
                for processes, found in rounds.items():
                    folder = (options.probes or Path(temporary)) / f"{network}-{processes}-{turn}"
                    found.append(probed(network, processes, folder, options))
            points, fit = compared({processes: joined(found) for processes, found in rounds.items()})
            held = [abs(point["predicted_over_measured"] - 1) for point in points if point["held_out"]]
            networks[network] = {"points": points, "largest_error": max(held), "holds": max(held) <= BOUND}
            networks[network]["model"] = fit
            for point in points:
                print(network, point, flush=True)
    write(options.out, "performance", environment, {"bound": BOUND, "fitted": FITTED, "networks": networks})


if __name__ == "__main__":
    main()
