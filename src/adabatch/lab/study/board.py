"""The board of a study: which jobs are done, under way and free, in an Optuna storage that many machines may share.

A job is an Optuna trial. It is posted in one transaction, with its job and its worker. So two workers who post the same
job find out: the trial with the lower number counts. A worker shows at intervals that it is alive. One on this machine
whose process is gone, or one elsewhere that has shown nothing for `LEASE_SECONDS`, has lost its trial, and its job is
free again. Signs of life come from the training itself, after an update and after a chunk of an evaluation, not from a
thread beside it: so a training that hangs gives none. Optuna's queue is not used: on SQLite two workers can take the
same waiting trial from it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from adabatch._errors import ArgumentError, MissingPackageError
from adabatch.lab.study.curve import Curve
from adabatch.lab.study.grid import Grid, Job

FORMAT: Final = 2  # of trials; in 1 each LR rule had a training of its own
BEAT_SECONDS: Final = 10.0
LEASE_SECONDS: Final = 300.0  # without a beat, for a worker on another machine
LOSSES: Final = 5  # of workers over one job without a new point, after which nobody tries it again
LOCK_SECONDS: Final = 60  # to wait for a lock of SQLite
CONNECT_SECONDS: Final = 10  # to wait for a server
OPEN_SECONDS: Final = 3.0  # to try again: workers that create a storage at the same moment collide
GRACE_SECONDS: Final = 10  # after which the lock of a journal file is that of a dead process
JOURNAL: Final = ".journal"
STORAGES: Final = "sqlite:///FILE, postgresql+psycopg://..., or a path that ends in .journal"


@dataclass(slots=True)
class Claim:
    """A job that this worker has taken.

    Attributes:
        job: the job.
        trial: Optuna's number of its trial, over all studies of the storage.
        moved: whether a point was measured since.
        beat: when the worker last showed that it is alive.
    """

    job: Job
    trial: int
    moved: bool = False
    beat: float = -math.inf


@dataclass(frozen=True, slots=True)
class Standing:
    """The board at one moment.

    Attributes:
        done: curves by job key.
        running: workers by job key, each as `"host, process"`.
        lost: how often each job's worker was lost before it had measured a point.
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
        storage: the address of an Optuna storage: `sqlite:///FILE`, `postgresql+psycopg://...`, or a path that ends in
            `.journal`.
        name: of the study in the storage.
        facts: of the data, that must not differ between workers.

    Attributes:
        identity: a hash of the settings and facts on which results depend.

    Raises:
        ValueError: if the storage cannot be reached, then or later, or holds a study of other settings or data under
            this name.
        ModuleNotFoundError: if Optuna is not installed.
    """

    def __init__(self, grid: Grid, storage: str, *, name: str, facts: Mapping[str, Any]) -> None:
        self._optuna = _optuna_here()
        self._raised, self._unknown = _errors_of(self._optuna)
        self._states = self._optuna.trial.TrialState
        self._models = grid.models
        self._seen: dict[int, tuple[Any, float]] = {}  # beats of others, and when this process saw them first
        self._shown = hidden(storage)
        self.identity = hashlib.sha256(json.dumps([grid.identity(), facts]).encode()).hexdigest()[:12]
        self._is_file, self._agreed = storage.endswith(JOURNAL) or storage.startswith("sqlite"), False
        self._open(storage, name)
        self._agree(grid, facts)
        self._agreed = True

    def _open(self, address: str, name: str) -> None:
        """Opens the study in the storage, or creates both."""
        end = time.monotonic() + OPEN_SECONDS
        _check_address(address, self._shown)
        while True:
            try:
                self._storage = _storage(self._optuna, address)
                self._study = self._optuna.create_study(study_name=name, storage=self._storage, load_if_exists=True)
                self._id = self._storage.get_study_id_from_name(name)
                return
            except Exception as error:
                late = time.monotonic() > end
                if isinstance(error, self._unknown) or (late and isinstance(error, self._raised)):
                    raise self._unreached(error) from error
                if late:
                    raise
                time.sleep(random.uniform(0.1, 0.5))

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turns what the storage raises into an error of ours; only calls of the storage belong inside."""
        try:
            yield
        except self._optuna.exceptions.UpdateFinishedTrialError:
            raise
        except self._raised as error:
            raise self._unreached(error) from error

    def _unreached(self, error: Exception) -> ArgumentError:
        remedy = "look whether it is there and the address is right"
        if self._is_file:
            remedy = "see that its folder is there and has space, and delete a damaged file; or give another"
        elif isinstance(error, self._unknown):
            remedy = f"install its driver, or give {STORAGES}"
            if self._shown.startswith("postgresql"):
                remedy = "run: pip install 'psycopg[binary]', and write postgresql+psycopg://..."
        kept = "; what is finished is kept" if self._agreed else ""
        rule, got = "must lead to a storage of Optuna's that can be reached", f"{self._shown} ({_line(error)})"
        return ArgumentError("storage", rule, got=got, remedy=remedy + kept)

    def _agree(self, grid: Grid, facts: Mapping[str, Any]) -> None:
        """Raises unless the study that is there is this one: the first trial with settings holds them."""
        there = self._settings()
        if there is None:
            mine = {"format": FORMAT, "grid": grid.to_json(), "facts": dict(facts)}
            posted = self._optuna.trial.create_trial(state=self._states.PRUNED, user_attrs={"settings": mine})
            with self._reached():
                self._storage.create_new_trial(self._id, posted)
            there = self._settings()
            assert there is not None
        if there.get("format") != FORMAT:
            rule = "must hold a study that this version began"
            remedy = "go on with that version, or give another --out or --name"
            raise ArgumentError("storage", rule, got=f"one of another version in {self._shown}", remedy=remedy)
        remedy = "give the former settings, or another --out or --name"
        rule = f"must hold a study of the same settings, and {self._shown} holds one with"
        if found := grid.differences(there["grid"]):
            raise ArgumentError("storage", f"{rule} {'; '.join(found)}", remedy=remedy)
        for key, value in facts.items():
            if there["facts"].get(key) != value:
                rule = f"must hold a study of the same {key}, and {self._shown} holds one with"
                raise ArgumentError("storage", f"{rule} {there['facts'].get(key)}", got=value, remedy=remedy)

    def _settings(self) -> Any:
        """The settings of the study that is there; None if it is new."""
        return next((trial.user_attrs["settings"] for trial in self._trials() if "settings" in trial.user_attrs), None)

    def _trials(self) -> list[Any]:
        with self._reached():
            return list(self._study.get_trials(deepcopy=False))

    def standing(self) -> Standing:
        """What is done and under way; frees the jobs of workers that are gone."""
        done: dict[str, Curve] = {}
        running: dict[str, str] = {}
        lost: Counter[str] = Counter()
        for trial in self._trials():
            attributes, state, key = trial.user_attrs, trial.state, trial.user_attrs.get("key")
            if key is None:
                continue
            worker = attributes["worker"]
            if state == self._states.RUNNING and self._is_gone(trial.number, worker):
                state = self._states.FAIL
                self._free(trial.number)
            if state == self._states.RUNNING:
                running.setdefault(key, f"{worker['host']}, process {worker['process']}")
            elif state == self._states.COMPLETE:
                done.setdefault(key, Curve.of_json(attributes["curve"]))
            elif state == self._states.FAIL and "error" not in attributes and not worker["moved"]:
                lost[key] += 1
        return Standing(done, running, dict(lost))

    def _free(self, number: int) -> None:
        """Frees the job of a worker that is gone."""
        with suppress(self._optuna.exceptions.UpdateFinishedTrialError), self._reached():  # another freed it
            self._study.tell(number, state=self._states.FAIL, skip_if_finished=True)

    def claim(self, jobs: Sequence[Job]) -> Claim | None:
        """Takes the first of `jobs` that nobody has done or is doing; None if there is none."""
        held = {key for _, key in self._held()}
        for job in jobs:
            if job.key in held:
                continue
            posted = self._posted(job)
            with self._reached():
                claim = Claim(job, self._storage.create_new_trial(self._id, posted), beat=time.monotonic())
                number = self._storage.get_trial_number_from_id(claim.trial)
            if not any(key == job.key and other < number for other, key in self._held()):
                return claim
            with self._reached():
                self._storage.set_trial_state_values(claim.trial, self._states.PRUNED)  # another was quicker
        return None

    def _held(self) -> list[tuple[int, str]]:
        """Number and key of the trials that are done or under way."""
        states = (self._states.RUNNING, self._states.COMPLETE)
        found = [trial for trial in self._trials() if trial.state in states]
        return [(trial.number, trial.user_attrs["key"]) for trial in found if "key" in trial.user_attrs]

    def _posted(self, job: Job) -> Any:
        """A trial of this worker's, with the job's values as parameters, for Optuna's own tables and pictures."""
        kinds = self._optuna.distributions
        distributions = {
            "model": kinds.CategoricalDistribution(list(self._models)),
            "batch_size": kinds.IntDistribution(1, 2**40),
            "seed": kinds.IntDistribution(0, 2**62),
            "epochs": kinds.IntDistribution(1, 2**40),
            "fraction": kinds.FloatDistribution(0, 1),
            "lr": kinds.FloatDistribution(0, sys.float_info.max),
            "momentum": kinds.FloatDistribution(0, 1),
        }
        return self._optuna.trial.create_trial(
            state=self._states.RUNNING,
            params={name: getattr(job, name) for name in distributions},
            distributions=distributions,
            user_attrs={"key": job.key, "job": job.to_json(), "worker": _myself()},
        )

    def beat(self, claim: Claim, *, moved: bool = False) -> None:
        """Shows that this worker is alive, if it is time; `moved` after a point was measured.

        Raises:
            LostError: if another worker took it for dead and freed its job.
        """
        if claim.moved >= moved and time.monotonic() < claim.beat + BEAT_SECONDS:
            return
        claim.beat, claim.moved = time.monotonic(), claim.moved or moved
        me = _myself(moved=claim.moved)
        with self._own(claim):
            self._storage.set_trial_user_attr(claim.trial, "worker", me)

    def finish(self, claim: Claim, curve: Curve) -> None:
        """Notes the result of a job.

        Raises:
            LostError: if another worker took this one for dead and freed its job.
        """
        best = min((point.test_loss for point in curve.points if point.test_loss is not None), default=math.inf)
        told = curve.to_json()
        with self._own(claim):
            self._storage.set_trial_user_attr(claim.trial, "curve", told)
            self._storage.set_trial_state_values(claim.trial, self._states.COMPLETE, [best])

    def give_back(self, claim: Claim, *, error: str | None = None) -> None:
        """Frees a job that this worker will not finish; `error` if it cannot be done."""
        with suppress(LostError), self._own(claim):
            self._storage.set_trial_user_attr(claim.trial, "error", error or "given back")
            self._storage.set_trial_state_values(claim.trial, self._states.FAIL)

    @contextmanager
    def _own(self, claim: Claim) -> Iterator[None]:
        """Raises LostError if the trial is not this worker's any more."""
        try:
            with self._reached():
                yield
        except self._optuna.exceptions.UpdateFinishedTrialError as error:
            raise LostError(claim.job.key) from error

    def _is_gone(self, number: int, worker: Mapping[str, Any]) -> bool:
        """Whether the worker of a trial is gone."""
        if worker["place"] == _place():
            return bool(_started(worker["process"]) != worker["started"])
        now = time.monotonic()
        if number not in self._seen or self._seen[number][0] != worker["beat"]:
            self._seen[number] = (worker["beat"], now)
        first: float = self._seen[number][1]
        return now - first > LEASE_SECONDS


