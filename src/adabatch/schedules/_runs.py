"""Stretches of like batches: the closed form of `Plan`. Nothing here is as long as the training."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

from adabatch._errors import ArgumentError


def ceil_div(dividend: int, divisor: int) -> int:
    """`dividend / divisor`, rounded up."""
    return -(-dividend // divisor)


class Run(NamedTuple):
    """`repeat` like blocks in a row, each `full` batches of `size` samples and then one of `tail` (0: none).

    A block covers `span` samples of the data: at least what its batches hold, more where `drop_last` drops.
    """

    clock: int
    update: int
    size: int
    full: int
    tail: int
    span: int
    repeat: int | None  # None: for ever

    @property
    def per_block(self) -> int:
        """Updates in a block."""
        return self.full + (self.tail > 0)


class Runs:
    """Runs in the order of the clock, searched by clock or by update."""

    def __init__(self) -> None:
        self.items: list[Run] = []
        self._clocks: list[int] = []
        self._updates: list[int] = []

    def append(self, run: Run) -> None:
        """Adds a run that starts where the last one ends, or later."""
        self.items.append(run)
        self._clocks.append(run.clock)
        self._updates.append(run.update)

    def find(self, update: int) -> tuple[Run, int, int]:
        """The run that holds `update`, the clock where the update starts and its samples."""
        run = self.items[bisect_right(self._updates, update) - 1]
        block, index = divmod(update - run.update, run.per_block)
        return run, run.clock + block * run.span + index * run.size, run.size if index < run.full else run.tail

    def update_at(self, clock: int) -> int:
        """How many updates start before `clock`."""
        index = bisect_left(self._clocks, clock) - 1
        if index < 0:
            return 0
        run = self.items[index]
        block, rest = divmod(clock - run.clock, run.span)
        if run.repeat is not None and block >= run.repeat:
            return run.update + run.per_block * run.repeat
        return run.update + run.per_block * block + min(run.per_block, ceil_div(rest, run.size))


class Walk:
    """The batches from clock 0 on, under stages that come one after the other; the newest stage is open.

    Args:
        dataset_size: samples in an epoch; None for a stream.
        epochs: epochs until the end; None for no end.
        drop_last: whether an epoch's short last batch is dropped.
        run_on: whether batches run over the ends of epochs.
    """

    def __init__(self, *, dataset_size: int | None, epochs: int | None, drop_last: bool, run_on: bool) -> None:
        self.dataset_size = dataset_size
        self.end = None if dataset_size is None or epochs is None else dataset_size * epochs
        self.drop_last = drop_last
        self.starts: list[int] = []
        self.sizes: list[int] = []
        self.runs = Runs()
        self._cut = self.end if run_on else dataset_size  # every multiple of it cuts a batch; None: nothing does
        self._clock = 0
        self._update = 0

    def register(self, start: int, size: int) -> None:
        """From the first batch that starts at `start` or later, batches have `size` samples.

        Raises:
            ValueError: if stages go back, or the stage before holds for a batch that is larger than the data set.
        """
        if not self.starts:
            if start != 0:
                raise ArgumentError(None, "the first stage of a schedule must start at clock 0", got=f"{start:,}")
        elif start < self.starts[-1]:
            raise ArgumentError(
                None, "stages must come in the order of the clock", got=f"{start:,} after {self.starts[-1]:,}"
            )
        elif start == self.starts[-1]:  # the stage before held for no sample
            self.starts.pop()
            self.sizes.pop()
        else:
            self._close(start)
        if not self.sizes or self.sizes[-1] != size:
            self.starts.append(start)
            self.sizes.append(size)

    def finish(self) -> Runs:
        """All runs up to the end, or for ever if there is none."""
        self._close(self.end)
        return self.runs

    def end_of(self, update: int) -> int:
        """The clock where the batch of `update` ends if the newest stage lasts; the end of the walk if it is past that.

        Samples after it that `drop_last` would drop are not passed yet: at another size they may still be a batch.
        """
        if update < self._update:
            _, clock, size = self.runs.find(update)
        elif self.end is not None and self._clock >= self.end:
            return self.end
        elif self._too_large():  # no error yet: another stage may come before a batch starts
            clock, size = self._clock, self.sizes[-1]
        else:
            _, clock, size = self._open().find(update)
        return clock + size

    def _open(self) -> Runs:
        runs, clock, update = Runs(), self._clock, self._update
        while True:
            run = self._next(clock, update, None)
            if run.per_block:
                runs.append(run)
            if run.repeat is None:
                return runs
            clock, update = run.clock + run.span, run.update + run.per_block

    def _close(self, stop: int | None) -> None:
        if stop is None or self._clock < stop:
            self._check_size()
        while stop is None or self._clock < stop:
            run = self._next(self._clock, self._update, stop)
            if run.per_block:
                self.runs.append(run)
            if run.repeat is None:
                return
            self._clock += run.span * run.repeat
            self._update += run.per_block * run.repeat

    def _next(self, clock: int, update: int, stop: int | None) -> Run:
        """The run from `clock` on: up to the next cut, over many whole epochs, or to the first batch from `stop` on."""
        size, cut = self.sizes[-1], self._cut
        if cut is None:
            return Run(clock, update, size, 1, 0, size, None if stop is None else ceil_div(stop - clock, size))
        rest = cut - clock % cut
        full, tail = divmod(rest, size)
        tail = 0 if self.drop_last else tail
        if rest == cut and (stop is None or stop - clock >= cut):
            return Run(clock, update, size, full, tail, cut, None if stop is None else (stop - clock) // cut)
        wanted = full + 1 if stop is None else ceil_div(stop - clock, size)
        if wanted <= full:
            return Run(clock, update, size, wanted, 0, wanted * size, 1)
        return Run(clock, update, size, full, tail, rest, 1)

    def _too_large(self) -> bool:
        return self.dataset_size is not None and self.sizes[-1] > self.dataset_size

    def _check_size(self) -> None:
        N, size = self.dataset_size, self.sizes[-1]
        if N is None or not self._too_large():
            return
        where = f" from epoch {self._clock // N} (clock {self._clock:,}) on" if self._clock else ""
        raise ArgumentError(
            "batch_size",
            f"must be at most the {N:,} samples of the data set",
            got=f"{size:,}{where}",
            remedy=f"bound the schedule with `maximum` or `clamp(schedule, maximum={N})`",
        )
