"""The constant-batch training that an LR scheduler which counts updates was written for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Baseline:
    """Maps the updates of training at one batch size to the clock, and back.

    Attributes:
        batch_size: of the baseline, in samples.
        dataset_size: samples in an epoch; None for a stream.
        drop_last: whether the short batch at an epoch's end is dropped.
        run_on: whether batches run on into the next epoch.

    Example:
        >>> base = Baseline(batch_size=4, dataset_size=10)
        >>> [base.clock_of(update) for update in range(5)]
        [0, 4, 8, 10, 14]
        >>> base.update_at(8), base.update_at(9), base.update_at(10)
        (2, 2, 3)
    """

    batch_size: int
    dataset_size: int | None
    drop_last: bool = False
    run_on: bool = False

    @property
    def per_epoch(self) -> int | None:
        """Updates in an epoch; None where epochs cut no batch."""
        if self.dataset_size is None or self.run_on:
            return None
        full, rest = divmod(self.dataset_size, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def clock_of(self, update: int) -> int:
        """The clock where an update starts."""
        per_epoch = self.per_epoch
        if per_epoch is None or self.dataset_size is None:
            return update * self.batch_size
        epoch, index = divmod(update, per_epoch)
        return epoch * self.dataset_size + index * self.batch_size

    def update_at(self, clock: int) -> int:
        """The update in whose batch `clock` lies; behind a dropped rest the next one."""
        per_epoch = self.per_epoch
        if per_epoch is None or self.dataset_size is None:
            return clock // self.batch_size
        epoch, offset = divmod(clock, self.dataset_size)
        return epoch * per_epoch + offset // self.batch_size

    def updates(self, epochs: int) -> int:
        """Updates in `epochs` of a data set; not for a stream."""
        assert self.dataset_size is not None
        if self.per_epoch is None:
            return -(-epochs * self.dataset_size // self.batch_size)
        return epochs * self.per_epoch
