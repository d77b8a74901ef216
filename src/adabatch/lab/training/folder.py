"""The run folder: everything that a run writes.

config.json           the settings
versions.json         python, torch, git revision of the working folder, device, threads
metrics.jsonl         one line per evaluation, by samples
decisions.jsonl       one line per change of the batch size; a policy's with what it saw, and the interval
checkpoints/          last.pt: the state to resume from, with the number of lines that belong to it in each log
                      previous.pt: the one before it; best.pt: the one at the best evaluation
                      at-*/: of several processes, tensors of the network and the optimizer that one of them names
tensorboard/          the metrics as events, if tensorboard is installed
result.json           the result; there when the run is finished
tune.json             the measurement that chose settings of speed, if one did
torchrun.json         the torchrun job that trained there last
.lock                 held while a process trains
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from adabatch import _files
from adabatch._errors import ArgumentError
from adabatch._files import write_json as write_json
from adabatch._files import write_text as write_text
from adabatch.lab.shapes import setting_in_words
from adabatch.lab.training import checkpoint, job, lock
from adabatch.lab.training.config import RunConfig
from adabatch.lab.training.lock import writing
from adabatch.lab.training.ranks import Ranks
from adabatch.lab.training.records import Evaluation, RunResult, RunState, checked, decision_json, decision_of
from adabatch.types import Decision

GIVEN_UP: Final = ("compile", "cuda_graphs")  # what a run that goes on may leave out
CHECKPOINTS: Final = ("last", "previous", "best")
METRICS, DECISIONS, TUNING = "metrics.jsonl", "decisions.jsonl", "tune.json"
_LOGS: Final[Mapping[str, type]] = {METRICS: Evaluation, DECISIONS: Decision}
_Record = TypeVar("_Record")
_Value = TypeVar("_Value")
# Errors that a damaged state may lead to.
_WRONG: Final = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError
)  # fmt: skip


class RunFolder:
    """The files of one run.

    Args:
        path: the folder; made if missing.
        config: the settings of the run.
        versions: as `device.versions` returns them.
        resume: whether to go on with the run that is there.
        resume_from: the checkpoint to go on from, one of `CHECKPOINTS`.
        tuning: content of `tune.json` of a new run; None for none.

    Raises:
        FileExistsError: if a run is there and `resume` is False, or a comparison is there.
        BlockingIOError: if another process trains there.
        FileNotFoundError: if none is there and `resume` is True.
        ValueError: if the run there has other settings.
        OSError: if the folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        config: RunConfig,
        versions: Mapping[str, Any],
        resume: bool,
        resume_from: str = "last",
        tuning: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self._files = tuple(path / "checkpoints" / f"{name}.pt" for name in CHECKPOINTS)
        self._last, self._previous, self._best = self._files
        self._from = path / "checkpoints" / f"{resume_from}.pt"
        self._config = config
        self._events: Any = None
        self._without_events = importlib.util.find_spec("tensorboard") is None
        self._unsynced: set[str] = set()  # logs that were added to since the last checkpoint
        self._around = ExitStack()
        try:
            if resume:
                self._enter_again(config)
            else:
                self._enter(config, versions, tuning)
        except BaseException:
            self._around.close()
            raise

    def _enter(self, config: RunConfig, versions: Mapping[str, Any], tuning: Mapping[str, Any] | None) -> None:
        """Begins a run."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._around.enter_context(lock.held(self.path))
        left = (self.path / "config.json", *self._files, self.path / "result.json")
        if any(file.exists() for file in left):
            raise FileExistsError(
                f"`out` must not hold a run yet, got {str(self.path)!r}; resume it or take another folder"
            )
        kinds = {kind: kind for kind in ("comparison", "plan", "probe", "study", "branch")}
        for file, kind in {**kinds, "advice": "piece of advice"}.items():
            if (self.path / f"{file}.json").exists():
                raise FileExistsError(f"`out` must not hold a {kind}, got {str(self.path)!r}; take another folder")
        with writing(self.path):
            self._last.parent.mkdir(exist_ok=True)
            write_json(self.path / "versions.json", versions)
            if tuning is not None:
                write_json(self.path / TUNING, tuning)
            job.note(self.path)
            write_json(self.path / "config.json", config.to_json())

    def _enter_again(self, config: RunConfig) -> None:
        """Goes on with the run that is there."""
        saved = saved_config(self.path)
        check_same(config, saved)
        given_up: dict[str, Any] = {
            name: False for name in GIVEN_UP if getattr(saved, name) and not getattr(config, name)
        }
        self._around.enter_context(lock.held(self.path))
        with writing(self.path):
            self._last.parent.mkdir(exist_ok=True)
            job.note(self.path)
            checkpoint.finish(self._last, also=self._best)
            for draft in (*self.path.glob(".*.draft"), *self._last.parent.glob(".*.draft")):
                draft.unlink()  # of a run that was killed
            if given_up:
                print(f"note: the run goes on without {' and '.join(given_up)}, with other rounding", file=sys.stderr)
                write_json(self.path / "config.json", replace(saved, **given_up).to_json())

    def state(self) -> RunState | None:
        """The state to resume from; None if none was saved yet.

        Raises:
            FileNotFoundError: if that checkpoint is gone, and another one or the result is there.
            ValueError: if it is damaged.
        """
        if not self._from.exists():
            left = any(file.exists() for file in (*self._files, self.path / "result.json"))
            if self._from == self._last and not left:
                return None
            raise FileNotFoundError(f"`resume` must find {self._from}, which is not there; {self._remedy()}")
        values = checkpoint.read(self._from, remedy=self._remedy)
        with self.fitting():
            return RunState.from_dict(values)

    def fitting(self) -> AbstractContextManager[None]:
        """Turns any error that a damaged state, or one of another run, causes into one that names the file.

        Raises:
            ValueError: with a remedy.
        """
        return _fitting(self._from, self._remedy)

    def _remedy(self) -> str:
        """The remedy if the state to resume from cannot be used: the other checkpoints that are whole."""
        names = [file.stem for file in self._files if file != self._from and _read(file) is not None]
        if not names:
            return checkpoint.AGAIN
        there = f"{' and '.join(f'{name}.pt' for name in names)} {'are' if len(names) > 1 else 'is'} there"
        return f"{there}: take {' or '.join(names)} as `resume_from`, or {checkpoint.AGAIN}"

    def save(self, state: RunState, *, best: bool) -> None:
        """Writes the state to resume from, after the logs that belong to it; if `best`, under a second name too.

        The former one is kept as the previous one. Folders of shards that no checkpoint names any more are removed.
        """
        with writing(self.path):
            for name in self._unsynced:
                _files.sync(self.path / name)
            self._unsynced.clear()
            also = self._best if best else None
            checkpoint.write(self._last, state.to_dict(), also=also, former=self._previous)
        self.sweep()

    def new_shards(self, clock: int) -> str:
        """A name for a new folder of shards."""
        self.sweep()
        name, number = f"{checkpoint.SHARDS}{clock}", 1
        while (self._last.parent / name).exists():
            number += 1
            name = f"{checkpoint.SHARDS}{clock}-{number}"
        return name

    def sweep(self) -> None:
        """Removes folders of shards that no checkpoint names: old ones, and half-written ones."""
        folders = set(self._last.parent.glob(f"{checkpoint.SHARDS}*"))
        for folder in folders and folders - {checkpoint.shards_of(file) for file in self._files}:
            shutil.rmtree(folder, ignore_errors=True)

    def restart(self, state: RunState | None) -> tuple[list[Evaluation], list[Decision]]:
        """Makes the folder agree with the state that is resumed from; a kill at any point does no harm.

        The logs are cut back to the lines that belong to the state. Where it is not the last one it becomes the last
        one, and later ones are removed. If the run trains for more epochs now, its result is removed and its settings
        are changed.

        Returns:
            The records that the logs hold then.

        Raises:
            ValueError: if a log holds fewer lines than belong to the state, or other ones.
        """
        kept = self._kept(state)
        with writing(self.path):
            if state is not None and self._from != self._last:
                for file in self._files[1:]:
                    if (_read(file) or {}).get("updates", 0) > state.updates:
                        file.unlink()
                _files.name_also(self._from, self._last)
                _files.sync(self._last.parent)
            self.sweep()
            saved = saved_config(self.path)
            if saved.epochs != self._config.epochs:
                (self.path / "result.json").unlink(missing_ok=True)
                write_json(self.path / "config.json", replace(saved, epochs=self._config.epochs).to_json())
            for name, (_, size) in kept.items():
                if size:
                    os.truncate(self.path / name, size)
                else:
                    write_text(self.path / name, "")
            _files.sync(self.path)
        return kept[METRICS][0], kept[DECISIONS][0]

    def go_back(self, state: RunState) -> None:
        """Makes the folder agree with an earlier state of this run that was saved as the last one.

        The logs are cut back to the lines that belong to it, and checkpoints that are later are removed.
        """
        kept = self._kept(state)
        with writing(self.path):
            for file in self._files[1:]:
                if (_read(file) or {}).get("updates", 0) > state.updates:
                    file.unlink()
            for name, (_, size) in kept.items():
                if (self.path / name).exists():
                    os.truncate(self.path / name, size)
        if self._events is not None:
            with suppress(Exception):
                self._events.close()
            self._events = None  # the next ones tell TensorBoard to drop what came after

    def _kept(self, state: RunState | None) -> dict[str, tuple[list[Any], int]]:
        """For each log the records that belong to a state, and their size in bytes."""
        kept: dict[str, tuple[list[Any], int]] = {}
        for name, kind in _LOGS.items():
            count = 0 if state is None else state.evaluations if name == METRICS else state.decisions
            try:
                kept[name] = read_log(self.path / name, kind, count)
                if name == METRICS and state is not None:
                    state.check_history(kept[name][0])
            except ValueError as error:
                rule = f"must hold what its checkpoint {self._from.name} counts on"
                got = f"a damaged {self.path / name} ({error})"
                raise ArgumentError("out", rule, got=got, remedy=self._remedy()) from None
        return kept

    def log(self, record: Evaluation | Decision) -> None:
        """Adds a record to its log, and an evaluation to the events of TensorBoard if they can be written."""
        name = next(name for name, kind in _LOGS.items() if isinstance(record, kind))
        values = decision_json(record) if isinstance(record, Decision) else asdict(record)
        with writing(self.path):
            _files.append(self.path / name, (json.dumps(values, allow_nan=False) + "\n").encode())
        self._unsynced.add(name)
        if not isinstance(record, Evaluation) or self._without_events:
            return
        try:
            self._log_events(record)
        except Exception as error:  # whatever it is: no training ends for want of events
            self._without_events = True
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            said = f"no more events for TensorBoard are written in {self.path} ({reason}); the training goes on without"
            warnings.warn(said, stacklevel=2)

    def finish(self, result: RunResult) -> None:
        """Writes the result."""
        with writing(self.path):
            write_json(self.path / "result.json", result.to_json())

    def close(self) -> None:
        """Closes the events and releases the lock."""
        if self._events is not None:
            with suppress(Exception):  # they are flushed at each evaluation
                self._events.close()
        self._around.close()

    def _log_events(self, evaluation: Evaluation) -> None:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            writer: Any = SummaryWriter
            self._events = writer(str(self.path / "tensorboard"), purge_step=evaluation.samples)
        for name in ("train_loss", "test_loss", "test_accuracy", "batch_size", "lr", "updates", "seconds"):
            value = getattr(evaluation, name)
            self._events.add_scalar(name, float("nan") if value is None else value, evaluation.samples)
        for name in ("communication_bytes", "communication_seconds", "noise_scale", "noise_low", "noise_high"):
            if (value := getattr(evaluation, name)) is not None:
                self._events.add_scalar(name, value, evaluation.samples)
        self._events.flush()


class SharedRunFolder:
    """The run folder of all ranks. Rank 0 reads and writes; if it fails, the others raise `RankError`.

    Args:
        path: the folder.
        ranks: the processes that train together.
        shares: whether each rank writes its shards of the tensors of a checkpoint. It then does so while training goes
            on, and the checkpoint counts once rank 0 has written the file that names them.
        how: see `RunFolder`.
    """

    def __init__(self, path: Path, *, ranks: Ranks, shares: bool = False, **how: Any) -> None:
        self.path, self._ranks = path, ranks
        self._own: list[RunFolder] = []
        self._writer: Any = None
        self._written: tuple[RunState, bool] | None = None  # the checkpoint whose shards are being written
        ranks.from_first(lambda: self._own.append(RunFolder(path, **how)))
        if shares:
            from adabatch._distributed.shards import Writer

            self._writer = Writer()

    def _ask(self, question: Callable[[RunFolder], _Value]) -> _Value:
        return self._ranks.from_first(lambda: question(self._own[0]))

    def state(self) -> RunState | None:
        """See `RunFolder.state`."""
        return self._ask(RunFolder.state)

    def fitting(self) -> AbstractContextManager[None]:
        """See `RunFolder.fitting`; the error of the first rank, which offers other checkpoints, is the one to read."""
        return self._own[0].fitting() if self._own else _fitting(self.path, lambda: checkpoint.AGAIN)

    def shards(self, state: RunState) -> Path | None:
        """The folder of shards that a state names; None if it names none."""
        return checkpoint.shards_in({"shards": state.shards}, self.path / "checkpoints" / "last.pt")

    def save(self, state: RunState, *, best: bool, wait: bool = False) -> None:
        """See `RunFolder.save`; where ranks share checkpoints this copies the tensors alone, unless it shall `wait`."""
        if self._writer is None:
            self._ask(lambda own: own.save(state, best=best))
            return
        self.settle()
        parts, tensors = checkpoint.apart(state.parts)
        name = self._ask(lambda own: own.new_shards(parts["loader"]["clock"]))
        self._writer.start(self.path / "checkpoints" / name, tensors)
        self._written = replace(state, parts=parts, shards=name), best
        if wait:
            self.settle()

    @property
    def busy(self) -> bool:
        """Whether this rank still writes."""
        return self._writer is not None and self._writer.busy

    def settle(self) -> None:
        """Waits until all ranks have written their shards and completes the checkpoint.

        Raises:
            OSError: on rank 0, if one could not be written.
        """
        if self._written is None:
            return
        (state, best), self._written = self._written, None
        failed: Exception | None = None
        try:
            self._writer.wait()
        except Exception as error:  # of any rank
            failed = error
        failures = [each for each in self._ranks.gathered(failed) if each is not None]

        def complete(own: RunFolder) -> None:
            if not failures:
                return own.save(state, best=best)
            own.sweep()
            with writing(own.path):
                raise failures[0]

        self._ask(complete)

    def restart(self, state: RunState | None) -> tuple[list[Evaluation], list[Decision]]:
        """See `RunFolder.restart`."""
        return self._ask(lambda own: own.restart(state))

    def go_back(self, state: RunState) -> None:
        """See `RunFolder.go_back`."""
        self._ask(lambda own: own.go_back(state))

    def log(self, record: Evaluation | Decision) -> None:
        """See `RunFolder.log`; the other ranks do not wait."""
        for own in self._own:
            own.log(record)

    def finish(self, result: RunResult) -> None:
        """See `RunFolder.finish`."""
        self.settle()
        self._ask(lambda own: own.finish(result))

    def close(self) -> None:
        """See `RunFolder.close`; after an error a checkpoint whose shards are written by all is completed."""
        if self._writer is not None:
            if self._written is not None:
                with suppress(Exception):  # the error before it is told
                    self._writer.wait()
                    for own in self._own:
                        own.save(self._written[0], best=self._written[1])
            self._writer.close()
        for own in self._own:
            own.close()


@contextmanager
def _fitting(file: Path, remedy: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except _WRONG as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).strip().partition("\n")[0]
        rule, got = f"{file} must be of this run", f"one that does not fit it ({reason})"
        raise ArgumentError("checkpoint", rule, got=got, remedy=remedy()) from None


def _read(file: Path) -> dict[str, Any] | None:
    """The state in a file; None if it is not whole."""
    try:
        return checkpoint.read(file)
    except (OSError, ValueError):
        return None


def read_log(path: Path, kind: type[_Record], count: int) -> tuple[list[_Record], int]:
    """The first `count` records of a log, and their size in bytes; for a count of 0 the log need not exist.

    Raises:
        ValueError: if there are fewer, or one is damaged; names the line, not the file.
        OSError: if it cannot be read.
    """
    if not count:
        return [], 0
    try:
        _files.check_file(path)
        lines = path.read_bytes().split(b"\n", count)
    except FileNotFoundError:
        lines = [b""]
    if len(lines) <= count:  # the rest after the last line break is no whole line
        raise ArgumentError(None, f"{len(lines) - 1:,} whole lines of {count:,}")
    found = []
    read: Callable[[Any], Any] = decision_of if kind is Decision else lambda values: checked(kind(**values))
    for number, line in enumerate(lines[:count], 1):
        try:
            values = _files.values_of(line.decode())
            found.append(read(values))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArgumentError(None, f"line {number:,}: {error}") from None
    return found, sum(len(line) + 1 for line in lines[:count])


def saved_config(path: Path) -> RunConfig:
    """The settings of the run in the folder `path`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if its file is damaged.
    """
    file = path / "config.json"
    if not file.exists():
        raise FileNotFoundError(f"`out` must hold a run to resume, got {str(path)!r}, which has no config.json")
    try:
        return RunConfig.from_json(_files.json_of(file))
    except (ValueError, TypeError) as error:
        got = f"a damaged {file} ({error})"
        raise ArgumentError("out", "must hold a run to resume", got=got, remedy="take another folder") from None


def saved_result(path: Path) -> RunResult | None:
    """The result of the run in the folder `path`; None if it is not finished.

    Raises:
        ValueError: if its file is damaged.
    """
    file = path / "result.json"
    if not file.exists():
        return None
    try:
        return RunResult.from_json(_files.json_of(file))
    except ValueError as error:
        got = f"a damaged {file} ({error})"
        raise ArgumentError("out", "must hold a run", got=got, remedy="remove the file and resume") from None


def check_same(config: RunConfig, saved: RunConfig) -> None:
    """Checks that a run may go on with `config`: with more epochs, or with other settings that may change.

    Raises:
        ValueError: if another setting differs.
    """
    if differ := differences(config, replace(saved, epochs=max(saved.epochs, config.epochs))):
        got, remedy = f"others (now and saved): {'; '.join(differ)}", "leave them out or take another folder"
        raise ArgumentError("resume", "must keep the settings of the run", got=got, remedy=remedy)
    if added := [name for name in GIVEN_UP if getattr(config, name) and not getattr(saved, name)]:
        rule, remedy = "may give up `compile` and `cuda_graphs`, not add them", "leave them out or take another folder"
        raise ArgumentError("resume", rule, got=" and ".join(added), remedy=remedy)


def differences(config: RunConfig, other: RunConfig) -> list[str]:
    """The settings in which two runs differ, each as text; without those that may change when a run goes on.

    Example:
        >>> differences(RunConfig.for_task("digits"), RunConfig.for_task("digits", seed=3, workers=1))
        ['seed: 0 and 3']
    """
    return [
        f"{name}: {setting_in_words(name, mine)} and {setting_in_words(name, theirs)}"
        for name, (mine, theirs) in config.differences(other).items()
    ]
