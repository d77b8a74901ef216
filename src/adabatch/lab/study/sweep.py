"""The work of a study: workers take jobs from its board until nothing is due."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from adabatch._errors import AdabatchError, ArgumentError, UsageError
from adabatch.lab import tasks
from adabatch.lab.study import cooled
from adabatch.lab.study.board import LOSSES, Board, Claim, LostError, Standing, quiet
from adabatch.lab.study.curve import Curve
from adabatch.lab.study.due import due_by_case, in_order
from adabatch.lab.study.grid import Case, Grid, Job
from adabatch.lab.tasks import Data, decode
from adabatch.lab.training import writing
from adabatch.lab.training.interrupt import Interrupted, Interrupts

LOOK_SECONDS: Final = 1.0  # between looks at the board while others do all that is due
_GONE_SECONDS: Final = 30.0  # for workers to save after a signal


@dataclass(frozen=True, slots=True)
class View:
    """A study at one moment, for progress.

    Attributes:
        grid: of the study.
        standing: of the board.
        due: jobs that are due, each once, those under way among them.
        left: the same for each case; several cases may wait for the same one.
        own: the job of this process, if it trains one itself.
        now: where that one stands.
    """

    grid: Grid
    standing: Standing
    due: Sequence[Job]
    left: Mapping[Case, Sequence[Job]] = field(default_factory=dict)
    own: Job | None = None
    now: cooled.Now | None = None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all that is due now is done, if trainings take as long as those like them; None before any is.

        A training that goes on counts as if it goes to the end of its budget.
        """
        epochs = self.grid.epochs
        done = {
            key: curve.wall_seconds
            for key, curve in self.standing.done.items()
            if curve.wall_seconds and key.endswith(f"-{epochs}epochs")
        }
        if not done:
            return None
        total = 0.0
        for job in self.due:
            start = f"{job.model}-{job.batch_size}-{job.fraction}-"
            alike = [seconds for key, seconds in done.items() if key.startswith(start)]
            total += median(alike or done.values()) * (job.epochs / epochs - (job.epochs > epochs))
        return total / max(1, len(self.standing.running))


Listener = Callable[[View], None]


def check_data(grid: Grid, data: Data) -> None:
    """Raises unless the samples that are asked for are there, and every batch size fits into every share of them.

    Raises:
        ValueError: if not.
    """
    for fraction in grid.fractions:
        size = cooled.share_of(data, grid, fraction).dataset_size
        if grid.batch_sizes[-1] > size:
            where = "of the data set" if fraction == 1 else f"of {fraction:g} of the data set"
            rule, remedy = f"must be at most the {size:,} samples {where}", "leave out larger ones"
            raise ArgumentError("batch_sizes", rule, got=f"{grid.batch_sizes[-1]:,}", remedy=remedy)


def facts(data: Data) -> dict[str, Any]:
    """The facts of the data that workers must agree on."""
    return {"data": data.fingerprint()}


def work(board: Board, grid: Grid, data: Data, out: Path, *, progress: Listener | None = None) -> None:
    """Does jobs until nothing is due and nobody is at work.

    Args:
        board: of the study.
        grid: of the study.
        data: of the task, whole.
        out: the folder of the study; while it is under way states of trainings lie in it.
        progress: called a few times per second.

    Raises:
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP; the state of the job under way is saved.
        ValueError: if the storage cannot be reached any more.
        OSError: if the folder cannot be written.
    """
    states = out / "states" / board.identity
    with Interrupts() as interrupts:
        while True:
            view = look(board, grid)
            if progress is not None:
                progress(view)
            if not view.due:
                break
            _check(interrupts)
            claim = board.claim([job for job in view.due if job.key not in view.standing.running])
            if claim is None:
                _wait(interrupts)
                continue
            with writing(out):
                _do(board, claim, grid, data, states, view, progress)
    shutil.rmtree(states, ignore_errors=True)
    with suppress(OSError):  # another study has states there
        states.parent.rmdir()


def look(board: Board, grid: Grid) -> View:
    """The study now; a job whose workers were lost too often counts as done, without a curve."""
    standing = board.standing()
    lost = {key: Curve((), "lost") for key in standing.given_up}
    standing = replace(standing, done={**lost, **standing.done})
    left = due_by_case(grid, standing.done)
    return View(grid, standing, in_order(left), left)


def _wait(interrupts: Interrupts) -> None:
    """Waits for other workers."""
    end = time.monotonic() + LOOK_SECONDS
    while time.monotonic() < end:
        _check(interrupts)
        time.sleep(0.05)


def _check(interrupts: Interrupts) -> None:
    if interrupts.seen:
        raise Interrupted(None, interrupts.number or 0, kept="the same command goes on")


