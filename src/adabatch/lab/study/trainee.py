"""A training that can stop anywhere, branch off and come back: at any batch size and LR, update by update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from adabatch.lab.study import linearity
from adabatch.lab.tasks import Data
from adabatch.lab.training import RunConfig
from adabatch.lab.training import device as devices
from adabatch.lab.training.checkpoint import copied
from adabatch.lab.training.setup import Setup


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A copy of a training's state.

    Attributes:
        state: of network, optimizer, loader and random numbers.
        updates: made so far.
        samples: trained on so far.
        seconds: of training so far.
    """

    state: Mapping[str, Any]
    updates: int
    samples: int
    seconds: float


class Trainee:
    """A training under outside control.

    Args:
        config: the settings; batch size and LR are those until others are given.
        data: of the task, or a share of it.
        device: to train on.

    Attributes:
        setup: network, optimizer and loader.
        updates: made so far.
        samples: trained on so far.
        seconds: of training so far, without evaluation.
    """

    def __init__(self, config: RunConfig, data: Data, device: torch.device) -> None:
        self.setup = Setup(config, data, device)
        self.setup.batches.close()  # batch size and LR are set here
        self.updates, self.samples, self.seconds = 0, 0, 0.0
        self._batches = self._stream()

    def _stream(self) -> Generator[Any, None, None]:
        """Batches, epoch after epoch."""
        while True:
            yield from self.setup.loader

    def train(
        self,
        updates: int,
        *,
        batch_size: int,
        lr: Callable[[int], float],
        after: Callable[[int], object] | None = None,
    ) -> None:
        """Makes updates.

        Args:
            updates: how many.
            batch_size: in samples.
            lr: takes the number of an update, from 0 on, and gives its LR.
            after: called after each update with the number of those made; it may raise.
        """
        began = time.perf_counter()
        try:
            for number in range(updates):
                self._update(batch_size, lr(number))
                if after is not None:
                    after(number + 1)
            devices.wait_for(self.setup.device)
        finally:
            self.seconds += time.perf_counter() - began

    def _update(self, batch_size: int, lr: float) -> None:
        """One update, as a user would write it."""
        setup = self.setup
        inputs, targets = self._next(batch_size)
        for group in setup.optimizer.param_groups:
            group["lr"] = lr
        setup.optimizer.zero_grad()
        setup.loss(setup.forward(inputs), targets).backward()
        setup.optimizer.step()
        self.updates += 1
        self.samples += len(targets)

    def _next(self, batch_size: int) -> tuple[Any, Any]:
        """The next batch, as the network takes it."""
        setup = self.setup
        setup.loader.batch_size = batch_size
        clock = setup.loader.clock  # where a batch of this size begins
        inputs, targets = next(self._batches)
        return (inputs, targets) if setup.prepared else setup.prepare(inputs, targets, clock=clock)

    def linear_approximation_error(self, batch_size: int, *, lr: float, ratio: float) -> float | None:
        """The error of the linear approximation of the loss on the next batch; None if it is not finite.

        Weights stay as they are; the batch is passed.

        Args:
            batch_size: in samples.
            lr: of the base batch size.
            ratio: the batch size over the base batch size.
        """
        setup = self.setup
        inputs, targets = self._next(batch_size)
        setup.optimizer.zero_grad()
        error = linearity.linear_approximation_error(
            setup.model, lambda: setup.loss(setup.forward(inputs), targets), lr=lr, ratio=ratio
        )
        return error if math.isfinite(error) else None

    def losses(self, *, after: Callable[[], object] | None = None) -> tuple[float | None, float | None]:
        """The mean losses on training samples and on the test set; None if one is not finite.

        Args:
            after: called after each chunk of samples; it may raise.
        """
        train = self.setup.evaluate(of_training=True, after=after)[0]
        test = self.setup.evaluate(after=after)[0]
        return train if math.isfinite(train) else None, test if math.isfinite(test) else None

    def here(self) -> Bookmark:
        """A copy of the state."""
        return Bookmark(copied(self.setup.state_dict()), self.updates, self.samples, self.seconds)

    def back(self, mark: Bookmark) -> None:
        """Goes to a state, of this training or a saved one of the same."""
        self._batches.close()
        self.setup.load_state_dict(copied(mark.state))
        self.updates, self.samples, self.seconds = mark.updates, mark.samples, mark.seconds
        self._batches = self._stream()
