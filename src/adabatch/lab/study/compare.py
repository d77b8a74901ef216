"""Comparisons: arms trained over seeds, interleaved, resumable, summed up in one `compare.json`.

The folder of a comparison:

    comparison.json            the arms, and facts that may not change between two starts: versions, device, the data
    runs/ARM/seed-K/           one run folder each; a run with a result.json is never repeated
    compare.json               the outcome, written whole at the end
    tune.json                  the measurement that chose settings of speed, if one did
    .lock                      held while a process trains
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from adabatch import _checks, _distributed, _files, couplings
from adabatch._errors import ArgumentError
from adabatch.lab import tasks, training
from adabatch.lab.comparison import Comparison
from adabatch.lab.study.arms import Arm
from adabatch.lab.study.outcome import outcome
from adabatch.lab.tasks import Data
from adabatch.lab.training import Progress, RunConfig, RunResult, lock, optimizers, saved_config, saved_result, writing
from adabatch.lab.training.config import LARGEST_SEED, SETTINGS, SPEED, checked_target
from adabatch.lab.training.device import threads
from adabatch.lab.training.folder import TUNING, differences, write_json
from adabatch.lab.training.interrupt import Interrupted, Interrupts
from adabatch.lab.training.ranks import Ranks

FORMAT: Final = 1
_SHARED: Final = [name for name, setting in SETTINGS.items() if setting.shared and name != "seed"]
_OF_SPEED: Final = ["model", "optimizer", *(name for name, setting in SETTINGS.items() if setting.panel == SPEED)]
_TIMED: Final = ("compile", "cuda_graphs")  # a run may go on with others, but its time then tells nothing
_TIMING: Final = ("device", "device_name", "threads", "torch", "adabatch")


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of a comparison, as progress reports name it.

    Attributes:
        number: its place in the order of runs, from 1.
        total: how many runs there are.
        arm: the arm.
        seed: the seed.
        reused: whether its result was already there.
    """

    number: int
    total: int
    arm: Arm
    seed: int
    reused: bool


Listener = Callable[[Turn, Progress | RunResult | None], None]


def interleaved(arms: Sequence[Arm], seeds: Sequence[int]) -> Iterator[tuple[Arm, int]]:
    """All runs, seed by seed; each seed begins with another arm.

    So a machine that drifts slows the runs of a pair alike, and no arm always runs after the same one.

    Args:
        arms: the arms.
        seeds: the seeds.

    Yields:
        An arm and a seed.

    Example:
        >>> [f"{arm}{seed}" for arm, seed in interleaved(["a", "b"], [0, 1])]  # any objects serve as arms
        ['a0', 'b0', 'b1', 'a1']
    """
    for turn, seed in enumerate(seeds):
        start = turn % len(arms)
        for arm in [*arms[start:], *arms[:start]]:
            yield arm, seed


def compare(
    arms: Sequence[Arm],
    *,
    seeds: Sequence[int],
    out: Path,
    target: float | None = None,
    data: Data | None = None,
    progress: Listener | None = None,
    tuning: Mapping[str, Any] | None = None,
) -> Comparison:
    """Trains every arm with every seed and sums up the findings.

    Args:
        arms: the arms, of one task; names differ.
        seeds: at least one whole number of at least 0, no two alike.
        out: the folder of the comparison; runs that are finished there are not repeated.
        target: test accuracy in (0, 1] up to which updates and seconds are counted; None: the task's.
        data: the task's data; None: loaded here, once.
        progress: called before each run with None, during it with its progress, and after it with its result.
        tuning: the measurement that chose settings of speed, kept in `out` as `tune.json`.

    Returns:
        The record that `compare.json` holds.

    Raises:
        ValueError: if arguments break a rule, or `out` holds a comparison of other settings.
        BlockingIOError: if another process trains in `out`.
        OSError: if `out` cannot be written.
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP; the same call again goes on.
    """
    seeds = _checked_seeds(seeds)
    config = _one_task(arms)
    task = tasks.get(config.task)
    target = checked_target(task.target if target is None else target)
    ranks = Ranks()
    with threads(config.threads):
        versions = training.versions(training.pick_device(config.device))
    ranks.from_first(lambda: _check_folder(out, arms, versions, ranks.world))
    data = ranks.each_first(lambda: task.load(config.data)) if data is None else data
    for arm in arms:
        _check_arm(arm, data.dataset_size)
    names = [arm.name for arm in arms]
    note: dict[str, Any] = {"format": FORMAT, "versions": versions, "data": data.fingerprint()}
    note |= {"processes": ranks.world, "job": _distributed.job()}
    note |= {"task": config.task, "model": config.model, "arms": names, "seeds": list(seeds), "target": target}
    with ExitStack() as around:

        def begin() -> None:
            with writing(out):
                out.mkdir(parents=True, exist_ok=True)
            around.enter_context(lock.held(out))
            _check_folder(out, arms, versions, ranks.world)  # again: another may have been there while data were read
            _check_data(out, note["data"])
            with writing(out):
                if tuning is not None:
                    write_json(out / TUNING, tuning)
                write_json(out / "comparison.json", note)

        ranks.from_first(begin)
        tell = progress if progress is not None and ranks.is_first else _silent
        results = _run_all(arms, seeds, ranks=ranks, out=out, data=data, target=target, progress=tell)
        found = Comparison(
            format=FORMAT,
            task=config.task,
            model=config.model,
            device=versions["device"],
            versions=versions,
            seeds=tuple(seeds),
            settings={arm.name: _settings(arm) for arm in arms},
            **outcome(results, target=target),
        )
        if ranks.is_first:
            with writing(out):
                write_json(out / "compare.json", found.to_json())
    return found


