"""A loader without data: gives batches, and what to draw for each, to a loop that draws its own samples."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from adabatch import _checks, _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.data import arguments
from adabatch.data.cursor import Cursor, StreamCursor, checked_size
from adabatch.data.iteration import bounds_of
from adabatch.types import Batch, Driver, Part

_FORMAT: Final = 1
_KEYS: Final = ("format", "clock", "batch_size", "dataset_size", "drop_last", "run_on")
_NEXT: Final = "next_batch_size"  # in states where another size is postponed


@dataclass(frozen=True, slots=True)
class Draw:
    """The samples that a loop draws for one forward and backward pass on one rank: a micro-batch.

    Attributes:
        positions: the clocks of the samples, a world apart, at least one. Who draws at random takes `size` samples;
            who has an order of their own takes those at `positions`, modulo the size of the data set.
        weight: the factor on the mean loss of these samples; 0 for the one sample that keeps a rank in step.
        index: its number within the batch, from 0.
        count: micro-batches in the batch, the same on every rank.
    """

    positions: range
    weight: float
    index: int
    count: int

    @property
    def size(self) -> int:
        """Samples to draw, at least 1."""
        return len(self.positions)

    @property
    def is_last(self) -> bool:
        """Whether the optimizer steps after this one; elsewhere gradients need no synchronising."""
        return self.index + 1 == self.count


class Line:
    """The batches of a clock, one after the other, and how each is cut into micro-batches.

    Args:
        cursor: cuts the data into batches.
        group: the process group over which they are cut; None for the world.

    Attributes:
        cursor: the argument.
    """

    def __init__(self, cursor: Cursor, group: Any) -> None:
        self.cursor, self._group = cursor, group
        self._joined: tuple[int, int] | None = None
        self.sharing()

    def sharing(self) -> tuple[Any, int, int]:
        """See `DrivenLoader.sharing`."""
        return _distributed.sharing_group(group=self._group)

    @property
    def epoch(self) -> int:
        """The epoch in which the current batch starts; between batches the next one's."""
        return self.cursor.epoch_of(self.cursor.clock)

    @property
    def end(self) -> int | None:
        """Where the plan ends, if the next batch would start there or later."""
        plan = self.cursor.plan
        end = None if plan is None else plan.end_samples
        return None if end is None or self.cursor.following()[0] < end else end

    def check_done(self) -> None:
        """Raises if the batch that was begun is not done."""
        driver, batch = self.cursor.driver, self.cursor.current
        if driver is not None:
            driver.check_next()
        if batch is None:
            return
        done = "take all its micro-batches" if driver is None else "call `step()` of the BatchSizeScheduler first"
        raise UsageError(
            "begin()",
            f"of Clock was called before the batch at sample {batch.clock:,} was done",
            remedy=f"{done}; to begin it once more, load the clock's own `state_dict()`",
        )

    def begin(self) -> Batch:
        """The next batch, now current."""
        self.check_done()
        self._join()
        if self.end is not None:
            raise UsageError(
                "begin()",
                f"of Clock came after the plan's end, sample {self.end:,}",
                remedy="loop over `range(batches.plan.updates)`, or give `epochs=` the length of the whole training",
            )
        clock, _ = self.cursor.following()
        batch = self.cursor.advance(self.cursor.epoch_of(clock))
        assert batch is not None
        count = len(self.cut(batch))
        self.cursor.part = Part(batch, -1, count, 0)  # nothing is drawn yet
        return batch

    def cut(self, batch: Batch) -> tuple[tuple[int, int], ...]:
        """First and one past the last item of each micro-batch of this rank's share."""
        cursor = self.cursor
        return bounds_of(batch.clock, batch.size, cursor.demand.micro_batch_size, cursor.rank, cursor.world)

    def hand_out(self, batch: Batch, bounds: tuple[tuple[int, int], ...], index: int) -> tuple[range, Part]:
        """The positions of a micro-batch, and its `Part`; without a driver the last one commits the batch."""
        cursor, (first, last) = self.cursor, bounds[index]
        if cursor.current is not batch:
            raise UsageError(
                None, "micro-batches of a batch must not be taken once it is done", remedy="call `begin()` for the next"
            )
        rank, world = cursor.rank, cursor.world
        turn = (rank - batch.clock) % world
        cursor.part = part = Part(batch, index, len(bounds), last - first, turn)
        if cursor.driver is None and part.is_last:
            cursor.commit()
        if last == first:
            return range(batch.clock, batch.clock + 1), part
        return range(first * world + rank, last * world + rank, world), part

    def _join(self) -> None:
        """Takes this process's place among the ranks; raises if it took another before, or ranks differ."""
        group, rank, world = self.sharing()
        if self._joined == (rank, world):
            return
        if self._joined is not None:
            raise UsageError(
                None,
                "the process group must not change while a clock lives",
                got=f"rank {rank} of {world} after rank {self._joined[0]} of {self._joined[1]}",
                remedy="make a new clock and load this one's state into it",
            )
        cursor = self.cursor
        if world > 1:
            values = {"batch_size": cursor.batch_size, "micro_batch_size": cursor.demand.micro_batch_size}
            values |= {"clock": cursor.clock, "dataset_size": cursor.dataset_size}
            remedy = "make the clock on every rank with the same arguments, and load the same state"
            _distributed.check_same(values, group, remedy=remedy)
        self._joined = cursor.rank, cursor.world = rank, world


