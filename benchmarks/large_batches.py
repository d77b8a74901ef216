"""What keeps a very large batch accurate: each part of 1711.04325 switched off in turn, and growth instead of them.

ResNet-20 at the smallest batch size, of some doublings, at which momentum SGD with linear scaling, a gradual warm-up
and falls of the LR by ten at 1/3, 2/3 and 8/9 of the training loses at least three points of test accuracy against the
small batch. The LR is 0.1 for 256 samples, as in the paper, which nothing here was tuned to. Arms:

- small: the reference, the same training at a small batch, without a warm-up;
- plain: as above, and with batch norm by the last batch alone;
- akiba: RMSprop warm-up, slow start and batch norm by the last batch;
- akiba without each of these; with zero-init, no decay of biases, and label smoothing;
- growth: from the small batch, by ten where the LR would fall (1711.00489), up to the large one;
- growth and akiba: the toolbox from an eighth of the large batch on, growing where the slow start's LR would fall.

    python benchmarks/large_batches.py --task digits
    python benchmarks/large_batches.py --task fashion_mnist --data ../data --device cuda --jobs 8

Several jobs at once share the device, so that seconds are not those of a run alone. With --runs FILE each finished run
is kept, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from paired import begin, write

from adabatch.lab import tasks
from adabatch.lab.study.statistics import paired_difference, spread, summary
from adabatch.lab.training import RunConfig, train

LOST = 0.03  # of test accuracy, at least, by the plain large batch


class Length(NamedTuple):
    """A task's small batch, large ones to search, epochs, a multiple of 18, and training samples, None for all."""

    small: int
    large: tuple[int, ...]
    epochs: int
    samples: int | None = None


TASKS = {
    "digits": Length(32, (128, 256, 512, 1024), 18),
    "fashion_mnist": Length(128, (512, 1024, 2048, 4096, 8192), 18, 20_000),
}