def run_folder(out: Path, arm: str, seed: int) -> Path:
    """The folder of one run of a comparison."""
    return out / "runs" / arm / f"seed-{seed}"


def _run_all(
    arms: Sequence[Arm],
    seeds: Sequence[int],
    *,
    ranks: Ranks,
    out: Path,
    data: Data,
    target: float,
    progress: Listener,
) -> dict[str, list[RunResult]]:
    """The results of every arm in the order of seeds; finished runs are read."""
    results: dict[str, dict[int, RunResult]] = {arm.name: {} for arm in arms}
    turns = list(interleaved(arms, seeds))
    before = ranks.from_first(
        lambda: {(arm.name, seed): _result(run_folder(out, arm.name, seed)) for arm, seed in turns}
    )
    with Interrupts() as interrupts:
        if None in before.values():
            _warm_up(arms, data, ranks, interrupts)
        for number, (arm, seed) in enumerate(turns, 1):
            done = before[arm.name, seed]
            turn = Turn(number, len(turns), arm, seed, done is not None)
            tell = partial(progress, turn)
            tell(None)
            results[arm.name][seed] = _train(turn, ranks, out, data, target, tell) if done is None else done
            tell(results[arm.name][seed])
            _stop_if(ranks, interrupts)
    return {name: [by_seed[seed] for seed in seeds] for name, by_seed in results.items()}


def _stop_if(ranks: Ranks, interrupts: Interrupts) -> None:
    """Ends the comparison if a signal came, also one that came at the end of a run, which is then finished."""
    if number := max(ranks.gathered(interrupts.number or 0)):
        kept = "finished runs are kept, and the same comparison again goes on"
        raise Interrupted(None, number, kept=kept)


def _silent(turn: Turn, now: Progress | RunResult | None) -> None:
    """The listener of a comparison that has none."""


def _train(
    turn: Turn, ranks: Ranks, out: Path, data: Data, target: float, tell: Callable[[Progress], None]
) -> RunResult:
    """The result of one run; a run that was begun before goes on."""
    folder = run_folder(out, turn.arm.name, turn.seed)
    config = replace(turn.arm.config, seed=turn.seed)
    resume = ranks.from_first((folder / "config.json").exists)
    with _deletable(folder) if resume else nullcontext():
        return training.train(config, folder, resume=resume, data=data, progress=tell, target=target)


def _result(folder: Path) -> RunResult | None:
    """The result of a run; None if it is not finished."""
    with _deletable(folder / "result.json"):
        return saved_result(folder)


@contextmanager
def _deletable(damaged: Path) -> Iterator[None]:
    """Turns an error about a damaged run into one that names it, and how to repeat it."""
    remedy = "delete it and give the same command again, which trains what is missing"
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise ArgumentError("out", "must hold whole runs", got=f"a damaged {damaged}", remedy=remedy) from error


def _warm_up(arms: Sequence[Arm], data: Data, ranks: Ranks, interrupts: Interrupts) -> None:
    """Trains a few updates at every batch size that will occur, since the first steps of a shape take longer."""
    shapes: dict[tuple[Any, ...], RunConfig] = {}
    for arm in arms:
        config = arm.config
        for size in config.sizes(data.dataset_size):
            parts = config.micro_batch_size and min(config.micro_batch_size, 4 * size)
            short = replace(config.constant(), batch_size=size, micro_batch_size=parts)
            short = replace(short, epochs=1, lr_schedule="constant", evaluate_every="1 epoch", seed=0)
            shapes[*(getattr(config, name) for name in _OF_SPEED), size] = short
    for (*_, size), config in shapes.items():
        few = replace(data, x_train=data.x_train[: 4 * size], y_train=data.y_train[: 4 * size])
        training.train(config, data=replace(few, x_test=data.x_test[:1], y_test=data.y_test[:1]))
        _stop_if(ranks, interrupts)


