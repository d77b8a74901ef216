"""The board of a study: which jobs are done, under way and free, in an Optuna storage that many machines may share.

A job is an Optuna trial. Its name stands in the trial's attributes from the start. So two workers who post the same job
find out: the trial with the lower number counts. A worker shows at intervals that it is alive. One on this machine
whose process is gone, or one elsewhere that has shown nothing for `LEASE_SECONDS`, has lost its trial, and its job is
free again. Only Optuna's public functions are used, so any of its storages serves: SQLite, PostgreSQL, a journal file.
"""

from __future__ import annotations

import math
import os
import random
import re
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Final

from adabatch._errors import ArgumentError, MissingPackageError
from adabatch.lab.study.curve import Curve
from adabatch.lab.study.grid import RULES, Grid, Job

BEAT_SECONDS: Final = 10.0
LEASE_SECONDS: Final = 300.0  # without a beat, for a worker on another machine
LOSSES: Final = 5  # of workers over one job, after which nobody tries it again
WAIT_SECONDS: Final = 100  # for a lock of SQLite
JOURNAL: Final = ".journal"
_TRIES: Final = 5  # to create a storage, which several workers may begin at once


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this worker has taken."""

    job: Job
    trial: Any


@dataclass(frozen=True, slots=True)
class Standing:
    """The board at one moment.

    Attributes:
        done: curves by job key.
        running: workers by job key, each as `"host, process"`.
        lost: how often each job's worker was lost.
        given_up: keys of jobs whose worker was lost too often.
    """

    done: Mapping[str, Curve]
    running: Mapping[str, str]
    lost: Mapping[str, int] = field(default_factory=dict)

    @property
    def given_up(self) -> list[str]:
        """Keys of jobs whose workers were lost too often."""
        return [key for key, count in self.lost.items() if count >= LOSSES and key not in self.done]


class Board:
    """The jobs of one study.

    Args:
        grid: the settings of the study.
        storage: the address of an Optuna storage: `sqlite:///FILE`, `postgresql://...`, or a path that ends in
            `.journal`.
        name: of the study in the storage.
        facts: of the data, that must not differ between workers.

    Raises:
        ValueError: if the storage cannot be reached, or holds a study of other settings or data under this name.
        ModuleNotFoundError: if Optuna is not installed.
    """

    def __init__(self, grid: Grid, storage: str, *, name: str, facts: Mapping[str, Any]) -> None:
        self._optuna = _optuna_here()
        self._grid = grid
        self._seen: dict[int, tuple[Any, float]] = {}  # beats of others, and when this process saw them first
        self._beat = 0.0
        self._shown = hidden(storage)
        self._study = self._opened(storage, name)
        self._agree(grid, facts)

    def _opened(self, storage: str, name: str) -> Any:
        """The study in the storage; tried a few times, since workers that create it at the same moment collide."""
        optuna = self._optuna
        for tried in range(1, _TRIES + 1):
            try:
                return optuna.create_study(
                    study_name=name,
                    storage=_storage(optuna, storage),
                    sampler=optuna.samplers.RandomSampler(),
                    load_if_exists=True,
                )
            except Exception as error:
                if tried == _TRIES:
                    rule, got = "must be a storage of Optuna's that can be reached", f"{self._shown}: {_line(error)}"
                    remedy = f"{_remedy(error)}look whether the server runs and the address is right"
                    raise ArgumentError("storage", rule, got=got, remedy=remedy) from error
                time.sleep(random.uniform(0.1, 0.3) * tried)
        raise AssertionError

    def _agree(self, grid: Grid, facts: Mapping[str, Any]) -> None:
        """Raises unless the study that is there is this one."""
        attributes = self._study.user_attrs
        if "grid" not in attributes:
            self._study.set_user_attr("facts", dict(facts))
            self._study.set_user_attr("grid", grid.to_json())
            attributes = self._study.user_attrs  # another worker may have been quicker
        remedy = "give the former settings, or another --out or --name"
        if found := grid.differences(attributes["grid"]):
            rule = f"must hold a study of the same settings, and {self._shown} holds one with"
            raise ArgumentError("storage", f"{rule} {'; '.join(found)}", remedy=remedy)
        for key, value in facts.items():
            if attributes["facts"].get(key) != value:
                rule = f"must hold a study of the same {key}, and {self._shown} holds one with"
                raise ArgumentError("storage", f"{rule} {attributes['facts'].get(key)}", got=value, remedy=remedy)

    def standing(self) -> Standing:
        """What is done and under way; frees the jobs of workers that are gone."""
        states = self._optuna.trial.TrialState
        done: dict[str, Curve] = {}
        running: dict[str, str] = {}
        lost: Counter[str] = Counter()
        for trial in self._study.get_trials(deepcopy=False):
            attributes = trial.user_attrs
            key = attributes.get("key")
            if key is None:
                continue
            if trial.state == states.COMPLETE:
                done.setdefault(key, Curve.of_json(attributes["curve"]))
            elif trial.state == states.FAIL and "error" not in attributes:
                lost[key] += 1
            elif trial.state == states.RUNNING:
                if self._is_gone(trial.number, attributes.get("worker")):
                    with suppress(ValueError, self._optuna.exceptions.UpdateFinishedTrialError):  # another freed it
                        self._study.tell(trial.number, state=states.FAIL)
                    lost[key] += 1
                else:
                    worker = attributes.get("worker", {})
                    running[key] = f"{worker.get('host', '?')}, process {worker.get('process', '?')}"
        return Standing(done, running, dict(lost))

    def claim(self, jobs: Sequence[Job]) -> Claim | None:
        """Takes the first of `jobs` that nobody has done or is doing; None if there is none."""
        free = {job.key: job for job in jobs}
        while free:
            states = self._optuna.trial.TrialState
            held = (states.WAITING, states.RUNNING, states.COMPLETE)
            trials = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state in held]
            waiting = [trial.user_attrs.get("key") for trial in trials if trial.state == states.WAITING]
            if not waiting:
                for trial in trials:
                    free.pop(trial.user_attrs.get("key"), None)
                if not free:
                    return None
                job = next(iter(free.values()))
                self._study.enqueue_trial(_values(job), user_attrs={"key": job.key, "job": job.to_json()})
            if (claim := self._take()) is not None:
                return claim
        return None

    def _take(self) -> Claim | None:
        """Takes a job that was posted; None if another worker has it."""
        states = self._optuna.trial.TrialState
        trial = self._study.ask()
        key = trial.user_attrs.get("key")
        older = [
            each
            for each in self._study.get_trials(deepcopy=False)
            if each.number < trial.number
            and each.user_attrs.get("key") == key
            and each.state in (states.WAITING, states.RUNNING, states.COMPLETE)
        ]
        if key is None or older:
            self._study.tell(trial, state=states.PRUNED)
            return None
        claim = Claim(Job.of_json(trial.user_attrs["job"]), trial)
        self.beat(claim, now=True)
        _note_values(trial, models=self._grid.models)
        return claim

    def beat(self, claim: Claim, *, now: bool = False) -> None:
        """Shows that this worker is alive, if it is time.

        Raises:
            LostError: if another worker took it for dead and freed its job.
        """
        if not now and time.monotonic() < self._beat + BEAT_SECONDS:
            return
        self._beat = time.monotonic()
        with self._held(claim):
            claim.trial.set_user_attr("worker", {**_myself(), "beat": time.time()})

    def finish(self, claim: Claim, curve: Curve) -> None:
        """Notes the result of a job.

        Raises:
            LostError: if another worker took this one for dead and freed its job.
        """
        best = min((point.test_loss for point in curve.points if point.test_loss is not None), default=math.inf)
        with self._held(claim):
            claim.trial.set_user_attr("curve", curve.to_json())
            self._study.tell(claim.trial, best)

    def give_back(self, claim: Claim, *, error: str | None = None) -> None:
        """Frees a job that this worker will not finish; `error` if it cannot be done."""
        with suppress(LostError), self._held(claim):
            claim.trial.set_user_attr("error", error or "given back")
            self._study.tell(claim.trial, state=self._optuna.trial.TrialState.FAIL)

    @contextmanager
    def _held(self, claim: Claim) -> Iterator[None]:
        """Raises LostError if the trial is not this worker's any more."""
        try:
            yield
        except (self._optuna.exceptions.UpdateFinishedTrialError, ValueError) as error:
            raise LostError(claim.job.key) from error

    def _is_gone(self, number: int, worker: Mapping[str, Any] | None) -> bool:
        """Whether the worker of a trial is gone."""
        if worker is not None and worker["place"] == _place():
            return bool(_started(worker["process"]) != worker["started"])
        beat, now = None if worker is None else worker["beat"], time.monotonic()
        if self._seen.get(number, (None, 0.0))[0] != beat or number not in self._seen:
            self._seen[number] = (beat, now)
        first: float = self._seen[number][1]
        return now - first > LEASE_SECONDS