def arms(task: str, large: int) -> dict[str, dict[str, Any]]:
    """The settings of each arm."""
    length = TASKS[task]
    ninetieth = length.epochs / 90
    third, last = length.epochs // 3, length.epochs * 8 // 9
    falls = f"milestones:0.1:{third},{2 * third},{last}"
    gentle = f"warmup:{max(1, round(5 * ninetieth))}:{length.small / large!r}+"

    def at(size: int, lr_schedule: str, **more: Any) -> dict[str, Any]:
        return {"batch_size": size, "lr": 0.1 * size / 256, "lr_schedule": lr_schedule, **more}

    tools = {"optimizer": "rmsprop-warmup", "last_batch_norm": True}
    akiba = at(large, "slowstart", **tools)
    growing = {"rule": "smith", "max_batch_size": large}
    return {
        "small": at(length.small, falls),
        "plain": at(large, gentle + falls),
        "plain with last-batch norm": at(large, gentle + falls, last_batch_norm=True),
        "akiba": akiba,
        "without RMSprop warm-up": akiba | {"optimizer": "sgd", "lr_schedule": f"{gentle}slowstart"},
        "without slow start": akiba | {"lr_schedule": falls},
        "without last-batch norm": akiba | {"last_batch_norm": False},
        "with zero-init": akiba | {"zero_init": True},
        "with no decay of biases": akiba | {"decay_biases": False},
        "with label smoothing": akiba | {"label_smoothing": 0.1},
        "growth": at(length.small, falls, **growing),
        "growth and akiba": at(large // 8, "slowstart", **tools, **growing),
    }


@cache
def loaded(task: str, folder: str | None) -> tasks.Data:
    """The data, read once in each process."""
    found, count = tasks.get(task).load(folder), TASKS[task].samples
    return found if count is None else replace(found, x_train=found.x_train[:count], y_train=found.y_train[:count])


def run(task: str, folder: str | None, device: str, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A training: what an arm comes to with one seed."""
    epochs = TASKS[task].epochs
    common = {"model": "resnet20", "momentum": 0.9, "weight_decay": 1e-4, "epochs": epochs}
    how = {"device": device, "threads": 1, "evaluate_every": f"{epochs} epochs"}
    found = train(RunConfig.for_task(task, **common, **how, seed=seed, **settings), data=loaded(task, folder))
    return {
        "test_accuracy": found.test_accuracy,
        "diverged": found.diverged,
        "updates": found.updates,
        "batch_sizes": list(found.batch_sizes),
        "seconds": found.train_seconds,
    }


class Study:
    """Trainings, each done once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        lines = options.runs.read_text().splitlines() if options.runs and options.runs.exists() else []
        self._known: dict[str, dict[str, Any]] = dict(map(json.loads, lines))
        self._pool = ProcessPoolExecutor(options.jobs, get_context("spawn")) if options.jobs > 1 else None

    def of(self, wanted: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
        """For each settings what came out, by seed; arms take turns."""
        options = self._options
        given = (options.task, options.data, options.device)
        todo = [(settings, seed) for seed in range(options.seeds) for settings in wanted]
        todo = [each for each in todo if self._key(*each) not in self._known]
        if self._pool is not None:
            waiting = {self._pool.submit(run, *given, *each): each for each in todo}
            found = ((waiting[future], future.result()) for future in as_completed(waiting))
        else:
            found = ((each, run(*given, *each)) for each in todo)
        for done, (each, record) in enumerate(found, 1):
            self._known[self._key(*each)] = record
            if options.runs is not None:
                with options.runs.open("a") as file:
                    file.write(json.dumps([self._key(*each), record]) + "\n")
            print(f"{done} of {len(todo)}: {100 * record['test_accuracy']:.2f} %", each, file=sys.stderr, flush=True)
        return [[self._known[self._key(settings, seed)] for seed in range(options.seeds)] for settings in wanted]

    @staticmethod
    def _key(settings: Mapping[str, Any], seed: int) -> str:
        return json.dumps([settings, seed], sort_keys=True)


def accuracies(records: Sequence[Mapping[str, Any]]) -> list[float]:
    """Test accuracies of an arm, by seed."""
    return [record["test_accuracy"] for record in records]


def search(study: Study, task: str) -> tuple[int, dict[str, Any]]:
    """The smallest large batch at which the plain arm loses `LOST`, or the largest; and what each size lost."""
    tried: dict[str, Any] = {}
    large = TASKS[task].large[-1]
    for large in TASKS[task].large:
        both = arms(task, large)
        small, plain = study.of([both["small"], both["plain"]])
        lost = paired_difference(accuracies(plain), accuracies(small))
        tried[str(large)] = {"plain": summary(accuracies(plain)).to_json(), "against_small": lost.to_json()}
        print(large, lost, file=sys.stderr, flush=True)
        if lost.mean <= -LOST:
            break
    return large, tried


def main() -> None:
    """Searches the size, trains all arms and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="digits")
    parser.add_argument("--data", help="folder of the data set")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--runs", type=Path, help="file that keeps finished runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out or Path(f"benchmarks/results/large_batches_{options.task}.json")
    environment = begin(out)
    study = Study(options)
    large, tried = search(study, options.task)
    settings = arms(options.task, large)
    found = dict(zip(settings, study.of(list(settings.values())), strict=True))
    small, plain, akiba = (accuracies(found[name]) for name in ("small", "plain", "akiba"))
    table = {
        name: {
            "settings": settings[name],
            "updates": records[0]["updates"],
            "batch_sizes": records[0]["batch_sizes"],
            "diverged": sum(record["diverged"] for record in records),
            "test_accuracy": summary(accuracies(records)).to_json(),
            "seconds": spread([record["seconds"] for record in records]).to_json(),
            "against_small": paired_difference(accuracies(records), small).to_json(),
            "against_plain": paired_difference(accuracies(records), plain).to_json(),
            "against_akiba": paired_difference(accuracies(records), akiba).to_json(),
        }
        for name, records in found.items()
    }
    length = TASKS[options.task]._asdict() | {"device": options.device, "jobs": options.jobs}
    results = {"task": options.task, **length, "large_batch": large, "searched": tried, "arms": table}
    write(out, "large_batches", environment, results)


if __name__ == "__main__":
    main()
