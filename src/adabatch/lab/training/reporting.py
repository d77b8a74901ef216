"""Reports of where a run stands: between evaluations, at them, and of the work beside the training."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from adabatch.lab.training.config import RunConfig
from adabatch.lab.training.records import Evaluation, Progress
from adabatch.lab.training.tally import Tally
from adabatch.schedules import Plan

REPORT_SECONDS: Final = 0.1


class Reporter:
    """Tells where a run stands, a few times per second.

    Args:
        progress: is told; None: nobody is.
        config: the settings.
        plan: of all batches; None under a policy.
        dataset_size: samples in an epoch.
        world: number of processes.
    """

    def __init__(
        self,
        progress: Callable[[Progress], None] | None,
        config: RunConfig,
        *,
        plan: Plan | None,
        dataset_size: int,
        world: int,
    ) -> None:
        self._progress, self._config, self._plan = progress, config, plan
        self._N, self._world = dataset_size, world
        self._end = dataset_size * config.epochs
        self._next = 0.0
        self._before = (0, 0.0)  # clock and time of the last evaluation, or of `begin`
        self._accuracy: float | None = None  # of the last evaluation

    @property
    def is_due(self) -> bool:
        """Whether it is time for a report between evaluations."""
        return self._progress is not None and time.perf_counter() >= self._next

    def begin(self, clock: int, *, accuracy: float | None) -> None:
        """Starts to measure the pace, after an evaluation with this test accuracy if there was one."""
        self._before, self._accuracy = (clock, time.perf_counter()), accuracy

    def note(self, note: str, clock: int, *, seconds: float, batch_size: int, lr: float) -> None:
        """Reports work beside the training, in words, after so many seconds of training."""
        self._next = time.perf_counter() + REPORT_SECONDS
        self._tell(clock, batch_size=batch_size, lr=lr, samples_per_second=0.0, seconds=seconds, note=note)

    def stands(self, clock: int, tally: Tally, *, began: int, lr: float) -> None:
        """Reports training, in a stretch that began at the clock `began`."""
        self._next = time.perf_counter() + REPORT_SECONDS
        seconds = tally.elapsed()
        self._tell(
            clock,
            batch_size=tally.batch_size,
            lr=lr,
            samples_per_second=(clock - began) / seconds,
            seconds=tally.seconds + seconds,
        )

    def evaluated(self, found: Evaluation, *, samples_per_second: float) -> None:
        """Reports an evaluation, and the time left at the pace since the one before."""
        (clock, began), now = self._before, time.perf_counter()
        self.begin(found.samples, accuracy=found.test_accuracy)
        left = 0 if found.diverged else self._end - found.samples
        self._tell(
            found.samples,
            batch_size=found.batch_size,
            lr=found.lr,
            samples_per_second=samples_per_second,
            seconds=found.seconds,
            evaluation=found,
            seconds_left=left * (now - began) / max(1, found.samples - clock),
        )

    def _tell(self, clock: int, **now: Any) -> None:
        if self._progress is None:
            return
        wanted = None if self._plan is None else self._plan.world_size_at(clock)
        self._progress(
            Progress(
                samples=clock,
                total_samples=self._end,
                epoch=clock // self._N,
                epochs=self._config.epochs,
                test_accuracy=self._accuracy,
                wants=None if wanted == self._world else wanted,
                **now,
            )
        )
