"""Whether a run slows down with the evaluations behind it: how many a second there are at its end, against its start.

    python benchmarks/evaluations.py --out benchmarks/results/evaluations.json

A network is trained in a run folder and evaluated after every update, so that a second is spent on evaluating, logging
and saving. A round is one run; its start and its end are its first and last thousand evaluations, but for the first
hundred. The lower end of the interval is at least 0.9 where the end is as fast; sizes of the checkpoint are kept too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from paired import at_least, begin, told, write

from adabatch.lab import tasks
from adabatch.lab.training import RunConfig, loop, train
from adabatch.lab.training.folder import RunFolder

SAMPLES, TEST_SAMPLES = 1_000, 100
WARM_UP, STRETCH = 100, 1_000
BOUND = 0.9


class Timed(RunFolder):
    """A run folder that notes when each evaluation was saved, and how large the checkpoint is then."""

    def __init__(self, path: Path, **how: Any) -> None:
        super().__init__(path, **how)
        NOTED.clear()

    def save(self, state: Any, *, best: bool) -> None:
        """Saves and notes."""
        super().save(state, best=best)
        NOTED.append((time.perf_counter(), (self.path / "checkpoints" / "last.pt").stat().st_size))


NOTED: list[tuple[float, int]] = []


def run(evaluations: int, folder: Path) -> dict[str, Any]:
    """Seconds of both stretches, and the checkpoint's sizes there, of one run."""
    data = tasks.get("digits").load(None)
    data = replace(
        data,
        x_train=data.x_train[:SAMPLES],
        y_train=data.y_train[:SAMPLES],
        x_test=data.x_test[:TEST_SAMPLES],
        y_test=data.y_test[:TEST_SAMPLES],
    )
    settings = {"batch_size": 1, "epochs": -(-evaluations // SAMPLES), "lr": 1e-4, "lr_schedule": "constant"}
    config = RunConfig.for_task("digits", model="mlp", evaluate_every="1 updates", threads=1, device="cpu", **settings)
    train(config, folder, data=data)
    times = [when for when, _ in NOTED]
    stretch = min(STRETCH, (len(times) - WARM_UP) // 2)
    return {
        "start": times[WARM_UP + stretch] - times[WARM_UP],
        "end": times[-1] - times[-1 - stretch],
        "stretch": stretch,
        "evaluations": len(times),
        "sizes": [NOTED[WARM_UP][1], NOTED[-1][1]],
        "all": times[-1] - times[0],
    }


def main() -> None:
    """Times the runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evaluations.json"))
    options = parser.parse_args()
    if options.evaluations < 2 * WARM_UP:
        parser.error(f"--evaluations must be at least {2 * WARM_UP}, got {options.evaluations}")
    environment = begin(options.out)
    runs = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(loop, "RunFolder", Timed):
            runs.append(run(options.evaluations, Path(folder) / "run"))
    found = told([[each["start"]] for each in runs], [[each["end"]] for each in runs])
    stretch = runs[0]["stretch"]
    per_second = {name: [stretch / each[name] for each in runs] for name in ("start", "end")}
    results = {
        "evaluations": runs[0]["evaluations"],
        "stretch": stretch,
        **at_least(found, BOUND),
        "per_second": per_second,
        "run_seconds": [each["all"] for each in runs],
        "checkpoint_bytes": [each["sizes"] for each in runs],
    }
    write(options.out, "evaluations", environment, results)


if __name__ == "__main__":
    main()
