"""Kills runs at random moments and resumes them: `python -m tests.lab.training.kill FOLDER KILLS`.

Runs go on in forked children, so that only the first one pays for the imports; three in ten from the best checkpoint.
Every second kill comes while a file is being written; the others come after a random share of a run's own processor
time, whatever else the machine does. Every run that ends is compared with an unbroken one. Prints the kills, those that
left a file half written, and the runs.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.lab.training.checks import SMALL, same, small_data, weights, without_seconds

from adabatch.lab.training import saved_result, train

CONFIG = replace(SMALL, epochs=8, evaluate_every="4 updates", threads=1)


def start(out: Path, kill: Callable[[], object], *, best: bool) -> int:
    """A child that trains or goes on training, `best` from the best checkpoint, and that `kill` was called in."""
    pid = os.fork()
    if pid == 0:
        try:
            kill()
            resume, best = (out / "config.json").exists(), best and (out / "checkpoints" / "best.pt").exists()
            train(CONFIG, out, data=small_data(), resume=resume, resume_from="best" if best else "last")
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def spare() -> None:
    """Does not kill."""


def after_seconds(seconds: float) -> Callable[[], object]:
    """Kills after this processor time: without a handler SIGPROF ends a process as abruptly as SIGKILL."""
    return lambda: signal.setitimer(signal.ITIMER_PROF, seconds)


def in_call(name: str, number: int) -> Callable[[], None]:
    """Kills in the middle of writing a file: when `os.NAME` is called for the last time of `number`."""
    original, calls = getattr(os, name), itertools.count(1)

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    return lambda: setattr(os, name, call)


def killed_by_signal(pid: int) -> bool:
    """Waits for the child."""
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        sys.exit("a run failed")
    return os.WIFSIGNALED(status)


def main(folder: Path, kills: int) -> None:
    torch.set_num_threads(1)
    expected = train(CONFIG, folder / "whole", data=small_data())
    started = time.process_time()
    train(CONFIG, folder / "again", data=small_data())
    length = time.process_time() - started
    rng = random.Random(0)
    killed = while_writing = runs = 0
    while killed < kills:
        out = folder / str(runs)
        broken = True
        while broken:
            kill = spare
            if killed < kills:
                in_file = in_call(rng.choice(["fsync", "link", "replace", "truncate"]), rng.randint(1, 8))
                kill = in_file if killed % 2 else after_seconds(max(1e-3, rng.random() * length / 2))
            broken = killed_by_signal(start(out, kill, best=rng.random() < 0.3))
            killed += broken
            while_writing += broken and any(out.rglob(".*draft"))
        result = saved_result(out)
        assert result is not None
        assert without_seconds(result) == without_seconds(expected)
        assert same(weights(out), weights(folder / "whole"))
        assert not list(out.rglob(".*draft"))
        runs += 1
    print(killed, while_writing, runs)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
