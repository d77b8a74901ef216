"""A schedule resolved for a data set and a length of training."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Protocol

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError, needing_torch
from adabatch.schedules._runs import Runs, Walk, ceil_div

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FORMAT: Final = 1


class Scaling(Protocol):
    """A coupling, as far as a plan asks it."""

    def lr_factor(self, ratio: float) -> float:
        """The factor on the LR at a ratio of batch sizes."""


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """One update of a plan.

    Attributes:
        clock: position in the data where the batch starts, in samples.
        end: where the next one starts; what `drop_last` drops after the batch counts as passed.
        epoch: the epoch in which it starts.
        requested: the batch size that the schedule asks for, in samples.
        size: samples in the batch; below `requested` only where an epoch or the training ends.
    """

    clock: int
    end: int
    epoch: int
    requested: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A schedule resolved once: every update's start, size and epoch, exact from update to clock and back.

    The clock is the position in the data, `epoch * dataset_size + offset` in samples; what `drop_last` drops counts as
    passed. A batch has the size that holds where it starts, and only the end of an epoch (with `run_on` only the end of
    the training) cuts it. Queries take the same time however long the training is. Usually made by `Schedule.plan`.

    Args:
        starts_samples: clocks from which each size holds: first 0, then strictly increasing.
        batch_sizes: the size that holds from each of them, in samples, at least 1.
        dataset_size: samples in an epoch; None for a stream, which is one epoch without end.
        epochs: epochs of training; None for no end.
        drop_last: whether the short batch at an epoch's end is dropped, at the batch size then in force; a stream has
            none.
        run_on: whether batches run on into the next epoch, so that only the end of the training cuts one; not together
            with `drop_last`.
        world_sizes: batch sizes and the number of ranks wanted from each of them on, first from 0 on, then strictly
            increasing; empty if none is wanted.

    Raises:
        ValueError: if these do not fit each other, or a batch would be larger than the data set.
        TypeError: if a number is not whole.

    Example:
        >>> plan = Plan(starts_samples=(0, 100), batch_sizes=(32, 64), dataset_size=100, epochs=2)
        >>> [batch.size for batch in plan]
        [32, 32, 32, 4, 64, 36]
        >>> plan.clock_of(4), plan.update_at(100)
        (100, 4)
    """

    starts_samples: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    dataset_size: int | None
    epochs: int | None = None
    drop_last: bool = False
    run_on: bool = False
    world_sizes: tuple[tuple[int, int], ...] = ()
    _runs: Runs = field(init=False, repr=False, compare=False)
    _last: int | None = field(init=False, repr=False, compare=False)  # `end_samples`

    def __post_init__(self) -> None:
        check_horizon(self.dataset_size, self.epochs, drop_last=self.drop_last, run_on=self.run_on)
        starts = tuple(_checks.whole("starts_samples", start, minimum=0) for start in self.starts_samples)
        sizes = tuple(_checks.whole("batch_sizes", size) for size in self.batch_sizes)
        if not starts or len(starts) != len(sizes):
            raise ArgumentError(
                "batch_sizes", "must be one per start", got=f"{len(sizes)} for {len(starts)} `starts_samples`"
            )
        if starts[0] != 0 or any(after <= before for before, after in pairwise(starts)):
            raise ArgumentError("starts_samples", "must be 0 and then strictly increasing", value=starts)
        if self.end_samples is not None and starts[-1] >= self.end_samples:
            raise ArgumentError("starts_samples", f"must be below the end, {self.end_samples:,}", got=f"{starts[-1]:,}")
        table = tuple(
            (_checks.whole("world_sizes", size, minimum=0), _checks.whole("world_sizes", ranks))
            for size, ranks in self.world_sizes
        )
        if table and (table[0][0] != 0 or any(after[0] <= before[0] for before, after in pairwise(table))):
            raise ArgumentError("world_sizes", "must begin at batch size 0 and increase", value=table)
        walk = Walk(dataset_size=self.dataset_size, epochs=self.epochs, drop_last=self.drop_last, run_on=self.run_on)
        for start, size in zip(starts, sizes, strict=True):
            walk.register(start, size)
        for name in ("dataset_size", "epochs"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else int(value))
        object.__setattr__(self, "starts_samples", starts)
        object.__setattr__(self, "batch_sizes", sizes)
        object.__setattr__(self, "world_sizes", table)
        object.__setattr__(self, "_runs", walk.finish())
        object.__setattr__(self, "_last", self.end_samples)

    @property
    def end_samples(self) -> int | None:
        """The clock at the end of the training; None if it has none."""
        return None if self.dataset_size is None or self.epochs is None else self.dataset_size * self.epochs

    @property
    def updates(self) -> int:
        """Updates in the whole training.

        Raises:
            TypeError: if the plan has no end.
        """
        return self._runs.update_at(self._end("updates"))

    @property
    def samples(self) -> int:
        """Samples trained on: the clock at the end less what `drop_last` drops.

        Raises:
            TypeError: if the plan has no end.
        """
        self._end("samples")
        return sum((run.full * run.size + run.tail) * (run.repeat or 0) for run in self._runs.items)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The distinct sizes of whole batches that occur, sorted."""
        return tuple(sorted({run.size for run in self._runs.items if run.full}))

    @property
    def tails(self) -> tuple[int, ...]:
        """The distinct sizes of batches that an end cuts short, sorted."""
        return tuple(sorted({run.tail for run in self._runs.items if run.tail}))

    def batch_counts(self, world_size: int | None = None) -> dict[int, int]:
        """How many batches of each size there are in the whole training, those that an end cuts short included.

        Args:
            world_size: only those for which so many ranks are wanted; None for all.

        Raises:
            TypeError: if the plan has no end.
        """
        self._end("batch_counts")
        counts: dict[int, int] = {}
        for run in self._runs.items:
            if world_size is not None and self._wanted(run.size) != world_size:
                continue
            for size, number in ((run.size, run.full), (run.tail, int(run.tail > 0))):
                if number:
                    counts[size] = counts.get(size, 0) + number * (run.repeat or 0)
        return dict(sorted(counts.items()))

    def batch_size_at(self, clock: int) -> int:
        """The batch size of a batch that starts at `clock`.

        Args:
            clock: position in the data in samples, from 0 up to the end of the training.

        Raises:
            ValueError: if `clock` is negative or after the end.
        """
        if type(clock) is not int or clock < 0 or (self._last is not None and clock > self._last):
            self._check_clock("clock", clock)
        return self.batch_sizes[bisect_right(self.starts_samples, clock) - 1]

    def world_size_at(self, clock: int) -> int | None:
        """The number of ranks wanted for a batch that starts at `clock`; None if the schedule names none.

        Raises:
            ValueError: if `clock` is negative or after the end.
        """
        return self._wanted(self.batch_size_at(clock))

    def _wanted(self, batch_size: int) -> int | None:
        at = bisect_right(self.world_sizes, batch_size, key=lambda entry: entry[0])
        return self.world_sizes[at - 1][1] if at else None

    def batches_between(self, start: int, stop: int) -> int:
        """How many batches start in `[start, stop)` if one starts at `start`.

        Args:
            start: position in the data in samples; need not be where the plan itself starts a batch.
            stop: at least `start`, and unless batches run on in the same epoch or at its end.

        Raises:
            ValueError: if the positions are out of range or in different epochs.
        """
        return sum(self.sizes_between(start, stop).values())

    def sizes_between(self, start: int, stop: int) -> dict[int, int]:
        """How many batches of each size start in `[start, stop)` if one starts at `start`.

        Args:
            start: as of `batches_between`.
            stop: likewise.

        Returns:
            Samples in a batch, and the number of such batches; those that an end cuts short included.

        Raises:
            ValueError: if the positions are out of range or in different epochs.
        """
        self._check_clock("start", start)
        self._check_clock("stop", stop)
        if stop < start:
            raise ArgumentError("stop", f"must be at least `start` = {start:,}", got=f"{stop:,}")
        N = None if self.run_on else self.dataset_size
        end = None if N is None else (start // N + 1) * N
        if end is not None and stop > end:
            raise ArgumentError("stop", f"must be at most {end:,}, the end of the epoch of `start`", got=f"{stop:,}")
        counts: Counter[int] = Counter()
        cut, clock, index = (
            self.end_samples if self.run_on else end,
            start,
            bisect_right(self.starts_samples, start) - 1,
        )
        while clock < stop:
            size = self.batch_sizes[index]
            index += 1
            until = min(stop, self.starts_samples[index]) if index < len(self.starts_samples) else stop
            begun = ceil_div(max(until - clock, 0), size)
            full = begun if cut is None else min(begun, (cut - clock) // size)
            counts[size] += full
            if begun > full and cut is not None and not self.drop_last:
                counts[cut - clock - full * size] += 1
            clock += begun * size
        return dict(+counts)

    def clock_of(self, update: int) -> int:
        """The clock where `update` starts; for the number of updates itself the end of the training.

        Raises:
            ValueError: if `update` is negative or after the end.
        """
        self._check_update(update, last=1)
        if self.end_samples is not None and update == self.updates:
            return self.end_samples
        return self._runs.find(update)[1]

    def update_at(self, clock: int) -> int:
        """How many updates start before `clock`: the number of the update that starts there, if one does.

        Raises:
            ValueError: if `clock` is negative or after the end.
        """
        self._check_clock("clock", clock)
        return self._runs.update_at(clock)

    def batch(self, update: int) -> PlannedBatch:
        """The batch of one update, counted from 0.

        Raises:
            ValueError: if `update` is negative or after the end.
        """
        self._check_update(update, last=0)
        run, clock, size = self._runs.find(update)
        return PlannedBatch(clock, self.clock_of(update + 1), self._epoch(clock), run.size, size)

    def __len__(self) -> int:
        return self.updates

    def __iter__(self) -> Iterator[PlannedBatch]:
        return self._batches(self._end("iteration"))

    def to_numpy(self, coupling: Scaling | None = None, *, batch_size: int | None = None) -> dict[str, NDArray[Any]]:
        """Every update of the training as arrays of one length, for tables, charts and arithmetic of your own.

        Args:
            coupling: gives the factors on the LR; None leaves them out.
            batch_size: the one for which the LR was chosen, in samples; None for the first of the plan.

        Returns:
            By name: `starts_samples`, the clock where each update starts; `batch_sizes`, the samples in it;
            `requested`, the size asked for; `epochs`, where it starts; and with a coupling `lr_factors`, of the size
            asked for.

        Raises:
            TypeError: if the plan has no end.
            MissingPackageError: without numpy.

        Example:
            >>> from adabatch import couplings
            >>> plan = Plan(starts_samples=(0, 100), batch_sizes=(32, 64), dataset_size=100, epochs=2)
            >>> arrays = plan.to_numpy(couplings.sqrt())
            >>> arrays["starts_samples"].tolist(), arrays["batch_sizes"].tolist()
            ([0, 32, 64, 96, 100, 164], [32, 32, 32, 4, 64, 36])
            >>> arrays["lr_factors"].round(3).tolist()
            [1.0, 1.0, 1.0, 1.0, 1.414, 1.414]
        """
        with needing_torch("`Plan.to_numpy`"):
            import numpy as np  # here, so that plans need it nowhere else

        self._end("to_numpy")
        base = self.batch_sizes[0] if batch_size is None else _checks.whole("batch_size", batch_size)
        clocks, sizes, requested = [], [], []
        for run in self._runs.items:
            blocks = np.arange(run.repeat or 0, dtype=np.int64)[:, None]
            within = np.arange(run.per_block, dtype=np.int64)
            clocks.append((run.clock + blocks * run.span + within * run.size).ravel())
            block = np.full(run.per_block, run.size, dtype=np.int64)
            block[run.full :] = run.tail
            sizes.append(np.tile(block, len(blocks)))
            requested.append(np.full(len(clocks[-1]), run.size, dtype=np.int64))
        found = {name: np.concatenate(a) for name, a in (("starts_samples", clocks), ("batch_sizes", sizes))}
        found["requested"] = asked = np.concatenate(requested)
        found["epochs"] = found["starts_samples"] // (self.dataset_size or 1)
        if coupling is not None:
            distinct, at = np.unique(asked, return_inverse=True)
            found["lr_factors"] = np.array([coupling.lr_factor(size / base) for size in distinct.tolist()])[at]
        return found

    def describe(self) -> str:
        """The plan in one line."""
        sizes = " ".join(f"{size}" for size in self.sizes[:8]) + (" ..." if len(self.sizes) > 8 else "")
        if self.dataset_size is None:
            return f"a stream without end: batch sizes {sizes}"
        ends = "batches run on" if self.run_on else "short batches dropped" if self.drop_last else "short batches kept"
        if self.epochs is None:
            return f"epochs of {self.dataset_size:,} samples without end, {ends}: batch sizes {sizes}"
        return (
            f"{self.epochs:,} epochs of {self.dataset_size:,} samples, {ends}: "
            f"{self.updates:,} updates, batch sizes {sizes}"
        )

    def to_json(self) -> dict[str, Any]:
        """The plan as plain dicts, lists and numbers."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.init}
        if not self.world_sizes:
            del values["world_sizes"]  # plans of earlier versions have none
        return {"format": _FORMAT} | {
            name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            ValueError: if `data` is of another format, or lacks a field, or has one too many.
        """
        names = {"format"} | {entry.name for entry in fields(cls) if entry.init}
        if not isinstance(data, Mapping) or data.get("format") != _FORMAT or {*data, "world_sizes"} != names:
            found = sorted(map(str, data)) if isinstance(data, Mapping) else data
            raise ArgumentError("data", f"must be a plan of format {_FORMAT} with {sorted(names)}", value=found)
        return cls(**{name: value for name, value in data.items() if name != "format"})

    def fingerprint(self) -> str:
        """A short hash that two plans share exactly when they are equal."""
        return fingerprint(self.to_json())

    def _batches(self, end: int) -> Iterator[PlannedBatch]:
        starts = (
            (run.clock + block * run.span + index * run.size, run.size, run.size if index < run.full else run.tail)
            for run in self._runs.items
            for block in range(run.repeat or 0)
            for index in range(run.per_block)
        )
        clock, requested, size = next(starts)
        for following in starts:
            yield PlannedBatch(clock, following[0], self._epoch(clock), requested, size)
            clock, requested, size = following
        yield PlannedBatch(clock, end, self._epoch(clock), requested, size)

    def _epoch(self, clock: int) -> int:
        return 0 if self.dataset_size is None else clock // self.dataset_size

    def _end(self, what: str) -> int:
        if self.end_samples is None:
            raise ArgumentTypeError(None, f"a plan without end has no `{what}`: plan with `dataset_size` and `epochs`")
        return self.end_samples

    def _check_clock(self, name: str, clock: int) -> None:
        _checks.whole(name, clock, minimum=0)
        if self.end_samples is not None and clock > self.end_samples:
            raise ArgumentError(
                name,
                f"must be at most {self.end_samples:,}, the end of {self.epochs} epochs",
                got=f"{clock:,}",
                remedy="plan with more `epochs`",
            )

    def _check_update(self, update: int, *, last: int) -> None:
        _checks.whole("update", update, minimum=0)
        if self.end_samples is not None and update >= self.updates + last:
            raise ArgumentError(
                "update",
                f"must be below {self.updates + last:,}, the end of {self.epochs} epochs",
                got=f"{update:,}",
                remedy="plan with more `epochs`",
            )


def check_horizon(dataset_size: int | None, epochs: int | None, *, drop_last: bool, run_on: bool) -> None:
    """Checks the length of a training and what happens at the end of an epoch.

    Raises:
        ValueError: if a number is below 1, a stream has epochs, or both ways to end an epoch are asked for.
        TypeError: if a number is not whole, or a flag not a bool.
    """
    for name, value in (("drop_last", drop_last), ("run_on", run_on)):
        if not isinstance(value, bool):
            raise ArgumentTypeError(name, "must be True or False", value=value)
    if dataset_size is not None:
        _checks.whole("dataset_size", dataset_size)
    if epochs is not None:
        _checks.whole("epochs", epochs)
        if dataset_size is None:
            raise ArgumentError(
                "epochs", "must be None for a stream", value=epochs, remedy="give `dataset_size` to count epochs"
            )
    if drop_last and run_on:
        raise ArgumentError(
            "drop_last", "and `run_on` must not both be True", remedy="batches that run on leave nothing to drop"
        )


def fingerprint(data: Any) -> str:
    """A short hash of JSON-safe data."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