class Draws(Iterator[Draw]):
    """The micro-batches of one batch; `len()` is their number."""

    def __init__(self, line: Line) -> None:
        self._line, self._batch, self._index = line, line.begin(), 0
        self._bounds = line.cut(self._batch)

    def __len__(self) -> int:
        return len(self._bounds)

    def __next__(self) -> Draw:
        if self._index == len(self._bounds):
            raise StopIteration
        positions, part = self._line.hand_out(self._batch, self._bounds, self._index)
        self._index += 1
        return Draw(positions, part.size * self._line.cursor.world / self._batch.size, part.index, part.count)


class Parts(Iterator[tuple[range, Part]]):
    """The rest of an epoch as micro-batches, see `Clock.parts`."""

    def __init__(self, line: Line) -> None:
        self._line, self._index = line, 0
        self._batch: Batch | None = None
        self._bounds: tuple[tuple[int, int], ...] = ()

    def __next__(self) -> tuple[range, Part]:
        line, batch = self._line, self._batch
        if batch is None or self._index == len(self._bounds):
            line.check_done()
            if batch is not None and (line.epoch != batch.epoch or line.end is not None):
                raise StopIteration
            batch = self._batch = line.begin()
            self._bounds, self._index = line.cut(batch), 0
        found = line.hand_out(batch, self._bounds, self._index)
        self._index += 1
        return found

    def again(self) -> None:
        """Hands the current batch out again from its start, in micro-batches as now set; raises if there is none."""
        if self._batch is None:
            raise UsageError("again", "needs a batch whose micro-batches are being handed out")
        self._line.cursor.repeat(self._batch)
        self._bounds, self._index = self._line.cut(self._batch), 0


