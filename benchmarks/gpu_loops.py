"""Loops, a phase of `gpu.py`: ours against one written by hand, eager, compiled and as CUDA graphs, an epoch in turns.

Each side lives in a process of its own, so that neither compiles, captures or allocates for the other. The first epoch
of each is not counted: compilation, capture and the choice of algorithms are in it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from operator import or_
from pathlib import Path
from typing import IO, Any, Final

import torch
from gpu_job import Job, in_words
from gpu_speed import config_of, options_of
from paired import at_least, middle, told
from throughput import BOUND, data, epochs_by_hand

from adabatch import memory
from adabatch.lab.training import Progress, RunConfig, train

MODES: Final = {"eager": "plain", "compiled": "compile", "graphs": "graphs"}  # and their options
SIDES: Final = ("ours", "by hand")
GO: Final = "go"


def loops(job: Job) -> dict[str, Any]:
    """Samples per second of ours over those by hand, for each way to run the network and each batch size."""
    options = options_of(job)
    network, scale = job.scale.networks[0], job.scale
    found: dict[str, Any] = {}
    for mode, option in MODES.items():
        if option not in options:
            continue
        settings = options[option] | {"weight_decay": 0.0}  # as by hand
        configs = {size: config_of(job, network, settings, [size]) for size in scale.loops}
        with workers(configs) as sides:
            cases = {
                f"{network}, {mode}, batch {size}": partial(in_turns, sides, size, samples, scale.pairs)
                for size, samples in scale.loops.items()
            }
            found |= job.each(cases, of=partial(or_, found.copy()))
    return found


def in_turns(sides: Sequence[Worker], size: int, samples: int, pairs: int) -> dict[str, Any]:
    """Pairs of epochs, each side first in turn."""
    for side in sides:
        side.begin(size, samples=samples, epochs=pairs + 1)
    warm_up = [side.seconds() for side in sides]
    times: dict[Worker, list[list[float]]] = {side: [] for side in sides}
    for pair in range(pairs):
        for side in sides if pair % 2 else sides[::-1]:
            side.go()
            times[side].append([side.seconds()])
    for side in sides:
        side.go()
    ours, theirs = (times[side] for side in sides)
    found = told(theirs, ours)  # the other way round: of speeds
    found |= {"ours_seconds": ours, "theirs_seconds": theirs, "first_epochs_seconds": warm_up}
    rates = {name: samples / middle(of) for name, of in (("ours", ours), ("theirs", theirs))}
    return {**at_least(found, BOUND), "samples": samples, "samples_per_second": rates}


class Worker:
    """One side's process, which trains an epoch whenever it is told to.

    Args:
        side: one of `SIDES`.
        configs: the settings by batch size.
    """

    def __init__(self, side: str, configs: Mapping[int, RunConfig]) -> None:
        self._side = side
        given = json.dumps({size: config.to_json() for size, config in configs.items()})
        command = [sys.executable, str(Path(__file__).resolve()), "--side", side, "--configs", given]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)

    def _write(self, text: str) -> None:
        stream: IO[str] | None = self._process.stdin
        assert stream is not None
        try:
            stream.write(f"{text}\n")
            stream.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _ended(self) -> RuntimeError:
        return RuntimeError(f"the process of the loop {self._side} ended with {self._process.wait()}")

    def begin(self, size: int, *, samples: int, epochs: int) -> None:
        """Begins another training: its first epoch runs at once."""
        self._write(json.dumps({"size": size, "samples": samples, "epochs": epochs}))

    def go(self) -> None:
        """Begins the next epoch; after the last one, lets the training end."""
        self._write(GO)

    def seconds(self) -> float:
        """Seconds of the epoch under way, once it is done."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answered = json.loads(line)
                if "error" in answered:
                    raise RuntimeError(f"the loop {self._side}: {answered['error']}")
                return float(answered["seconds"])
        raise self._ended()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def workers(configs: Mapping[int, RunConfig]) -> Iterator[list[Worker]]:
    """A process for each side, ended afterwards."""
    sides = [Worker(side, configs) for side in SIDES]
    try:
        yield sides
    finally:
        for side in sides:
            side.close()


# Inside the processes.


def answer(seconds: float) -> None:
    """Tells the seconds of an epoch, and waits for the word to go on; ends the process if nobody is left to give it."""
    print(json.dumps({"seconds": seconds}), flush=True)
    if sys.stdin.readline().strip() != GO:
        raise SystemExit(1)


def ours(config: RunConfig, samples: int) -> None:
    """The loop behind `adabatch train`, which pauses after each epoch."""
    before = 0.0

    def pause(now: Progress) -> None:
        nonlocal before
        if now.evaluation is not None:
            answer(now.evaluation.seconds - before)
            before = now.evaluation.seconds

    train(config, data=data(samples), progress=pause)


def by_hand(config: RunConfig, samples: int) -> None:
    """The loop of `throughput.py`."""
    epoch = epochs_by_hand(config, data(samples), torch.device(config.device))
    for _ in range(config.epochs):
        answer(epoch())


TRAININGS: Final[dict[str, Callable[[RunConfig, int], None]]] = {"ours": ours, "by hand": by_hand}


def main() -> None:
    """Trains as the lines of the standard input say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", choices=SIDES, required=True)
    parser.add_argument("--configs", required=True)
    options = parser.parse_args()
    configs = {int(size): values for size, values in json.loads(options.configs).items()}
    memory.tune_allocator()
    for line in sys.stdin:
        asked = json.loads(line)
        torch.compiler.reset()
        config = RunConfig.from_json(configs[asked["size"]] | {"epochs": asked["epochs"]})
        try:
            TRAININGS[options.side](config, asked["samples"])
        except Exception as error:
            print(json.dumps({"error": in_words(error)}), flush=True)
            raise


if __name__ == "__main__":
    main()
