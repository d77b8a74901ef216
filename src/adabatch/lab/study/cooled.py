"""Cooled learning curves: losses of one training, each after a cooldown of its own.

Under a constant LR the losses of different batch sizes are not comparable: the noise of a small batch keeps its loss
up, and the curves cross. So each point of a curve is measured on a branch: at that place the LR falls linearly to 0,
the losses are taken, and the training goes on from before the branch. The order of samples is the same on both.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from adabatch import _files, memory
from adabatch.lab.study.curve import Curve, CurvePoint
from adabatch.lab.study.grid import WARM_UP, Grid, Job, checkpoints, cooldown
from adabatch.lab.tasks import Data
from adabatch.lab.training import device as devices
from adabatch.lab.training.interrupt import Interrupted, Interrupts
from adabatch.lab.training.setup import Setup

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


def share_of(data: Data, grid: Grid, fraction: float) -> Data:
    """The data of a cell: the first samples of the training set, of these a fixed random share; and of the test set.

    A smaller share is part of every larger one.
    """
    count, tests = grid.train_samples or len(data.x_train), grid.test_samples or len(data.x_test)
    kept = slice(0, count)
    if fraction < 1:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        kept = order[: max(1, round(count * fraction))].to(data.x_train.device)  # type: ignore[assignment]
    return replace(
        data,
        x_train=data.x_train[kept],
        y_train=data.y_train[kept],
        x_test=data.x_test[:tests],
        y_test=data.y_test[:tests],
    )


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
        setup = Setup(config, share_of(data, grid, job.cell.fraction), device)
        around.callback(setup.batches.close)
        return _CooledRun(job, grid, setup, state=state, interrupts=interrupts, progress=progress).train()


@dataclass(frozen=True, slots=True)
class _Place:
    """A copy of a training's state."""

    state: dict[str, Any]
    updates: int
    seconds: float