class Clock:
    """A driven loader without data, for loops that draw their own batches, such as nanoGPT's.

    `BatchSizeScheduler` and `by_samples` take it as they take an `ab.DataLoader`. `begin()` starts the next batch and
    yields a `Draw` for each micro-batch. Multiply the mean loss by its weight, and let the optimizer step after the
    last one. The gradients then add up to that of the batch's mean loss, whatever the sizes:

        weight = n * W / B; where gradients are summed over W ranks instead of averaged, divide it by W

    A rank's share of a batch is cut into as few micro-batches of at most `micro_batch_size` samples as possible, which
    differ by at most one sample; every rank gets as many. Where a rank has no sample for one, it draws one of weight 0.

    `ab.accumulate(clock, model)` works too: inside `with micro as positions` the samples to draw are `positions`. Then
    DistributedDataParallel synchronises once a batch, and a batch that ran out of memory is repeated.

    Args:
        batch_size: samples in one update, over all ranks.
        micro_batch_size: samples per forward and backward pass on one rank; None for no splitting.
        dataset_size: samples in an epoch, to count epochs; None for data without an end.
        drop_last: whether a last batch of an epoch that would be short is dropped.
        run_on: whether batches run on into the next epoch, so that none is short; None means yes, unless `drop_last`.
        group: the process group over which batches are cut; default the world.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range or does not go with another.

    Example:
        >>> import torch, adabatch as ab
        >>> data, model = torch.randn(64, 3), torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> clock = ab.Clock(batch_size=4, micro_batch_size=3)
        >>> batches = ab.BatchSizeScheduler(optimizer, clock, ab.schedules.steps("0:4 8:8"))
        >>> drawn = []
        >>> for update in range(3):
        ...     for micro in clock.begin():
        ...         inputs = data[torch.randint(64, (micro.size,))]
        ...         (model(inputs).square().mean() * micro.weight).backward()
        ...         drawn.append(micro.size)
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     batches.step()
        >>> drawn
        [2, 2, 2, 2, 2, 3, 3]
    """

    counted_late = False

    def __init__(
        self,
        *,
        batch_size: int,
        micro_batch_size: int | None = None,
        dataset_size: int | None = None,
        drop_last: bool = False,
        run_on: bool | None = None,
        group: Any = None,
    ) -> None:
        run_on = dataset_size is not None and not drop_last if run_on is None else run_on
        drop_last, run_on = arguments.flags(drop_last=drop_last, run_on=run_on)
        arguments.check_together(drop_last=drop_last, run_on=run_on, seed=None, generator=None)
        if dataset_size is None:
            for name, given in (("drop_last", drop_last), ("run_on", run_on)):
                if given:
                    raise ArgumentError(name, "must come with `dataset_size`", got="it alone", remedy="leave it out")
            cursor: Cursor = StreamCursor(batch_size=batch_size, drop_last=False)
        else:
            size = _checks.whole("dataset_size", dataset_size)
            cursor = Cursor(size, batch_size=batch_size, drop_last=drop_last, run_on=run_on)
        self._line, self._cursor = Line(cursor, group), cursor
        self.micro_batch_size = micro_batch_size

    # Settings

    @property
    def batch_size(self) -> int:
        """Samples in one update, over all ranks; set it at any time, it holds for the very next batch."""
        return self._cursor.batch_size

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self._cursor.batch_size = value

    @property
    def micro_batch_size(self) -> int | None:
        """Samples per forward and backward pass on one rank; set it at any time, it holds from the next batch on."""
        return self._cursor.demand.micro_batch_size

    @micro_batch_size.setter
    def micro_batch_size(self, value: int | None) -> None:
        if value is not None:
            remedy = "None trains on whole rank batches"
            value = checked_size(value, self.dataset_size, name="micro_batch_size", remedy=remedy)
        self._cursor.demand.micro_batch_size = value

    @property
    def dataset_size(self) -> int | None:
        """Samples in an epoch; None for data without an end."""
        return self._cursor.dataset_size

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that would be short is dropped."""
        return self._cursor.drop_last

    @property
    def run_on(self) -> bool:
        """Whether batches run on into the next epoch."""
        return self._cursor.run_on

    # Where it stands

    @property
    def clock(self) -> int:
        """Position in the data up to which batches are committed, in samples."""
        return self._cursor.clock

    @property
    def epoch(self) -> int:
        """The epoch in which the current batch starts; between batches the next one's."""
        return self._line.epoch

    @property
    def current(self) -> Batch | None:
        """The batch that was begun and is not committed."""
        return self._cursor.current

    @property
    def left(self) -> Batch | None:
        """None: no batch can be passed untrained."""
        return None

    @property
    def part(self) -> Part | None:
        """The micro-batch drawn last; None before the first batch."""
        return self._cursor.part

    @property
    def driver(self) -> Driver | None:
        """The `BatchSizeScheduler` that gives the batch size; None for none."""
        return self._cursor.driver

    def sharing(self) -> tuple[Any, int, int]:
        """See `DrivenLoader.sharing`."""
        return self._line.sharing()

    def attach(self, driver: Driver) -> None:
        """From the next batch on, `driver` gives the batch size, and a batch commits at `commit()`."""
        self._cursor.demand.attach(driver)

    def detach(self) -> None:
        """Undoes `attach`; the batch size stays."""
        self._cursor.detach()

    def commit(self) -> None:
        """Marks the current batch as trained on."""
        self._cursor.commit()

    def forget_looks(self) -> None:
        """Does nothing: a clock has no iterations that only look."""

    # Batches

    def begin(self) -> Draws:
        """Begins the next batch; yields a `Draw` for each of its micro-batches, and `len()` is their number.

        Under a `BatchSizeScheduler` the batch is done at its `step()`, which must come before the next `begin()`, also
        after an optimizer step that was skipped. Without one it is done with its last micro-batch.

        Raises:
            RuntimeError: if the batch before is not done, the plan is over, or the process group changed.
        """
        return Draws(self._line)

    def parts(self) -> Parts:
        """The rest of the current epoch as micro-batches for `ab.accumulate`: positions, each with its `Part`.

        Where there is neither a `dataset_size` nor a plan with an end, it has none. Leaving it passes nothing.
        """
        return Parts(self._line)

    def peek(self) -> range:
        """The positions of the first micro-batch: of the batch that is under way, else of the next; nothing moves."""
        group, rank, world = self._line.sharing()
        line = Line(self._cursor.fork(), group)
        line.cursor.demand = copy.copy(line.cursor.demand)
        line.cursor.rank, line.cursor.world = rank, world
        batch = line.cursor.advance(line.cursor.epoch_of(line.cursor.following()[0]))
        assert batch is not None
        return line.hand_out(batch, line.cut(batch), 0)[0]

    # State

    def state_dict(self) -> dict[str, Any]:
        """The position: a few numbers, JSON-safe, the same on every rank. A batch that is not done is begun again."""
        cursor = self._cursor
        found = {"format": _FORMAT, "clock": cursor.position, **self._identity()}
        return found | cursor.demand.saved(cursor.batch_size, cursor.current)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, at the next `begin()`; ranks and micro-batches may differ.

        Args:
            state_dict: from `state_dict()`.

        Raises:
            TypeError: if it is no dict.
            ValueError: if it is damaged, or of a clock with other arguments; nothing is changed then.
            RuntimeError: if the optimizer stepped for the current batch, and the BatchSizeScheduler did not.
        """
        _check_state(state_dict, self._identity())
        clock, cursor = _checks.whole("clock", state_dict["clock"], minimum=0), self._cursor
        if cursor.current is not None and cursor.driver is not None:
            cursor.driver.check_next(begins=True)
        cursor.demand.load(state_dict, cursor.checked)
        cursor.position, cursor.current, cursor.part = clock, None, None

    def _identity(self) -> dict[str, Any]:
        """The arguments that a state must agree on."""
        return {"dataset_size": self.dataset_size or 0, "drop_last": self.drop_last, "run_on": self.run_on}


def _check_state(state: Any, own: Mapping[str, Any]) -> None:
    """Raises unless `state` is one of a clock with the same `own` arguments."""
    if not isinstance(state, Mapping):
        raise ArgumentTypeError("state_dict", "must be a dict from `state_dict()`", got=type(state).__name__)
    if state.get("format") != _FORMAT or set(state) - {_NEXT} != set(_KEYS):
        rule = f"must be what `state_dict()` of a Clock gave (format {_FORMAT})"
        raise ArgumentError("state_dict", rule, got=str(sorted(map(str, state))))
    for name, mine in own.items():
        if state[name] != mine:
            rule = f"must be of a clock with the same `{name}`: it is {state[name]!r} there and {mine!r} here"
            raise ArgumentError("state_dict", rule, remedy="resume with the same arguments")
