"""The counts of a run: updates, samples, losses, and seconds by batch size."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from adabatch._devices import longest_float
from adabatch._errors import ArgumentError
from adabatch.lab.training.device import wait_for
from adabatch.lab.training.ranks import Ranks
from adabatch.lab.training.records import RunState


class Tally:
    """Counts in stretches of training, each at one batch size; waits for the device where one begins and ends.

    Attributes:
        updates: optimizer updates.
        batch_size: of the current stretch, or of the last one.
        loss_samples: samples since the last evaluation, in stretches that have ended.
        seconds_beside: of branches, and of stretches that the run went back from; part of all seconds.
    """

    def __init__(self, device: torch.device, ranks: Ranks | None = None) -> None:
        self.updates = self.batch_size = self.loss_samples = 0
        self.seconds_beside = 0.0
        self._device, self._ranks = device, ranks or Ranks()
        self._loss_sum = self.new_sum()  # over this rank's samples since the last evaluation
        self._began: float | None = None
        self._samples = 0  # of the current stretch
        self._by_size: dict[int, list[float]] = {}

    def new_sum(self) -> Tensor:
        """A new sum of losses, 0."""
        return torch.zeros((), dtype=longest_float(self._device), device=self._device)

    @property
    def samples(self) -> int:
        """Samples of all stretches that have ended."""
        return int(sum(samples for samples, _ in self._by_size.values()))

    @property
    def seconds(self) -> float:
        """Seconds of all stretches that have ended, with those beside them."""
        return self.seconds_beside + sum(seconds for _, seconds in self._by_size.values())

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes in the order in which they occurred."""
        return tuple(self._by_size)

    def samples_per_second(self) -> dict[int, float]:
        """Samples per second at each batch size."""
        return {size: samples / seconds for size, (samples, seconds) in self._by_size.items() if seconds > 0}

    def start(self, batch_size: int) -> None:
        """Begins a stretch."""
        self.batch_size, self._samples = batch_size, 0
        wait_for(self._device)
        self._began = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds of the current stretch, without waiting for the device."""
        return 0.0 if self._began is None else time.perf_counter() - self._began

    def add(self, loss: Tensor, samples: int, *, times: int = 1) -> None:
        """Counts an update; `loss` is the sum over its samples, or with `times=samples` their mean."""
        self._loss_sum.add_(loss, alpha=times)
        self.updates += 1
        self._samples += samples

    def stop(self) -> None:
        """Ends the stretch; one without samples is not counted."""
        wait_for(self._device)
        seconds = self.elapsed()
        self._began = None
        if self._samples:
            counted = self._by_size.setdefault(self.batch_size, [0, 0.0])
            counted[0] += self._samples
            counted[1] += seconds
            self.loss_samples += self._samples
            self._samples = 0

    @property
    def diverged(self) -> bool:
        """Whether a loss of this rank was not finite since the last evaluation; waits for the device."""
        return not math.isfinite(self._loss_sum.item())

    def mean_loss(self) -> float:
        """Mean loss over the samples since the last evaluation, on all ranks; starts the sum anew."""
        mean = self._ranks.sum(self._loss_sum).item() / self.loss_samples
        self._loss_sum.zero_()
        self.loss_samples = 0
        return mean

    def state_dict(self) -> dict[str, Any]:
        """The counts for `load`, as fields of `RunState`; all ranks must ask."""
        return {
            "updates": self.updates,
            "samples": self.samples,
            "loss_sum": self._ranks.sum(self._loss_sum).item(),
            "loss_samples": self.loss_samples,
            "stopwatch": [[size, samples, seconds] for size, (samples, seconds) in self._by_size.items()],
            "seconds_beside": self.seconds_beside,
        }

    def load(self, state: RunState) -> None:
        """Goes on from the counts of a state.

        Raises:
            ValueError: if they are no counts, or not of as many samples.
        """
        for row in state.stopwatch:
            size, samples, seconds = row
            if not (type(size) is type(samples) is int and min(size, samples) > 0 and 0 <= seconds < math.inf):
                raise ArgumentError("stopwatch", "must hold batch sizes, samples and seconds", got=repr(row)[:40])
        self._by_size = {size: [samples, seconds] for size, samples, seconds in state.stopwatch}
        if self.samples != state.samples:
            raise ArgumentError("stopwatch", f"must hold {state.samples:,} samples", got=f"{self.samples:,}")
        self.updates, self.loss_samples = state.updates, state.loss_samples
        self.seconds_beside = state.seconds_beside
        self._loss_sum.fill_(state.loss_sum if self._ranks.is_first else 0.0)
