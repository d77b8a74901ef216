"""Kills runs at random moments and resumes them: `python -m tests.lab.training.kill FOLDER KILLS [RANKS] [fsdp]`.

Runs go on in forked children, so that only the first one pays for the imports; three in ten from another checkpoint
than the last one. Every second kill comes while a file is being written; the others come after a random share of a
run's own processor time, whatever else the machine does. Of several ranks any one is killed. Every run that ends is
compared with an unbroken one. Prints the kills, those that left a file or a folder half written, and the runs.
"""

from __future__ import annotations

import itertools
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.lab.training.checks import SMALL, same, small_data, weights, without_seconds

from adabatch.lab.training import RunConfig, checkpoint, saved_result, train

CONFIG = replace(SMALL, epochs=8, evaluate_every="4 updates", threads=1)
STORES = itertools.count()


def start(config: RunConfig, out: Path, kills: list[Callable[[], object]], *, resume_from: str = "last") -> list[int]:
    """Children, one for each of `kills`, that train or go on training together, each with its own call of these."""
    store, pids = out.with_name(f"store-{next(STORES)}"), []
    resume = (out / "config.json").exists()
    if not (out / "checkpoints" / f"{resume_from}.pt").exists():
        resume_from = "last"
    for rank, kill in enumerate(kills):
        pids.append(os.fork())
        if pids[-1] == 0:
            try:
                if len(kills) > 1:
                    group = {"rank": rank, "world_size": len(kills), "timeout": timedelta(seconds=60)}
                    dist.init_process_group("gloo", init_method=f"file://{store}", **group)
                kill()
                train(config, out, data=small_data(), resume=resume, resume_from=resume_from)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
    return pids


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


def killed_by_signal(pids: list[int]) -> bool:
    """Waits for the children; whether one was killed, after which the others end with an error."""
    ends = [os.waitpid(pid, 0)[1] for pid in pids]
    killed = any(map(os.WIFSIGNALED, ends))
    if not killed and any(map(os.WEXITSTATUS, ends)):
        sys.exit("a run failed")
    return killed


def is_half_written(out: Path) -> bool:
    """Whether a draft is there, or a folder of shards that no checkpoint names."""
    named = {checkpoint.shards_of(file) for file in (out / "checkpoints").glob("*.pt")}
    return any(out.rglob(".*draft")) or bool(set(out.glob("checkpoints/at-*")) - named)


def main(folder: Path, kills: int, world: int, *, fsdp: bool) -> None:
    torch.set_num_threads(1)
    config, rng = replace(CONFIG, fsdp=fsdp), random.Random(0)
    small_data()
    if killed_by_signal(start(config, folder / "whole", [spare] * world)):
        sys.exit("the unbroken run was killed")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    length = (used.ru_utime + used.ru_stime) / world
    expected = saved_result(folder / "whole")
    assert expected is not None
    killed = while_writing = runs = 0
    while killed < kills:
        out = folder / str(runs)
        broken = True
        while broken:
            each: list[Callable[[], object]] = [spare] * world
            if killed < kills:
                rank = rng.randrange(world)
                call = rng.choice(["fsync", "link", "replace", "truncate"]) if rank == 0 else "fsync"
                in_file = in_call(call, rng.randint(1, 8))
                each[rank] = in_file if killed % 2 else after_seconds(max(1e-3, rng.random() * length / 2))
            source = rng.choice(["best", "previous"]) if rng.random() < 0.3 else "last"
            broken = killed_by_signal(start(config, out, each, resume_from=source))
            killed += broken
            while_writing += broken and is_half_written(out)
        result = saved_result(out)
        assert result is not None
        assert without_seconds(result) == without_seconds(expected)
        assert same(weights(out), weights(folder / "whole"))
        assert not is_half_written(out)
        runs += 1
    print(killed, while_writing, runs)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int((*sys.argv, "1")[3]), fsdp="fsdp" in sys.argv)
