"""All epochs of a training in one loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.types import Driver, Part


class Trained(Protocol):
    """A loader, as far as a training asks it."""

    @property
    def driver(self) -> Driver | None:
        """Gives the batch size; None for none."""

    @property
    def dataset_size(self) -> int | None:
        """Samples in an epoch; None for a stream."""

    @property
    def epoch(self) -> int:
        """The current epoch; between iterations the next one."""

    def updates_in_epoch(self, epoch: int) -> int:
        """Updates in the whole of `epoch`."""

    def parts(self) -> Iterator[tuple[Any, Part]]:
        """The rest of the current epoch as micro-batches."""

    def __iter__(self) -> Iterator[Any]:
        """The rest of the current epoch as batches."""


class Training:
    """All epochs of a training in one loop, for loops and frameworks that count updates; made by `loader.training()`.

    Iterating goes from where the loader stands, also after a resume, to the end of the last epoch: the loader's own
    iterations, one after the other. It has no state of its own; save the loader's. Leaving it early is leaving the
    epoch early. Where batches run on and no plan ends the training, the last one runs on over its end.

    Args:
        loader: an `ab.DataLoader`.
        epochs: epochs of the whole training, those before a resume included; None for those of the plan.

    Raises:
        TypeError: if `epochs` is no whole number.
        ValueError: if it is below 1.

    Example:
        >>> import torch, adabatch as ab
        >>> loader = ab.DataLoader(torch.arange(5), batch_size=2)
        >>> training = loader.training(epochs=2)
        >>> len(training), [batch.tolist() for batch in training]
        (6, [[0, 1], [2, 3], [4], [0, 1], [2, 3], [4]])
    """

    def __init__(self, loader: Trained, epochs: int | None) -> None:
        self._loader = loader
        self._epochs = None if epochs is None else _checks.whole("epochs", epochs)

    @property
    def epochs(self) -> int:
        """Epochs of the whole training.

        Raises:
            TypeError: if neither `epochs` nor a plan says so.
            ValueError: if the plan ends before.
        """
        driver = self._loader.driver
        planned = None if driver is None or driver.plan is None else driver.plan.epochs
        if self._epochs is None:
            if planned is None:
                rule = "must be given for `training`, since no plan with an end drives the loader"
                remedy = "write `loader.training(epochs)`, or give the BatchSizeScheduler its `epochs`"
                raise ArgumentTypeError("epochs", rule, remedy=remedy)
            return planned
        if planned is not None and self._epochs > planned:
            rule, remedy = f"must be at most the plan's {planned:,}", "give the BatchSizeScheduler as many"
            raise ArgumentError("epochs", rule, value=self._epochs, remedy=remedy)
        return self._epochs

    def __len__(self) -> int:
        """Updates in the whole training, those before a resume included.

        Raises:
            TypeError: as `updates_in_epoch` of the loader.
        """
        return sum(map(self._loader.updates_in_epoch, range(self.epochs)))

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        """Whole rank batches, to the end of the training.

        Raises:
            RuntimeError: if a schedule drives the loader and nothing was trained in an epoch, which would come again.
        """
        return _Through(self._loader, self.epochs, parts=False)

    def parts(self) -> Iterator[tuple[Any, Part]]:
        """Micro-batches, each with its `Part`, to the end of the training; raises as iterating does."""
        return _Through(self._loader, self.epochs, parts=True)


class _Through(Iterator[Any]):
    """The loader's iterations, one after the other; after an error of one, `next()` goes on as it does there."""

    def __init__(self, loader: Trained, epochs: int, *, parts: bool) -> None:
        self._loader, self._epochs, self._parts = loader, epochs, parts
        self._current: Iterator[Any] | None = None
        self._epoch = -1  # of the current iteration
        self._over = False

    def __next__(self) -> Any:
        while not self._over:
            if self._current is None:
                self._epoch = self._loader.epoch
                if self._epoch >= self._epochs:
                    break
                self._current = self._loader.parts() if self._parts else iter(self._loader)
            try:
                return next(self._current)
            except StopIteration:
                self._current = None
            if self._loader.epoch == self._epoch:
                self._over = True
                raise UsageError(
                    "training",
                    f"went through epoch {self._epoch} and nothing was trained, so the epoch would come again",
                    remedy="call `step()` of the BatchSizeScheduler after each batch",
                )
        self._over = True
        raise StopIteration