def _line(error: BaseException) -> str:
    """The first line of an error's cause, without passwords."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, json.JSONDecodeError):
        return "no journal, or a damaged one"
    return hidden(str(error).strip().partition("\n")[0] or type(error).__name__)


class LostError(Exception):
    """Another worker took this one for dead."""


def quiet() -> None:
    """Keeps Optuna from telling on standard error what it does, warnings apart; for a command."""
    optuna = _optuna_here()
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def hidden(text: str) -> str:
    """An address, or a text with one, without its password."""
    without = re.sub(r"(://[^:/@\s]*):.*@", r"\1:***@", text)
    return re.sub(r"((?:password|passfile|sslpassword)=)[^&\s]*", r"\1***", without)


def _optuna_here() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise MissingPackageError(None, "a study needs Optuna", remedy="run: pip install 'adabatch[study]'") from error
    return optuna


def _errors_of(optuna: Any) -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """The errors by which Optuna's storages say that they fail, and those by which it does not know their kind.

    The first are its own, and those of databases and files. A record that is gone is a KeyError, a damaged line of a
    journal a ValueError, a lost lock of one a RuntimeError.
    """
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

    failed = optuna.exceptions.OptunaError, SQLAlchemyError, OSError, KeyError, ValueError, RuntimeError
    return failed, (ImportError, NoSuchModuleError)


def _check_address(address: str, shown: str) -> None:
    """Raises if no storage can have this address, before a driver prints parts of it."""
    if address.endswith(JOURNAL):
        if "://" in address:
            raise ArgumentError(
                "storage", "must be a path if it ends in .journal", got=shown, remedy="write the path alone"
            )
        return
    rule, example = "must be the address of a database, or a path that ends in .journal", "sqlite:///study.db"
    if "://" not in address:
        remedy = f"write sqlite:///{address}" if address else f"write, for example, {example}"
        raise ArgumentError("storage", rule, value=address, remedy=remedy)
    if "@" in re.sub(r"^[^@]*@", "", address.partition("?")[0]):
        remedy = "write @ as %40 in a name or a password"
        raise ArgumentError("storage", "must hold one @, before the host", got=shown, remedy=remedy)
    if address.startswith("sqlite") and not re.sub(r"^[^:]*:///?", "", address).replace(":memory:", ""):
        remedy = f"name a file, such as {example}"
        raise ArgumentError("storage", "must outlive this process", got=shown, remedy=remedy)


def _storage(optuna: Any, address: str) -> Any:
    """The storage of an address."""
    if address.endswith(JOURNAL):
        journal = optuna.storages.journal
        lock = journal.JournalFileSymlinkLock(address, grace_period=GRACE_SECONDS)
        return optuna.storages.JournalStorage(journal.JournalFileBackend(address, lock_obj=lock))
    engine: dict[str, Any] = {"pool_pre_ping": True}
    if address.startswith("sqlite"):
        engine = {"connect_args": {"timeout": LOCK_SECONDS}}
    elif re.match(r"postgresql(\+psycopg2?)?://", address):
        engine["connect_args"] = {"connect_timeout": CONNECT_SECONDS}
    return optuna.storages.RDBStorage(address, engine_kwargs=engine)


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


def _myself(*, moved: bool = False) -> dict[str, Any]:
    """This process, as others look it up; `moved` if it has measured a point of its job."""
    me = {"host": socket.gethostname(), "process": os.getpid(), "place": _place(), "started": _started(os.getpid())}
    return me | {"beat": time.time(), "moved": moved}