def _line(error: Exception) -> str:
    """The first line of an error, without passwords."""
    line = str(error).strip().partition("\n")[0]
    return hidden(line or type(error).__name__)


def _remedy(error: Exception) -> str:
    missing = isinstance(error, ModuleNotFoundError | ImportError)
    return "run: pip install 'psycopg[binary]', and write postgresql+psycopg://...; or " if missing else ""


class LostError(Exception):
    """Another worker took this one for dead."""


def quiet() -> None:
    """Keeps Optuna from telling on standard error what it does, warnings apart; for a command."""
    optuna = _optuna_here()
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def hidden(storage: str) -> str:
    """A storage's address without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", storage)


def _optuna_here() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise MissingPackageError(None, "a study needs Optuna", remedy="run: pip install 'adabatch[study]'") from error
    return optuna


def _storage(optuna: Any, address: str) -> Any:
    """The storage of an address."""
    if address.endswith(JOURNAL):
        backend = optuna.storages.journal.JournalFileBackend(address)
        return optuna.storages.JournalStorage(backend)
    engine = {"connect_args": {"timeout": WAIT_SECONDS}} if address.startswith("sqlite") else {"pool_pre_ping": True}
    return optuna.storages.RDBStorage(address, engine_kwargs=engine)


def _note_values(trial: Any, *, models: Sequence[str]) -> None:
    """Notes the values with which a job was posted as the trial's parameters, for Optuna's own tables and pictures."""
    trial.suggest_categorical("model", list(models))
    trial.suggest_categorical("rule", list(RULES))
    trial.suggest_int("batch_size", 1, 2**40)
    trial.suggest_int("seed", 0, 2**62)
    trial.suggest_int("epochs", 1, 2**40)
    trial.suggest_float("fraction", 0, 1)
    trial.suggest_float("lr", 1e-300, 1e30)
    trial.suggest_float("momentum", 0, 1)


def _values(job: Job) -> dict[str, Any]:
    """The values of a job by their names in Optuna."""
    cell = {field.name: getattr(job.cell, field.name) for field in fields(job.cell)}
    return cell | {name: getattr(job, name) for name in ("seed", "epochs", "lr", "momentum")}


@cache
def _place() -> str:
    """The machine, and on it the space of process numbers: in it a process can be looked up."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def _started(process: int) -> str | None:
    """When a process of this machine started, in the kernel's words; None if it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        pass
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "there"


def _myself() -> dict[str, Any]:
    """This process, as others look it up."""
    process = os.getpid()
    return {"host": socket.gethostname(), "process": process, "place": _place(), "started": _started(process)}
