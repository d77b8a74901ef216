"""Where a loader stands: its committed position, and the iteration that hands out batches."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from adabatch._errors import MISSING, ArgumentError, ArgumentTypeError, UsageError
from adabatch.data.cursor import Cursor

_FORMAT: Final = 1
_COUNT, _FLAG, _TEXT = (int, "a whole number of at least 0"), (bool, "True or False"), (str, "text")
_KINDS: Final[dict[str, tuple[type, str]]] = {
    **dict.fromkeys(("clock", "batch_size", "seed", "dataset_size"), _COUNT),
    **{"shuffle": _FLAG, "sampler": _TEXT, "drop_last": _FLAG, "run_on": _FLAG, "sharding": _TEXT},
}


class Iteration:
    """Where one iteration stands.

    Attributes:
        cursor: the cursor that it moves, once begun.
        epoch: the epoch that it goes through, once begun.
        source: where its samples come from while it goes on; else None.
        start: the clock where it starts, once begun.
        live: whether it goes on.
        handed_out: whether it handed out a batch.
        stuck: whether the batch that was asked for last could not be fetched.
        trained: whether one of its batches was trained on, as a driver reported.
        before: the iteration that handed out a batch last when this one began; None once this one is over.
        seen: the place's number of moves when this iteration began or last committed.
        assigned: how often a batch size had been assigned when it began.
    """

    cursor: Cursor
    source: Any = None
    epoch = start = assigned = seen = 0
    live = trained = stuck = handed_out = False
    before: Iteration | None = None

    @property
    def over(self) -> bool:
        """Whether all of its epoch was handed out; False if only waiting would tell."""
        return self.live and self.cursor.ends_at(self.cursor.after, self.epoch)

    @property
    def done(self) -> bool:
        """Whether all of its epoch was handed out and trained on."""
        return self.over and self.cursor.current is None


class Place:
    """Where a loader stands. Each iteration has a cursor of its own.

    Without a driver the loader stands where its newest iteration does. With one, looking is free: an iteration moves
    nothing until one of its batches commits; from then on the loader stands where that iteration does.

    Attributes:
        cursor: the committed position, which is saved.
        shown: the cursor of the iteration that handed out a batch last.
        demand: the sizes that are asked for.
        is_fork: whether it is another place's fork.
    """

    is_fork = False

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = self.shown = cursor
        self.demand = cursor.demand
        self._front: Iteration | None = None
        self._moves = 0  # how often the loader was moved, by a driver's commits or by loads
        self._before_looks: Cursor | None = None  # where it stood before iterations that were left early
        self._ended = False  # whether an iteration reached its end since then
        self._thread = 0

    @property
    def front(self) -> Iteration | None:
        """The iteration that handed out a batch last, if it goes on."""
        return self._front if self._front is not None and self._front.live else None

    @property
    def epoch(self) -> int:
        """The epoch that an iteration goes through; the next one if none does, or all of it was trained on."""
        front = self.front
        if front is None or (self.cursor.driver is not None and front.done):
            return self.next_epoch
        return front.epoch

    @property
    def next_epoch(self) -> int:
        """The epoch that the next iteration would go through."""
        front, cursor = self.front, self.cursor
        if front is not None and not front.over:
            return front.epoch
        if cursor.open is not None:
            return cursor.open
        epoch = cursor.epoch_of(cursor.clock)
        return epoch + (cursor.begun == epoch)

    def count(self) -> int:
        """See `DataLoader.__len__`."""
        front = self.front
        if front is None:
            return self.cursor.count_whole(self.epoch)
        self._check_unassigned(front)
        return front.cursor.count_whole(self.epoch)

    def sizes_in(self, epoch: int) -> dict[int, int]:
        """How many batches of each size start in `epoch`; a TypeError over a stream, or as `count`."""
        front, cursor = self.front, self.cursor
        if cursor.dataset_size is None:
            rule = "the epochs of a stream have no length that is known ahead"
            raise ArgumentTypeError(None, rule, remedy="count the batches, or read a data set with a length")
        if front is not None and front.epoch == epoch:
            self._check_unassigned(front)
            cursor = front.cursor
        return cursor.sizes(cursor.first_of(epoch), epoch)

    def _check_unassigned(self, front: Iteration) -> None:
        if front.assigned != self.demand.assigned:
            rule = "a loader whose `batch_size` was assigned during the epoch has no length: the sizes to come are open"
            raise ArgumentTypeError(None, rule)

    # Iterations.

    def begin(self, new: Iteration) -> None:
        """Gives a new iteration its cursor and epoch; raises while a driver's iteration that has trained goes on."""
        front, driver = self.front, self.cursor.driver
        if driver is not None:
            driver.check_next(begins=True)
            if front is not None and front.trained and not (front.stuck or front.done):
                raise UsageError(
                    None,
                    "a second iteration of a loader must not begin before the first has ended",
                    remedy="evaluate with another loader; this one drives the schedule; leave the first loop, or call "
                    "`close()` on its iterator",
                )
        elif self._before_looks is None:
            self._before_looks = self.cursor.fork()
        cursor = self.cursor.fork()
        epoch = cursor.epoch_of(cursor.clock)
        if cursor.open is not None:
            epoch, cursor.open = cursor.open, None
        elif cursor.begun == epoch:
            cursor.skip_epoch(epoch)
            epoch = cursor.epoch_of(cursor.clock)
        new.before, new.seen = self._front, self._moves
        new.cursor, new.epoch = cursor, epoch
        if driver is None:
            self.cursor = cursor
        self.shown, self._front = cursor, new

    def hand_out(self, by: Iteration) -> None:
        """An iteration is asked for its next batch; raises if the loader has gone on elsewhere."""
        self._thread = threading.get_ident()
        if by.cursor is self.shown and by.seen == self._moves:
            return
        if by.seen != self._moves and by.cursor.driver is not None:
            raise UsageError(
                None,
                "an iteration of a loader that a schedule drives must not go on after a later one was trained on, or a "
                "state was loaded",
                remedy="take batches from the latest iterator only",
            )
        self.shown, self._front = by.cursor, by

    def commit(self) -> None:
        """A driver reports the current batch as trained on; raises without one, or if another thread took it."""
        cursor, batch = self.shown, self.shown.current
        if batch is not None and self._thread != threading.get_ident():
            raise UsageError(
                None,
                "a batch of a loader that a schedule drives must be taken by the thread that trains on it",
                got="another thread, which runs ahead",
                remedy="batches are prefetched by `num_workers=` and moved ahead by `device=`",
            )
        cursor.commit()
        assert batch is not None
        cursor.begun = batch.epoch
        self.cursor, self._moves = cursor, self._moves + 1
        front = self._front
        if front is not None and front.cursor is cursor:
            front.seen, front.trained = self._moves, True

    def end(self, which: Iteration, *, exhausted: bool) -> None:
        """An iteration is over: `exhausted`, or left early."""
        before, which.before = which.before, None
        if exhausted and which.cursor.driver is None:
            self._ended = True
        if exhausted and not which.handed_out:
            self.cursor = which.cursor  # its epoch had no batch left, and ends now
        if which.cursor is not self.shown:
            return
        driven = which.cursor.driver is not None
        if before is not None and before.live and not before.stuck and not (driven and before.seen != self._moves):
            self.shown, self._front = before.cursor, before  # the loop around it goes on
        elif which.cursor.current is None and driven:
            self.shown = self.cursor

    def fork(self) -> Place:
        """An independent copy that stands here."""
        cursor = self.cursor.fork()
        cursor.demand = copy.copy(cursor.demand)
        fork = Place(cursor)
        fork.is_fork = True
        return fork

    # Moved from outside.

    def measured(self, size: int | None) -> None:
        """The data set has `size` samples from the next epoch on; raises if a schedule counts on another size."""
        cursor = self.cursor
        if cursor.takes(size):
            return
        epoch = self.next_epoch
        if cursor.driver is not None:
            raise ArgumentError(
                "dataset",
                f"must keep its size while a schedule drives its loader: it has {size:,} samples at epoch {epoch}, and "
                f"the plan counts on {cursor.size:,}",
                remedy="call `close()` on the BatchSizeScheduler and make another, with the rest of the schedule",
            )
        assert size is not None
        self.cursor = cursor = cursor.fork()  # an iteration that goes on keeps what it began with
        cursor.size, cursor.begun = size, None
        cursor.move_to(epoch)
        self.moved()

    def set_epoch(self, epoch: int) -> None:
        """See `DataLoader.set_epoch`."""
        front, cursor = self.front, self.cursor
        if front is not None and not front.over:
            raise UsageError("set_epoch", "must not be called during an iteration", remedy="call it before the loop")
        if epoch == self.next_epoch:
            return
        if cursor.driver is not None:
            raise ArgumentError(
                "epoch",
                f"must be {self.next_epoch}, the next one, while a schedule drives this loader",
                value=epoch,
                remedy="epochs are counted without this call; to go on from elsewhere load a state",
            )
        cursor.current = cursor.begun = cursor.open = None
        cursor.move_to(epoch)
        self.moved()

    def moved(self) -> None:
        """The loader was placed elsewhere, by a state or a call."""
        self._moves += 1
        self.shown, self._front = self.cursor, None
        self._before_looks, self._ended = None, False

    def forget_looks(self) -> None:
        """See `DrivenLoader.forget_looks`."""
        if self._before_looks is not None and not self._ended:
            self.cursor = self._before_looks.fork()
            if self.front is None or self.shown.current is None:
                self.shown = self.cursor
        self._before_looks = None

    def detach(self) -> None:
        """See `DrivenLoader.detach`."""
        if self.cursor.driver is not None:
            self.shown.detach()
            self.cursor = self.shown

    # Saved.

    def saved(self) -> dict[str, Any]:
        """The position, JSON-safe; a batch that is not committed is repeated from its start."""
        cursor, front, out = self.cursor, self.front, self.cursor.current
        found: dict[str, Any] = {"format": _FORMAT, "clock": cursor.position}
        found |= self.demand.saved(cursor.batch_size, out)
        if front is not None and front.cursor is cursor and out is None and front.over:
            found["open_epoch"] = front.epoch
        elif cursor.open is not None:
            found["open_epoch"] = cursor.open
        return found | cursor.saved()

    @property
    def between(self) -> bool:
        """Whether no pass of a stream goes on."""
        return self.cursor.position == self.cursor.base and self.shown.current is None

    def check_load(self) -> None:
        """Raises if a state cannot be loaded now."""
        front = self.front
        if self.cursor.driver is not None and front is not None and front.trained and not front.over:
            raise UsageError(None, "a state must not be loaded during an iteration", remedy="load it before the loop")

    def read(self, state: Mapping[str, Any], *, readers: int, rank: Callable[[], int]) -> Cursor:
        """A cursor for `load`, from a `checked` state; raises if that is damaged."""
        cursor = self.cursor.fork()
        cursor.demand = copy.copy(cursor.demand)
        left_open = state.get("open_epoch")
        cursor.demand.load(state, cursor.checked)
        cursor.position, cursor.begun = state["clock"], None
        if cursor.dataset_size is None:
            cursor.go_on(_checked_stream(state, readers=readers, rank=rank()))
            return cursor
        epoch = cursor.epoch_of(cursor.position)
        if left_open is not None and (type(left_open) is not int or left_open not in (epoch - 1, epoch)):
            raise _damaged(f"`open_epoch` must be {epoch} or the epoch before", left_open)
        cursor.go_on({"open_epoch": left_open})
        return cursor

    def load(self, cursor: Cursor) -> None:
        """Stands where `cursor`, from `read`, does."""
        self.demand.batch_size, self.demand.postponed = cursor.demand.batch_size, cursor.demand.postponed
        cursor.demand, self.cursor = self.demand, cursor
        self.moved()


