"""Kills ranks of torchrun jobs at random moments: `python -m tests.lab.cli.kill_ranks FOLDER KILLS`.

Each job restarts after each kill; ranks are killed in turn, from before the first checkpoint on, some while one is
written. Every run that ends is compared with an unbroken one of one process. Prints the kills, those during which a
file was half written, and the runs.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.lab.cli.checks import run
from tests.lab.cli.test_torchrun import differ, rank
from tests.lab.training.checks import weights

from adabatch.lab.training import saved_result

RUN = ["train", "digits", "--model", "mlp", "--batch-size", "16", "--growth", "2", "--every", "300 samples"]
RUN += ["--max-batch-size", "64", "--precision", "float64", "--save-every", "1 updates", "--quiet"]


def kill_one(launcher: subprocess.Popen[str], number: int, out: Path, rng: random.Random, *, last: int) -> int | None:
    """Kills a rank that is no longer the process `last`, at a random moment; returns it, None if the job has ended."""
    file, training = out / "checkpoints" / "last.pt", rng.random() < 0.9
    before = file.stat().st_mtime_ns if file.exists() else 0
    while launcher.poll() is None:
        with suppress(OSError, LookupError):
            process = rank(launcher, number)
            if process != last and (not training or file.stat().st_mtime_ns > before):
                time.sleep(rng.random() * (0.5 if training else 8))
                os.kill(process, signal.SIGKILL)
                return process
        time.sleep(0.01)
    return None


def same_findings(folder: Path, other: Path) -> bool:
    """Whether two runs have the same counts, evaluations and decisions, and the same weights to 1e-10."""
    mine, theirs = saved_result(folder), saved_result(other)
    assert mine is not None
    assert theirs is not None
    assert (mine.updates, mine.samples, mine.batch_sizes) == (theirs.updates, theirs.samples, theirs.batch_sizes)
    assert [found.samples for found in mine.history] == [found.samples for found in theirs.history]
    assert [found.test_accuracy for found in mine.history] == [found.test_accuracy for found in theirs.history]
    assert mine.decisions == theirs.decisions
    return bool(differ(weights(folder), weights(other)) < 1e-10)


def main(folder: Path, kills: int) -> None:
    rng, killed, while_writing, runs = random.Random(0), 0, 0, 0
    epochs = ["--epochs", "6"]
    assert run(*RUN, *epochs, "--out", str(folder / "whole")) == 0
    while killed < kills:
        out = folder / str(runs)
        command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", str(kills)]
        started = [sys.executable, "-m", *command, "-m", "adabatch", *RUN, *epochs, "--out", str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        launcher = subprocess.Popen(started, stderr=subprocess.DEVNULL, text=True, env=environment)
        last = [0, 0]  # the process of each rank that was killed
        while killed < kills and (process := kill_one(launcher, killed % 2, out, rng, last=last[killed % 2])):
            last[killed % 2] = process
            killed, while_writing = killed + 1, while_writing + any(out.rglob("*draft"))
        assert launcher.wait() == 0
        assert same_findings(out, folder / "whole")
        runs += 1
    print(killed, while_writing, runs)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
