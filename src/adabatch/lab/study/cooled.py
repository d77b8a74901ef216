"""Cooled learning curves: losses of one training, each after a cooldown of its own.

Under a constant LR the losses of different batch sizes are not comparable: the noise of a small batch keeps its loss
up, and the curves cross. So each point of a curve is measured on a branch: at that place the LR falls linearly to 0,
the losses are taken, and the training goes on from before the branch. The order of samples is the same on both.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

import torch

from adabatch import _files, memory
from adabatch._errors import ArgumentError
from adabatch.lab.study.curve import Curve, CurvePoint
from adabatch.lab.study.grid import Grid, Job, checkpoints, cooldown
from adabatch.lab.study.trainee import Bookmark, Trainee
from adabatch.lab.tasks import Data
from adabatch.lab.training import device as devices
from adabatch.lab.training.interrupt import Interrupted, Interrupts

REPORT_SECONDS: Final = 0.5
TRIED: Final = 3  # updates before the time counts: the first ones of a shape take longer
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Now:
    """Where a training stands.

    Attributes:
        updates: made, without those of cooldowns.
        total: updates of its budget.
        samples_per_second: of the last moments.
        point: a point that has just been measured; None between points.
    """

    updates: int
    total: int
    samples_per_second: float
    point: CurvePoint | None = None


def first_samples(data: Data, *, train: int | None = None, test: int | None = None) -> Data:
    """The first samples of the training set and of the test set; None: all.

    Raises:
        ValueError: if there are not as many.
    """
    for name, wanted, there in (("train", train, len(data.x_train)), ("test", test, len(data.x_test))):
        if (wanted or 0) > there:
            raise ArgumentError(f"{name}_samples", f"must be at most the {there:,} that there are", value=wanted)
    return replace(
        data,
        x_train=data.x_train[:train],
        y_train=data.y_train[:train],
        x_test=data.x_test[:test],
        y_test=data.y_test[:test],
    )


def share_of(data: Data, grid: Grid, fraction: float) -> Data:
    """The data of a case: the first samples of the training set, of these a fixed random share; and of the test set.

    A smaller share is part of every larger one.
    """
    data = first_samples(data, train=grid.train_samples, test=grid.test_samples)
    if fraction == 1:
        return data
    count = len(data.x_train)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    kept = order[: max(1, round(count * fraction))].to(data.x_train.device)
    return replace(data, x_train=data.x_train[kept], y_train=data.y_train[kept])


def train(
    job: Job,
    grid: Grid,
    data: Data,
    *,
    state: Path | None = None,
    progress: Callable[[Now], None] | None = None,
) -> Curve:
    """Trains a job to its cooled curve.

    It ends at its budget, or before that:

    - if a loss is not finite;
    - if it has a target, as soon as both losses were at or below theirs;
    - if it has a target, and beyond the budget in which it was set none of the losses that are missing has fallen by
      1 % within the last doubling of updates.

    Args:
        job: the training.
        grid: of the study.
        data: of the task, whole.
        state: the file from which it goes on, and to which its state is saved after each point and when it is
            interrupted; None keeps nothing.
        progress: called a few times per second.

    Raises:
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP; the state is saved.
        OSError: if the state cannot be written.
    """
    config = grid.config(job)
    device = devices.pick_device(config.device)
    if device.type == "cpu":
        memory.tune_allocator()
    with ExitStack() as around:
        around.enter_context(devices.threads(config.threads))
        around.enter_context(devices.entered(device))
        interrupts = around.enter_context(Interrupts())
        trainee = Trainee(config, share_of(data, grid, job.fraction), device)
        return _CooledRun(job, grid, trainee, state=state, interrupts=interrupts, progress=progress).train()


class _SignalError(Exception):
    """A signal came."""


class _CooledRun:
    """One training with its branches."""

    def __init__(
        self,
        job: Job,
        grid: Grid,
        trainee: Trainee,
        *,
        state: Path | None,
        interrupts: Interrupts,
        progress: Callable[[Now], None] | None,
    ) -> None:
        self._job, self._grid, self._trainee, self._file, self._interrupts = job, grid, trainee, state, interrupts
        self._progress = progress
        an_epoch = trainee.setup.data.dataset_size // job.batch_size
        self._base_updates, self._total = grid.epochs * an_epoch, job.epochs * an_epoch
        self._course = grid.course(job.lr, base_updates=self._base_updates)
        self._points: list[CurvePoint] = []
        self._error: float | None = None  # of the linear approximation
        self._spent, self._began = 0.0, time.perf_counter()  # seconds of all work, before this process and in it
        self._reported = 0.0

    def train(self) -> Curve:
        """Trains to the end."""
        self._go_on()
        self._alive(self._trainee.updates)
        self._try()
        for total in checkpoints(base_updates=self._base_updates, updates=self._total):
            if self._points and total <= self._points[-1].updates:
                continue
            if (ended := self._ended()) is not None:
                return self._curve(ended)
            self._measure(total)
        return self._curve(self._ended() or "budget")

    def _curve(self, stopped: str) -> Curve:
        return Curve(tuple(self._points), stopped, self._spent + time.perf_counter() - self._began, self._error)

    def _measure(self, total: int) -> None:
        """Adds the point after `total` updates, the last of them a cooldown."""
        cool = cooldown(total)
        self._advance(total - cool, self._course.at)
        before, lrs = self._trainee.here(), self._course.cooling(total)
        self._advance(total, lambda update: lrs[update - total], branch=before)
        train_loss, test_loss = self._trainee.losses(after=lambda: self._alive(before.updates))
        plain = self._grid.base.optimizer in ("sgd", "nesterov")  # which step along the gradient
        if total == self._base_updates and plain and not self._job.searches:
            self._error = self._linear_approximation_error()
        size = self._job.batch_size
        point = CurvePoint(total, total * size, self._trainee.seconds, train_loss, test_loss)
        self._points.append(point)
        self._trainee.back(before)
        self._save(before)
        self._tell(before.updates, 0.0, point)

    def _linear_approximation_error(self) -> float | None:
        size, grid = self._job.batch_size, self._grid
        ratio = size / grid.batch_sizes[0]
        return self._trainee.linear_approximation_error(size, lr=grid.base.lr, ratio=ratio)

    def _advance(self, end: int, lr: Callable[[int], float], *, branch: Bookmark | None = None) -> None:
        """Trains up to `end` updates; `branch` is the bookmark to save at an interruption, else one of that moment."""
        first, size, began = self._trainee.updates, self._job.batch_size, time.perf_counter()

        def look(number: int) -> None:
            if self._interrupts.seen:
                raise _SignalError
            now = time.perf_counter()
            if self._progress is not None and now >= self._reported + REPORT_SECONDS:
                self._tell(first + number, number * size / (now - began))

        try:
            self._trainee.train(end - first, batch_size=size, lr=lambda number: lr(first + number), after=look)
        except _SignalError:
            self._save(self._trainee.here() if branch is None else branch)
            kept = "its study goes on by the same command"
            raise Interrupted(None, self._interrupts.number or 0, kept=kept) from None

    def _ended(self) -> str | None:
        """Why the training ends before its budget; None if it goes on."""
        points, job = self._points, self._job
        if not points:
            return None
        last = points[-1]
        if last.train_loss is None or last.test_loss is None:
            return "diverged"
        wanted = (("train_loss", job.train_target), ("test_loss", job.test_target))
        missing = [
            name
            for name, target in wanted
            if target is not None and not any(getattr(point, name) <= target for point in points)
        ]
        if not missing:
            return None if job.train_target is None and job.test_target is None else "arrived"
        if last.updates > self._base_updates and not any(_falls(points, name) for name in missing):
            return "out of reach"
        return None

    # State.

    def _try(self) -> None:
        """Makes a few updates and goes back."""
        before = self._trainee.here()
        few, lr = min(TRIED, self._total - before.updates), self._course.at(before.updates)
        self._trainee.train(few, batch_size=self._job.batch_size, lr=lambda _: lr)
        self._trainee.back(before)

    def _save(self, mark: Bookmark) -> None:
        if self._file is None:
            return
        content = {"format": FORMAT, "run": self._job.run, "points": [list(point) for point in self._points]}
        content |= {"state": dict(mark.state), "updates": mark.updates, "seconds": mark.seconds}
        content |= {"spent": self._spent + time.perf_counter() - self._began, "error": self._error}

        def fill(file: BinaryIO) -> None:
            with _files.unwrapped():
                torch.save(content, file)

        with self._interrupts.held():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            _files.write(self._file, fill)

    def _go_on(self) -> None:
        """Goes on from the saved state, if there is one of this training; a damaged one is trained anew."""
        if self._file is None or not self._file.exists():
            return
        before = self._trainee.here()
        try:
            found = torch.load(self._file, weights_only=True, map_location="cpu")
            if (found["format"], found["run"]) != (FORMAT, self._job.run) or found["updates"] > self._total:
                return
            points = [CurvePoint(*point) for point in found["points"]]
            updates, seconds = found["updates"], found["seconds"]
            self._trainee.back(Bookmark(found["state"], updates, updates * self._job.batch_size, seconds))
            self._points, self._spent, self._error = points, found["spent"], found.get("error")
        except Exception:  # of any kind, as `load_state_dict` says
            warnings.warn(f"{self._file} is damaged; its training begins anew", stacklevel=2)
            self._trainee.back(before)

    def _alive(self, updates: int) -> None:
        """Tells where the training stands, if it is time, while it makes no updates."""
        if time.perf_counter() >= self._reported + REPORT_SECONDS:
            self._tell(updates, 0.0)

    def _tell(self, updates: int, rate: float, point: CurvePoint | None = None) -> None:
        self._reported = time.perf_counter()
        if self._progress is not None:
            self._progress(Now(updates, self._total, rate, point))


def _falls(points: list[CurvePoint], name: str) -> bool:
    """Whether the lowest loss fell by 1 % within the last doubling of updates."""
    half = points[-1].updates / 2
    early = [getattr(point, name) for point in points if point.updates <= half]
    late = [getattr(point, name) for point in points if point.updates > half]
    return not early or min(late) < 0.99 * min(early)
