"""The work of a study: workers take jobs from its board until nothing is due."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from adabatch._errors import ArgumentError
from adabatch.lab import tasks
from adabatch.lab.study import cooled
from adabatch.lab.study.board import Board, Claim, LostError, Standing, quiet
from adabatch.lab.study.curve import Curve
from adabatch.lab.study.due import due
from adabatch.lab.study.grid import Grid, Job
from adabatch.lab.tasks import Data
from adabatch.lab.training import writing
from adabatch.lab.training.interrupt import Interrupted, Interrupts

LOOK_SECONDS: Final = 1.0  # between looks at the board while others do all that is due
_GONE_SECONDS: Final = 30.0  # for workers to save after a signal


@dataclass(frozen=True, slots=True)
class View:
    """A study at one moment, for progress.

    Attributes:
        standing: of the board.
        due: jobs that are due, those under way among them.
        own: the job of this process, if it trains one itself.
        now: where that one stands.
    """

    standing: Standing
    due: Sequence[Job]
    own: Job | None = None
    now: cooled.Now | None = None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all that is due now is done, if jobs take as long as those like them; None before any is."""
        done = [(key, curve.wall_seconds) for key, curve in self.standing.done.items() if curve.wall_seconds]
        if not done:
            return None
        typical = median(seconds for _, seconds in done)
        total = 0.0
        for job in self.due:
            alike = [seconds for key, seconds in done if key.startswith(f"{job.cell.model}-{job.cell.batch_size}-")]
            total += median(alike) if alike else typical
        return total / max(1, len(self.standing.running))


Listener = Callable[[View], None]


def check_data(grid: Grid, data: Data) -> None:
    """Raises unless every batch size fits into every share of the data.

    Raises:
        ValueError: if one does not.
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
        out: the folder of the study; states of unfinished trainings lie in it.
        progress: called a few times per second.

    Raises:
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP; the state of the job under way is saved.
        OSError: if the folder cannot be written.
    """
    with Interrupts() as interrupts:
        while True:
            view = look(board, grid)
            if progress is not None:
                progress(view)
            if not view.due:
                return
            claim = board.claim([job for job in view.due if job.key not in view.standing.running])
            if claim is None:
                _wait(interrupts)
                continue
            _do(board, claim, grid, data, out, view, progress)


def look(board: Board, grid: Grid) -> View:
    """The study now; a job whose workers were lost too often counts as done, without a curve."""
    standing = board.standing()
    lost = {key: Curve((), "lost") for key in standing.given_up}
    standing = replace(standing, done={**lost, **standing.done})
    return View(standing, [job for job in due(grid, standing.done) if job.key not in standing.done])


def _wait(interrupts: Interrupts) -> None:
    """Waits for other workers."""
    end = time.monotonic() + LOOK_SECONDS
    while time.monotonic() < end:
        if interrupts.seen:
            raise Interrupted(None, interrupts.number or 0, kept="the same command goes on")
        time.sleep(0.05)


def _do(board: Board, claim: Claim, grid: Grid, data: Data, out: Path, view: View, progress: Listener | None) -> None:
    """Trains one job and notes its curve."""
    job = claim.job
    state = out / "states" / f"{job.run}.pt"

    def tell(now: cooled.Now) -> None:
        board.beat(claim)
        if progress is not None:
            progress(replace(view, own=job, now=now))

    try:
        with writing(out):
            curve = cooled.train(job, grid, data, state=state, progress=tell)
    except LostError:
        return
    except torch.OutOfMemoryError:
        curve = Curve((), "out of memory")
    except BaseException as error:
        with suppress(Exception):  # a lost connection must not hide the error
            board.give_back(claim, error=None if isinstance(error, KeyboardInterrupt) else repr(error)[:500])
        raise
    with suppress(LostError):
        board.finish(claim, curve)
    if job.searches or job.epochs == grid.max_epochs or curve.stopped != "budget":
        with suppress(OSError):
            state.unlink(missing_ok=True)


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
        jobs: how many workers.
        storage: address of the board's storage.
        name: of the study in it.
        progress: called about once per second.

    Raises:
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP; workers have saved their states.
        RuntimeError: if a worker failed.
    """
    if grid.base.threads is None:
        grid = replace(grid, base=replace(grid.base, threads=max(1, (os.cpu_count() or 1) // jobs)))
    context = multiprocessing.get_context("spawn")
    given = (grid, storage, name, out, os.getpid())
    workers = [context.Process(target=_worker, args=given) for _ in range(jobs)]
    with Interrupts() as interrupts:
        for worker in workers:
            worker.start()
        try:
            while any(worker.is_alive() for worker in workers):
                if progress is not None:
                    progress(look(board, grid))
                _wait(interrupts)
                if any(worker.exitcode not in (None, 0) for worker in workers):
                    break
        finally:
            _end(workers)
    if any(worker.exitcode for worker in workers) and look(board, grid).due:
        raise WorkerFailedError("a worker of the study ended with an error; what is finished is kept")


class WorkerFailedError(RuntimeError):
    """A worker process of a study ended with an error."""


def _end(workers: Sequence[Any]) -> None:
    """Ends workers that are still there, first kindly."""
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    end = time.monotonic() + _GONE_SECONDS
    for worker in workers:
        worker.join(max(0.0, end - time.monotonic()))
        if worker.is_alive():
            worker.kill()
            worker.join()


def _worker(grid: Grid, storage: str, name: str, out: Path, parent: int) -> None:
    """The main function of a worker process."""
    quiet()
    data = tasks.get(grid.base.task).load(grid.base.data)
    board = Board(grid, storage, name=name, facts=facts(data))

    def still_wanted(_view: View) -> None:
        if os.getppid() != parent:
            raise Interrupted(None, kept="the command that started this worker is gone")

    with suppress(KeyboardInterrupt):
        work(board, grid, data, out, progress=still_wanted)