class _CooledRun:
    """One training with its branches."""

    def __init__(
        self,
        job: Job,
        grid: Grid,
        setup: Setup,
        *,
        state: Path | None,
        interrupts: Interrupts,
        progress: Callable[[Now], None] | None,
    ) -> None:
        self._job, self._setup, self._file, self._interrupts = job, setup, state, interrupts
        self._progress = progress
        an_epoch = setup.data.dataset_size // job.cell.batch_size
        self._base_updates, self._total = grid.epochs * an_epoch, job.epochs * an_epoch
        self._warm_up = round(WARM_UP * self._base_updates) if job.lr > grid.base.lr else 0
        self._start = grid.base.lr / job.lr  # the share of the LR at which a warm-up begins
        self._points: list[CurvePoint] = []
        self._updates, self._seconds = 0, 0.0
        self._spent, self._began = 0.0, time.perf_counter()  # seconds of all work, before this process and in it
        self._batches = self._stream()
        self._reported = 0.0

    def train(self) -> Curve:
        """Trains to the end."""
        self._go_on()
        self._try()
        for total in checkpoints(base_updates=self._base_updates, updates=self._total):
            if self._points and total <= self._points[-1].updates:
                continue
            if (ended := self._ended()) is not None:
                return self._curve(ended)
            self._measure(total)
        return self._curve(self._ended() or "budget")

    def _curve(self, stopped: str) -> Curve:
        return Curve(tuple(self._points), stopped, self._spent + time.perf_counter() - self._began)

    def _measure(self, total: int) -> None:
        """Adds the point after `total` updates, the last of them a cooldown."""
        cool = cooldown(total)
        self._advance(total - cool, self._warming)
        before = self._here()
        lr = self._warming(before.updates)
        self._advance(total, lambda update: (total - update) / cool * lr, branch=before)
        train_loss, test_loss = self._losses()
        size = self._job.cell.batch_size
        point = CurvePoint(total, total * size, self._seconds, train_loss, test_loss)
        self._points.append(point)
        self._back(before)
        self._save(before)
        self._tell(0.0, point)

    def _warming(self, update: int) -> float:
        """The share of the LR at an update."""
        if update >= self._warm_up:
            return 1.0
        return self._start + (1 - self._start) * update / self._warm_up

    def _advance(self, end: int, share: Callable[[int], float], *, branch: _Place | None = None) -> None:
        """Trains up to `end` updates; `branch` is the place to save at an interruption, else the one at that time."""
        setup, size = self._setup, self._job.cell.batch_size
        began, first = time.perf_counter(), self._updates
        while self._updates < end:
            self._update(share(self._updates))
            self._updates += 1
            now = time.perf_counter()
            if self._interrupts.seen:
                self._seconds += now - began
                self._save(self._here() if branch is None else branch)
                raise Interrupted(None, self._interrupts.number or 0, kept="its study goes on by the same command")
            if self._progress is not None and now >= self._reported + REPORT_SECONDS:
                self._tell((self._updates - first) * size / (now - began))
        devices.wait_for(setup.device)
        self._seconds += time.perf_counter() - began

    def _update(self, share: float) -> None:
        """One update, as a user would write it."""
        setup = self._setup
        inputs, targets = next(self._batches)
        if not setup.prepared:
            inputs, targets = setup.prepare(inputs, targets, clock=setup.loader.clock)
        for group in setup.optimizer.param_groups:
            group["lr"] = self._job.lr * share
        setup.optimizer.zero_grad()
        setup.loss(setup.forward(inputs), targets).backward()
        setup.optimizer.step()
        setup.batches.step()

    def _stream(self) -> Generator[Any, None, None]:
        """Batches, epoch after epoch."""
        while True:
            yield from self._setup.loader

    def _losses(self) -> tuple[float | None, float | None]:
        train, test = self._setup.evaluate(of_training=True)[0], self._setup.evaluate()[0]
        return tuple(loss if math.isfinite(loss) else None for loss in (train, test))  # type: ignore[return-value]

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

    def _here(self) -> _Place:
        """A copy of the state."""
        return _Place(_copied(self._setup.state_dict()), self._updates, self._seconds)

    def _back(self, place: _Place) -> None:
        """Goes back to a state."""
        self._batches.close()
        self._setup.load_state_dict(_copied(place.state))
        self._updates, self._seconds, self._batches = place.updates, place.seconds, self._stream()

    def _try(self) -> None:
        """Makes a few updates and goes back."""
        before = self._here()
        for _ in range(min(TRIED, self._total - before.updates)):
            self._update(self._warming(before.updates))
        self._back(before)

    def _save(self, place: _Place) -> None:
        if self._file is None:
            return
        content = {"format": FORMAT, "run": self._job.run, "points": [list(point) for point in self._points]}
        content |= {"state": place.state, "updates": place.updates, "seconds": place.seconds}
        content["spent"] = self._spent + time.perf_counter() - self._began
        with self._interrupts.held():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            _files.write(self._file, lambda file: torch.save(content, file))

    def _go_on(self) -> None:
        """Goes on from the saved state, if there is one of this training; a damaged one is trained anew."""
        if self._file is None or not self._file.exists():
            return
        before = self._here()
        try:
            found = torch.load(self._file, weights_only=True, map_location="cpu")
            if (found["format"], found["run"]) != (FORMAT, self._job.run) or found["updates"] > self._total:
                return
            points = [CurvePoint(*point) for point in found["points"]]
            self._back(_Place(found["state"], found["updates"], found["seconds"]))
            self._points, self._spent = points, found["spent"]
        except Exception:  # of any kind, as `load_state_dict` says
            warnings.warn(f"{self._file} is damaged; its training begins anew", stacklevel=2)
            self._back(before)

    def _tell(self, rate: float, point: CurvePoint | None = None) -> None:
        self._reported = time.perf_counter()
        if self._progress is not None:
            self._progress(Now(self._updates, self._total, rate, point))


def _falls(points: list[CurvePoint], name: str) -> bool:
    """Whether the lowest loss fell by 1 % within the last doubling of updates."""
    half = points[-1].updates / 2
    early = [getattr(point, name) for point in points if point.updates <= half]
    late = [getattr(point, name) for point in points if point.updates > half]
    return not early or min(late) < 0.99 * min(early)


def _copied(state: Any) -> Any:
    """A deep copy of a state of tensors, numbers, text, dicts and lists."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {name: _copied(value) for name, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list | tuple) else state
