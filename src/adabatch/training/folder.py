"""The run folder: everything that a run leaves behind.

config.json           the settings
versions.json         python, torch, git revision of the working folder, device, threads
metrics.jsonl         one line per evaluation, by samples
decisions.jsonl       one line per change of the batch size
checkpoints/last.pt   the state to resume from; best.pt the same of the best evaluation
tensorboard/          the metrics as events, when tensorboard is installed
result.json           what was found; there when the run is finished
.lock                 held while a process trains
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adabatch.training import checkpoint, lock
from adabatch.training.config import RunConfig
from adabatch.training.records import Evaluation, RunResult
from adabatch.types import Decision

_WHERE = ("data", "device", "workers")  # where a run finds its data and what reads them may change when it goes on


class RunFolder:
    """The files of one run.

    Args:
        path: the folder; made when missing.
        config: of the run.
        versions: what the result depends on besides.
        resume: whether to go on with the run that is there.

    Raises:
        FileExistsError: if a run is there and `resume` is False, or a comparison is there.
        BlockingIOError: if another process trains there.
        FileNotFoundError: if none is there and `resume` is True.
        ValueError: if the run there has other settings.
        OSError: if the folder cannot be written.
    """

    def __init__(self, path: Path, *, config: RunConfig, versions: Mapping[str, Any], resume: bool) -> None:
        self.path = path
        self._last, self._best = path / "checkpoints" / "last.pt", path / "checkpoints" / "best.pt"
        self._events: Any = None
        self._without_events = importlib.util.find_spec("tensorboard") is None
        self._around = ExitStack()
        try:
            if resume:
                self._enter_again(config)
            else:
                self._enter(config, versions)
        except BaseException:
            self._around.close()
            raise

    def _enter(self, config: RunConfig, versions: Mapping[str, Any]) -> None:
        """Begins a run."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._around.enter_context(lock.held(self.path))
        if any(file.exists() for file in (self.path / "config.json", self._last, self.path / "result.json")):
            raise FileExistsError(
                f"`out` must not hold a run yet, got {str(self.path)!r}; resume it or take another folder"
            )
        if (self.path / "comparison.json").exists():
            raise FileExistsError(f"`out` must not hold a comparison, got {str(self.path)!r}; take another folder")
        with writing(self.path):
            self._last.parent.mkdir(exist_ok=True)
            write_json(self.path / "versions.json", versions)
            write_json(self.path / "config.json", config.to_json())

    def _enter_again(self, config: RunConfig) -> None:
        """Goes on with the run that is there."""
        check_same(config, saved_config(self.path))
        self._around.enter_context(lock.held(self.path))
        with writing(self.path):
            self._last.parent.mkdir(exist_ok=True)
            for draft in (*self.path.glob(".*.draft"), *self._last.parent.glob(".*.draft")):
                draft.unlink()  # of a run that was killed

    def state(self) -> dict[str, Any] | None:
        """The state to resume from; None if none was saved yet."""
        return checkpoint.read(self._last) if self._last.exists() else None

    def save(self, state: Mapping[str, Any], *, best: bool) -> None:
        """Writes the state to resume from, and if `best` a copy that stays."""
        with writing(self.path):
            checkpoint.write(self._last, state, also=self._best if best else None)

    def restart(self, history: Iterable[Evaluation], decisions: Iterable[Decision]) -> None:
        """Cuts the logs back to what the state that is resumed from knows."""
        with writing(self.path):
            for name, records in (("metrics", history), ("decisions", decisions)):
                lines = [json.dumps(asdict(record), allow_nan=False) + "\n" for record in records]
                write_text(self.path / f"{name}.jsonl", "".join(lines))

    def log(self, evaluation: Evaluation) -> None:
        """Adds a line to the metrics, and events where they can be written."""
        with writing(self.path):
            _append(self.path / "metrics.jsonl", evaluation)
        if self._without_events:
            return
        try:
            self._log_events(evaluation)
        except Exception as error:  # whatever it is: events are for looking at, and end no training
            self._without_events = True
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(
                f"no more events for TensorBoard are written in {self.path} ({reason}); the training goes on without",
                stacklevel=2,
            )

    def log_decision(self, decision: Decision) -> None:
        """Adds a line to the decisions."""
        with writing(self.path):
            _append(self.path / "decisions.jsonl", decision)

    def finish(self, result: RunResult) -> None:
        """Writes the result."""
        with writing(self.path):
            write_json(self.path / "result.json", result.to_json())

    def close(self) -> None:
        """Closes the events and lets others write."""
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
        self._events.flush()


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
        return RunConfig.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`out` must hold a run to resume, got a damaged {file} ({error}); take another folder"
        ) from None


def saved_result(path: Path) -> RunResult | None:
    """The result of the run in the folder `path`; None if it is not finished.

    Raises:
        ValueError: if its file is damaged.
    """
    file = path / "result.json"
    if not file.exists():
        return None
    try:
        return RunResult.from_json(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"`out` must hold a run, got a damaged {file} ({error}); remove the file and resume") from None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns an error of the file system into one that names `out`, what was wrong and a remedy.

    Args:
        folder: that is written to.

    Raises:
        OSError: of the same kind, when writing fails.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        reason = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
        raise type(error)(
            f"`out` must be a folder that can be written, got {str(folder)!r} ({reason}); "
            "free space or take another folder"
        ) from error


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _append(path: Path, record: Any) -> None:
    """Adds one line whole or not at all."""
    line = (json.dumps(asdict(record), allow_nan=False) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except BaseException:
            file.truncate(before)
            raise


def check_same(config: RunConfig, saved: RunConfig) -> None:
    """Checks that a run may go on with `config`; where its data are and its device may change.

    Raises:
        ValueError: if another setting differs.
    """
    if differ := differences(config, saved):
        raise ValueError(
            f"`resume` must keep the settings of the run, got others (now and saved): {'; '.join(differ)}; "
            "leave them out or take another folder"
        )


def differences(config: RunConfig, other: RunConfig) -> list[str]:
    """The settings in which two runs differ, as text; where their data are and what reads them is none.

    Args:
        config: of the one run, whose values come first.
        other: of the other.
    """
    return [text for text in config.differences(other) if text.partition(":")[0] not in _WHERE]