def checked(state: Any) -> dict[str, Any]:
    """`state` as a dict; raises if it has another format or an entry is missing, negative or of another type."""
    if not isinstance(state, Mapping):
        raise ArgumentTypeError("state", "must be a dict from `state_dict()`", got=type(state).__name__)
    if state.get("format") != _FORMAT:
        raise ArgumentError(
            "state",
            f"must be a loader's state of format {_FORMAT}",
            got=f"format {state.get('format')!r}",
            remedy="it is damaged or written by another version",
        )
    for name, (kind, words) in _KINDS.items():
        if name not in state:
            raise _damaged(f"`{name}` is missing")
        if type(state[name]) is not kind or (kind is int and state[name] < 0):
            raise _damaged(f"`{name}` must be {words}", state[name])
    return dict(state)


def _damaged(what: str, value: Any = MISSING) -> ArgumentError:
    return ArgumentError("state", f"is damaged: {what}", value=value, remedy="use an older checkpoint")


def compare(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises if `state` differs from this loader's `own` entries; names all differences."""
    differences = [
        f"`{name}` is {state[name]!r} there and {mine!r} here" for name, mine in own.items() if state[name] != mine
    ]
    if differences:
        remedy = "load the state into a loader over the same data, built with the same arguments"
        raise ArgumentError("state", f"must belong to this loader: {', '.join(differences)}", remedy=remedy)


def _checked_stream(state: Mapping[str, Any], *, readers: int, rank: int) -> dict[str, Any]:
    """The stream's part of a state; raises if it is damaged, has other `readers` or is another `rank`'s."""
    stream = state.get("stream")
    found: dict[str, Any] = dict(stream) if isinstance(stream, Mapping) else {}
    epoch, base, chunk = (found.get(name, -1) for name in ("epoch", "base", "chunk"))
    whole = _is_count(epoch) and _is_count(base) and (chunk is None or _is_count(chunk))
    place, stride = found.get("place", "missing"), state["sharding"] == "stride"
    offset = state["clock"] - base if whole else -1
    if chunk == 0 or not _is_place(place, offset, chunk, None if stride else readers):
        raise _damaged("`stream` must hold a place in the stream", stream)
    if not stride and place is not None and place["rank"] != rank:
        raise ArgumentError(
            "state",
            f"must be this rank's where a stream shares itself out: it is of rank {place['rank']}, this is rank {rank}",
            remedy="save and load a state on each rank",
        )
    return found


def _is_place(place: Any, offset: int, chunk: int | None, readers: int | None) -> bool:
    """Whether a stream can go on at `place` and deliver from `offset` on; `readers`: those that it is shared out to."""
    if offset < 0 or not isinstance(place, Mapping):
        return place is None and (offset == 0 or (readers is None and offset > 0))
    if readers is None:
        return _is_count(place.get("offset")) and place["offset"] <= offset and "state" in place
    found: list[Any] = [place.get(name) for name in ("rank", "turn", "used", "readers")]
    *counts, each = found
    turn, used = counts[1:]
    if chunk is None or not (all(map(_is_count, counts)) and isinstance(each, list | tuple)):
        return False
    rows = [row for row in each if isinstance(row, list | tuple) and len(row) == 3]
    sound = all(_is_count(done) and _is_count(mark) and mark <= done for done, mark, _ in rows)
    inside = len(rows) == len(each) == readers and turn < readers and used < chunk
    return sound and inside and sum(done for done, _, _ in rows) <= offset


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