def _one_task(arms: Sequence[Arm]) -> RunConfig:
    if not arms:
        raise ArgumentError("arms", "must hold at least one arm", got="none")
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise ArgumentError("arms", "must differ in name", got=", ".join(names))
    for arm in arms:
        for key in _SHARED:
            if getattr(arm.config, key) != getattr(arms[0].config, key):
                raise ArgumentError("arms", f"must share one {key}", got=f"others in {arms[0].name} and {arm.name}")
    return arms[0].config


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    found = tuple(_checks.whole("seeds", seed, minimum=0) for seed in seeds)
    remedy = "they count up from the first one; begin with a smaller one"
    _checks.whole("seeds", max(found, default=0), minimum=0, maximum=LARGEST_SEED, remedy=remedy)
    if not found or len(set(found)) < len(found):
        raise ArgumentError("seeds", "must be at least one and all different", value=list(found))
    return found


def _settings(arm: Arm) -> dict[str, Any]:
    return {key: value for key, value in arm.config.to_json().items() if key != "seed"}


def _check_arm(arm: Arm, dataset_size: int) -> None:
    """Raises now what training would raise hours later: a batch, an LR or a coupling that does not fit."""
    config = arm.config
    config.check_lr(dataset_size)
    if config.grows:
        probe = [torch.nn.Parameter(torch.zeros(1))]
        couplings.get(config.coupling).check_optimizer(
            optimizers.build(config.optimizer, probe, lr=config.lr, momentum=config.momentum, weight_decay=0.0)
        )


def _check_folder(out: Path, arms: Sequence[Arm], versions: Mapping[str, Any], world: int) -> None:
    """Raises if runs in `out` have other settings, or were timed on another device, version or number of processes."""
    remedy, elsewhere = f"give another --out or delete {out}", "give another --out"
    if out.exists() and not out.is_dir():
        raise ArgumentError("out", "must be a folder", got=f"the file {out}", remedy=elsewhere)
    note = out / "comparison.json"
    if not note.exists():
        if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
            got = f"other files in {out}"
            raise ArgumentError("out", "must be empty or hold a comparison", got=got, remedy=elsewhere)
        return
    try:
        noted = _files.json_of(note)
        before, now, facts = dict(noted["versions"]), dict(versions), [*_TIMING]
        if noted.get("job") is None or noted["job"] != _distributed.job():  # torchrun restarts with those that are left
            now["processes"], before["processes"] = world, noted.get("processes", world)
            facts.append("processes")
        differing = [key for key in facts if before[key] != now[key]]
    except (ValueError, KeyError, TypeError) as error:
        got = f"a damaged {note} ({error})"
        raise ArgumentError("out", "must hold a whole comparison", got=got, remedy=remedy) from error
    for key in differing:
        found = f"holds a comparison with {key} {before[key]}, now it is {now[key]}: times would not compare"
        raise ArgumentError("out", found, remedy=remedy)
    for arm in arms:
        for folder in sorted((out / "runs" / arm.name).glob("seed-*")):
            with _deletable(folder):
                saved = _saved_config(folder)
            if saved is None:
                continue
            other = {name: (getattr(saved, name), getattr(arm.config, name)) for name in _TIMED}
            differ = differences(replace(saved, seed=arm.config.seed), arm.config)
            if differ := [*differ, *(f"{name}: {a} and {b}" for name, (a, b) in other.items() if a != b)]:
                found = f"holds a comparison of other settings (there and now): {arm.name} has {'; '.join(differ)}"
                raise ArgumentError("out", found, remedy=remedy)


def _saved_config(folder: Path) -> RunConfig | None:
    """The settings of a run; None if it was never begun."""
    left = ("config.json", "result.json", "checkpoints/last.pt")
    return saved_config(folder) if any((folder / name).exists() for name in left) else None


def _check_data(out: Path, fingerprint: str) -> None:
    """Raises if runs in `out` were trained on other data; call it after `_check_folder`."""
    note = out / "comparison.json"
    before = _files.json_of(note) if note.exists() else {}
    if before.get("data", fingerprint) != fingerprint:
        remedy = "give the former data, in whatever folder, or another --out"
        rule = f"must hold what the comparison in {out} began with"
        raise ArgumentError("data", rule, got="other samples", remedy=remedy)
