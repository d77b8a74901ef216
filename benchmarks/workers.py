"""AdaBatch's claim for several workers, in small: what growing the batch brings on two processes over gloo.

Three parts, all by the product's own command under torchrun, on CIFAR-10:

- speeds: `adabatch probe` for each network, samples per second at batch 16 to 2,048;
- runs: `adabatch compare --preset adabatch` with AlexNet, fixed 32 against 32 to 512, doubling every 4 of 20 epochs,
  the preset's proportions; seeds are paired, arms in turns. Bound: the lower end of the interval of the ratio of
  training times is at least 1.7;
- bytes: gradients sent in an epoch by each arm of these runs, where they tell them. With `--compress bf16` there is one
  more arm, which grows and compresses.

All of CIFAR-10 takes hours. A subset, whole in 20 minutes:

    python benchmarks/workers.py --data ../data --train-samples 4000 --test-samples 1000 --networks alexnet
    python benchmarks/workers.py --data ../data --out benchmarks/results/workers.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from paired import at_least, begin, write
from processes import torchrun

from adabatch.lab.study.compare import run_folder
from adabatch.lab.tasks.parquet import data_folder

BOUND = 1.7
DOUBLINGS = 4


def subset(source: Path, folder: Path, **samples: int | None) -> Path:
    """A folder with the first samples of each split of CIFAR-10, all of them for None."""
    for split, count in samples.items():
        (file,) = source.glob(f"{split}-*.parquet")
        pq.write_table(pq.read_table(file).slice(0, count), folder / file.name)
    return folder


def speeds(network: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The findings of a probe."""
    sizes = ("--batch-size", str(options.batch_size), "--max-batch-size", str(options.max_batch_size))
    how = ("--repeats", str(options.repeats), "--seconds", str(options.seconds), "--threads", "1")
    given = ("probe", "cifar10", "--model", network, *sizes, *how, "--data", str(options.data), "--out", str(folder))
    torchrun("-m", "adabatch", *given)
    found: dict[str, Any] = json.loads((folder / "probe.json").read_text())
    return found


def runs(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The findings of a comparison, and bytes by arm."""
    small, every = options.small, options.epochs // (DOUBLINGS + 1)
    arms = ["fixed-small", "adaptive"]
    if options.compress:
        arms.append(f"compressed: growth=2 compress={options.compress}")
    sizes = ("--batch-size", str(small), "--max-batch-size", str(small * 2**DOUBLINGS), "--every", str(every))
    how = ("--lr-schedule", f"step:0.375:{every}", "--epochs", str(options.epochs), "--seeds", str(options.seeds))
    given = ("--model", "alexnet", *sizes, *how, *(word for arm in arms for word in ("--arm", arm)))
    where = ("--threads", "1", "--data", str(options.data), "--out", str(folder))
    torchrun("-m", "adabatch", "compare", "cifar10", "--preset", "adabatch", *given, *where, "--progress")
    found: dict[str, Any] = json.loads((folder / "compare.json").read_text())
    against = found["against_fixed_small"]["adaptive"]
    seed = found["seeds"][0]
    sent = {arm["name"]: epoch_bytes(run_folder(folder, arm["name"], seed)) for arm in found["arms"]}
    time = at_least({"ratio": against["seconds_ratio"]}, BOUND)
    return {"time": time, "accuracy": against["accuracy_difference"], "bytes_by_epoch": sent, "comparison": found}


def epoch_bytes(folder: Path) -> list[int] | None:
    """Bytes of gradients that each process had averaged in every epoch of a run; None if the run does not tell."""
    history = json.loads((folder / "result.json").read_text())["history"]
    if any(found.get("communication_bytes") is None for found in history):
        return None
    updates = [0, *(found["updates"] for found in history)]
    return [
        found["communication_bytes"] * (after - before)
        for found, (before, after) in zip(history, pairwise(updates), strict=True)
    ]


def main() -> None:
    """Measures all parts and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of CIFAR-10, or the one above")
    parser.add_argument("--train-samples", type=int, help="the first of the training set; else all")
    parser.add_argument("--test-samples", type=int, help="the first of the test set; else all")
    parser.add_argument("--networks", default="alexnet,resnet20,vgg19_bn", help="for speeds; may be empty")
    parser.add_argument("--batch-size", type=int, default=16, help="the first of speeds")
    parser.add_argument("--max-batch-size", type=int, default=2_048, help="the last of speeds")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.15)
    parser.add_argument("--small", type=int, default=32, help="the fixed batch of the runs")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="of the runs; 0 for speeds alone")
    parser.add_argument("--compress", help="one more arm, which grows and compresses")
    parser.add_argument("--runs", type=Path, help="the folder of the runs, where the same command goes on")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/workers.json"))
    options = parser.parse_args()
    environment = begin(options.out)
    with tempfile.TemporaryDirectory() as temporary:
        samples = {"train": options.train_samples, "test": options.test_samples}
        options.data = data_folder(str(options.data), name="cifar10")
        if any(samples.values()):
            (few := Path(temporary) / "data").mkdir()
            options.data = subset(options.data, few, **samples)
        networks = options.networks.split(",") if options.networks else []
        rates = {network: speeds(network, Path(temporary) / network, options) for network in networks}
        found = runs(options.runs or Path(temporary) / "runs", options) if options.seeds else None
    environment = {**environment, "processes": 2}
    write(options.out, "workers", environment, {"samples": samples, "speeds": rates, "runs": found})


if __name__ == "__main__":
    main()