def _do(
    board: Board, claim: Claim, grid: Grid, data: Data, states: Path, view: View, progress: Listener | None
) -> None:
    """Trains one job and notes its curve."""
    job = claim.job
    state = states / f"{job.run}.pt"

    def tell(now: cooled.Now) -> None:
        board.beat(claim, moved=now.point is not None)
        if progress is not None:
            progress(replace(view, own=job, now=now))

    try:
        curve = cooled.train(job, grid, data, state=state, progress=tell)
    except LostError:
        return
    except BaseException as error:
        if not _is_out_of_memory(error):
            with suppress(Exception):  # a lost connection must not hide the error
                board.give_back(claim, error=None if isinstance(error, KeyboardInterrupt) else repr(error)[:500])
            raise
        curve = Curve((), "out of memory")
    with suppress(LostError):
        board.finish(claim, curve)
    goes_on = curve.stopped == "arrived" or (curve.stopped == "budget" and job.epochs < grid.max_epochs)
    if job.searches or not goes_on:
        with suppress(OSError):
            state.unlink(missing_ok=True)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a device or, in torch's allocator, of the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


# Several workers on one machine.


def work_together(
    board: Board,
    grid: Grid,
    out: Path,
    *,
    jobs: int,
    storage: str,
    name: str,
    progress: Listener | None = None,
) -> None:
    """Starts worker processes and waits for them.

    Args:
        board: of the study.
        grid: of the study; if it names no number of threads, workers share the cores.
        out: the folder of the study.
        jobs: how many workers, at most; not more than there are trainings due.
        storage: address of the board's storage.
        name: of the study in it.
        progress: called about once per second.

    Raises:
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP; workers have saved their states.
        RuntimeError: if workers were killed again and again.
        Exception: that a worker raised.
    """
    if grid.base.threads is None:
        grid = replace(grid, base=replace(grid.base, threads=max(1, decode.cores() // jobs)))
    given = (grid, storage, name, out, os.getpid())
    jobs = min(jobs, len(look(board, grid).due))  # none where the study is done
    workers: list[_Worker] = []
    killed = done = 0
    with Interrupts() as interrupts:
        try:
            workers += [_Worker(given) for _ in range(jobs)]
            while any(worker.is_alive for worker in workers):
                view = look(board, grid)
                if progress is not None:
                    progress(view)
                if len(view.standing.done) > done:
                    killed, done = 0, len(view.standing.done)
                _wait(interrupts)
                for place, worker in enumerate(workers):
                    if worker.was_killed():
                        killed += 1
                        if killed > LOSSES * jobs:
                            remedy = "see whether memory runs out, and take fewer --jobs"
                            raise UsageError(None, "workers of the study were killed again and again", remedy=remedy)
                        gone, goes_on = worker.process.pid, "another takes up its training"
                        warnings.warn(f"process {gone}, a worker of the study, was killed; {goes_on}", stacklevel=1)
                        workers[place] = _Worker(given)
        finally:
            _end(workers)


class _Worker:
    """A worker process that this one started."""

    def __init__(self, given: tuple[Grid, str, str, Path, int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._errors, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_worker, args=(*given, sender))
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # workers inherit it: Ctrl-C is this process's affair
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        sender.close()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.is_alive()

    def was_killed(self) -> bool:
        """Whether it ended before its work; raises the error with which it ended, if it is that."""
        if self.process.exitcode in (None, 0):
            return False
        try:
            error = self._errors.recv()
        except (EOFError, OSError):
            return True
        raise error


def _end(workers: Sequence[_Worker]) -> None:
    """Ends workers that are still there, first kindly."""
    for worker in workers:
        if worker.is_alive:
            worker.process.terminate()
    end = time.monotonic() + _GONE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, end - time.monotonic()))
        if worker.is_alive:
            worker.process.kill()
            worker.process.join()


def _worker(grid: Grid, storage: str, name: str, out: Path, parent: int, errors: Any) -> None:
    """The main function of a worker process: exits with 0 if the study is done."""

    def still_wanted(_view: View) -> None:
        if os.getppid() != parent:
            raise Interrupted(None, kept="the command that started this worker is gone")

    try:
        quiet()
        data = tasks.get(grid.base.task).load(grid.base.data)
        work(Board(grid, storage, name=name, facts=facts(data)), grid, data, out, progress=still_wanted)
    except KeyboardInterrupt:
        sys.exit(1)
    except Exception as error:
        if not isinstance(error, AdabatchError | OSError):
            error.add_note(f"in a worker of the study:\n{traceback.format_exc()}")
        errors.send(error)
        sys.exit(1)
