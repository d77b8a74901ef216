"""Seconds of training, by batch size."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from adabatch._errors import ArgumentError
from adabatch.lab.training.device import wait_for


class Stopwatch:
    """Measures stretches of training, each at one batch size, and waits for the device at both ends.

    Args:
        device: on which the run computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started: float | None = None
        self._by_size: dict[int, list[float]] = {}

    @property
    def seconds(self) -> float:
        """Of all stretches that have ended."""
        return sum(seconds for _, seconds in self._by_size.values())

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """In the order in which they came."""
        return tuple(self._by_size)

    def samples_per_second(self) -> dict[int, float]:
        """For each batch size."""
        return {size: samples / seconds for size, (samples, seconds) in self._by_size.items() if seconds > 0}

    def start(self) -> None:
        """Begins a stretch."""
        wait_for(self._device)
        self._started = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds of the stretch under way, without waiting for the device."""
        return 0.0 if self._started is None else time.perf_counter() - self._started

    def stop(self, *, batch_size: int, samples: int) -> None:
        """Ends the stretch.

        Args:
            batch_size: that it was trained at.
            samples: trained on in it; a stretch without any is not counted.
        """
        wait_for(self._device)
        seconds = self.elapsed()
        self._started = None
        if samples:
            counted = self._by_size.setdefault(batch_size, [0, 0.0])
            counted[0] += samples
            counted[1] += seconds

    def state_dict(self) -> list[list[Any]]:
        """Batch size, samples and seconds of each batch size."""
        return [[size, samples, seconds] for size, (samples, seconds) in self._by_size.items()]

    @property
    def samples(self) -> int:
        """Of all stretches that have ended."""
        return int(sum(samples for samples, _ in self._by_size.values()))

    def load_state_dict(self, state: list[list[Any]]) -> None:
        """Goes on from what `state_dict` returned.

        Raises:
            ValueError: if it is something else.
        """
        for row in state:
            size, samples, seconds = row
            if not (type(size) is type(samples) is int and min(size, samples) > 0 and 0 <= seconds < math.inf):
                raise ArgumentError(
                    None, "stopwatch must hold batch sizes, samples and seconds", got=f"{repr(row)[:40]}"
                )
        self._by_size = {size: [samples, seconds] for size, samples, seconds in state}
