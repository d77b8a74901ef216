"""Streams as sources; their length shows only while they are read.

Either every reader walks the whole stream and keeps a share, or the stream shares itself out and each has a part.
"""

from __future__ import annotations

import copy
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from adabatch.data.order import items_of
from adabatch.data.sources.assembler import Assembler, Feed, Fetching, Run
from adabatch.data.sources.nested import mapped
from adabatch.data.workers.pool import HerePool
from adabatch.data.workers.streams import Agreement, Mark, Opening, StreamReader, disagreement
from adabatch.data.workers.worker import Apart, Reply


def _warn_of_skipping(samples: int) -> None:
    """Warns of the cost of going on without the data set's help."""
    warnings.warn(
        f"{samples} samples of the stream are read and dropped, to get to where it stopped; give the data set"
        " `state_dict` and `load_state_dict`, with a state that JSON does not change, to save that",
        UserWarning,
        stacklevel=5,
    )


class StreamSource(Feed):
    """A source over a stream: feeds an assembler, and keeps the first sample for ranks without one in a micro-batch."""

    def __init__(self, how: Fetching, reader: StreamReader, rank: int, world: int, *, show_info: bool) -> None:
        self._runs = runs = Assembler(how, lambda: how.pool(reader, rank, show_info=show_info), self)
        self.held, self.fetch, self.rest, self.close = runs.held, runs.fetch, runs.rest, runs.close
        self._rank, self._world = rank, world
        self._collate, self._learned = how.own_collate, how.learned
        self._serial = 0
        self._first: Any = None

    def took(self, reply: Reply) -> Mark | None:
        """Keeps the first sample; returns the reply's place in the stream, if its state can be saved."""
        if self._first is None and reply.count and self._world > 1:
            self._first = self._copied(self._runs.cut(reply.data, 0, 1))
        mark: Mark | None = reply.mark
        if mark is None or mark.why is None:
            return mark
        if not self._learned.warned:
            self._learned.warned = True
            warnings.warn(
                f"`state_dict` of the data set must hold what JSON does not change: {mark.why}; to go on from a state"
                " saved here samples will be read and dropped",
                UserWarning,
                stacklevel=5,
            )
        return None

    def spared(self, how: Fetching, opening: Opening, offset: int) -> Any:
        """The first sample as a batch; before it came, sample `offset` of a copy of the stream, opened at `opening`."""
        if self._first is not None:
            found = self._copied(self._first)
        else:
            pool = HerePool(how.reader(copy.deepcopy(how.dataset)), collate=self._collate is None)
            pool.send(0, offset, offset + 1, opening)
            reply = pool.receive(0)
            if reply.failure is not None:
                raise reply.failure.raised()
            if isinstance(reply.data, Apart):
                raise reply.data.why.raised()
            found = reply.data
        return self._runs.arrived(found if self._collate is None else self._collate(found))

    def _copied(self, sample: Any) -> Any:
        return mapped(sample, torch.clone) if self._collate is None else copy.deepcopy(sample)


class WalkedStream(StreamSource):
    """A stream that every reader walks, each keeping its share; exact for any number of workers and ranks."""

    def __init__(self, how: Fetching, *, rank: int, world: int) -> None:
        # each reader walks the whole stream, which must not share itself out
        super().__init__(how, how.reader(rank=rank, world=world), rank, world, show_info=False)
        self._opening = Opening(0, 0, Mark())
        self._marks: deque[Mark] = deque([Mark()])
        self._total: int | None = None
        self._seen = 0  # the item up to which the whole stream was walked
        self._agreement, self._compared = Agreement(), False

    def begin(self, epoch: int, place: Mapping[str, Any] | None, offset: int, _turn: Callable[[], int]) -> None:
        """See `StreamLike.begin`."""
        mark = Mark(place["offset"], place["state"]) if place is not None and offset else Mark()
        if offset and mark.state is None:
            _warn_of_skipping(offset)
        self._runs.restart(-1)
        self._serial += 1
        self._opening, self._total = Opening(self._serial, epoch, mark), None
        self._marks, self._seen, self._agreement = deque([mark]), 0, Agreement()

    def place(self, offset: int) -> dict[str, Any]:
        """See `StreamLike.place`; the last place at or before `offset` from which the stream can be read on."""
        mark = _last(self._marks, offset)
        return {"offset": mark.offset, "state": mark.state}

    def spare(self, how: Fetching, epoch: int, offset: int) -> Any:
        """A batch of one sample, for a rank that has none at `offset` of pass `epoch`."""
        return self.spared(how, Opening(0, epoch, _last(self._marks, offset)), offset)

    def extent(self, offset: int, wanted: int) -> int:
        """See `StreamLike.extent`; waits until it is known."""
        while len(self._marks) > 1 and self._marks[1].offset <= offset:
            self._marks.popleft()
        runs, first = self._runs, items_of(offset, 0, self._rank, self._world)[0]
        upto = (wanted - 1) // self._world + 1
        try:
            if first != runs.at:
                runs.restart(first)
            while self._total is None and self._seen < upto:
                if runs.broken:
                    break  # raised when its samples are fetched
                if runs.open is None:
                    self.ask(runs, max(upto, runs.end + 1))
                else:
                    runs.wait(runs.open)
            if self._total is not None and self._compared:
                self._walk_all(-(-self._total // self._world))
            if self._total is not None and self._total < offset:
                raise disagreement(f"one found {self._total} samples where others gave {offset}")
        except BaseException as error:
            runs.failed(error)
            raise
        return wanted if self._total is None else min(wanted, self._total)

    def _walk_all(self, last: int) -> None:
        """Has all workers walk to the end, item `last`, since they may see another stream."""
        for worker in range(len(self.held.pool.outstanding)):
            if worker not in self._agreement.ended:
                self._runs.wait(self._runs.send(last, last + 1, self._opening, to=worker))

    def ask(self, runs: Assembler, last: int) -> None:
        """See `Feed.ask`."""
        runs.request(last, self._opening)

    def ask_ahead(self, runs: Assembler) -> None:
        """See `Feed.ask_ahead`."""
        if self._total is None:
            runs.request_predicted()

    def came(self, run: Run, reply: Reply) -> None:
        """See `Feed.came`."""
        mark = self.took(reply)
        if reply.prints is not None:
            self._compared = True
            self._agreement.add(run.worker, reply.prints)
        if reply.failure is None:
            self._seen = max(self._seen, run.last)
        if reply.end is not None:
            if self._total not in (None, reply.end):
                raise disagreement(f"one found {self._total} samples and worker {run.worker} {reply.end}")
            self._total = reply.end
            self._agreement.ended.add(run.worker)
        if mark is not None and mark.offset > self._marks[-1].offset:
            self._marks.append(mark)


def _last(marks: deque[Mark], offset: int) -> Mark:
    """The last place at or before `offset`; the beginning if there is none."""
    return next((mark for mark in reversed(marks) if mark.offset <= offset), Mark())


class Lane:
    """The part of a stream that one reader has.

    Attributes:
        opened: the place where it is opened.
        sent: samples asked for.
        ended: whether it gave its last.
        marks: places from which it can be read on.
    """

    def __init__(self, done: int, mark: Mark) -> None:
        self.opened, self.sent, self.ended = mark, done, False
        self.marks = deque([mark])


@dataclass
class Asked:
    """A request: item `first` is sample `local` of lane `turn`, which gave `used` samples of its turn before."""

    first: int
    turn: int
    used: int
    local: int


class SharedOutStream(StreamSource):
    """A stream that shares itself out: takes a chunk of samples from each reader in turn until all have ended.

    Order and state belong to this number of readers. Each rank reads its own parts. An epoch ends for all ranks when
    one has no more; `agree` gives the least of their values.
    """

    def __init__(self, how: Fetching, *, rank: int, world: int, agree: Callable[[int], int]) -> None:
        super().__init__(how, how.reader(), rank, world, show_info=True)
        self._count, self._agree = max(1, how.num_workers), agree
        self._open(0, None, 0, 1)

    def begin(self, epoch: int, place: Mapping[str, Any] | None, offset: int, turn: Callable[[], int]) -> None:
        """See `StreamLike.begin`."""
        self._open(epoch, place, offset, turn())

    def _open(self, epoch: int, place: Mapping[str, Any] | None, offset: int, chunk: int) -> None:
        self._runs.restart(items_of(offset, 0, self._rank, self._world)[0])
        self._serial, self._epoch, self._chunk = self._serial + 1, epoch, chunk
        self._lanes = [Lane(0, Mark()) for _ in range(self._count)]
        self._next = (0, 0)
        self._asked: deque[Asked] = deque()
        if place is not None:
            self._next = place["turn"], place["used"]
            self._lanes = [Lane(done, Mark(offset, state)) for done, offset, state in place["readers"]]
        skipped = sum(lane.sent for lane in self._lanes if lane.opened.state is None)
        if skipped:
            _warn_of_skipping(skipped)

    def place(self, offset: int) -> dict[str, Any]:
        """See `StreamLike.place`; where the readers stand once `offset` samples are delivered."""
        items = items_of(offset, 0, self._rank, self._world)[0]
        done = [lane.sent for lane in self._lanes]
        turn, used = self._next
        for asked in reversed(self._asked):  # undo requests beyond `items`
            if asked.first < items:
                done[asked.turn] = asked.local + (items - asked.first)
                turn, used = asked.turn, asked.used + items - asked.first
                if used >= self._chunk or (self._lanes[turn].ended and done[turn] == self._lanes[turn].sent):
                    turn, used = (turn + 1) % self._count, 0
                break
            done[asked.turn] = asked.local
            turn, used = asked.turn, asked.used
        marks = [_last(lane.marks, count) for lane, count in zip(self._lanes, done, strict=True)]
        readers = [[count, mark.offset, mark.state] for count, mark in zip(done, marks, strict=True)]
        return {"rank": self._rank, "turn": turn, "used": used, "readers": readers}

    def spare(self, how: Fetching, epoch: int, _offset: int) -> Any:
        """A batch of one sample, for a rank that has none in pass `epoch`."""
        return self.spared(how, Opening(0, epoch, Mark()), 0)

    def extent(self, offset: int, wanted: int) -> int:
        """See `StreamLike.extent`, over all ranks; waits until it is known."""
        runs, first = self._runs, items_of(offset, 0, self._rank, self._world)[0]
        upto = -(-wanted // self._world)
        try:
            if runs.at != first:  # after a broken sample the later ones are requested again
                self._open(self._epoch, self.place(offset), offset, self._chunk)
            while len(self._asked) > 1 and self._asked[1].first <= first:
                self._asked.popleft()
            self._forget_marks()
            while not runs.broken and self._received_to() < upto and self._ask():
                assert runs.open is not None
                runs.wait(runs.open)
        except BaseException as error:
            runs.failed(error)
            raise
        have = self._agree(upto if runs.broken else min(upto, self._received_to()))
        return min(wanted, have * self._world)

    def _forget_marks(self) -> None:
        """Forgets marks that no `place` needs any more."""
        needed = [lane.sent for lane in self._lanes]
        for asked in reversed(self._asked):
            needed[asked.turn] = asked.local
        for lane, done in zip(self._lanes, needed, strict=True):
            while len(lane.marks) > 1 and lane.marks[1].offset <= done:
                lane.marks.popleft()

    def _ask(self) -> bool:
        """Makes sure that a run is in flight; False if every reader has ended."""
        if self._runs.open is None:
            self.ask(self._runs, self._runs.end + 1)
        return self._runs.open is not None

    def _received_to(self) -> int:
        """The item up to which replies have come."""
        upto = self._runs.at
        for run in self._runs.runs:
            if run.reply is None:
                break
            upto = run.first + run.reply.count
        return upto

    def ask(self, runs: Assembler, last: int) -> None:
        """See `Feed.ask`; asks the readers in turn, until all have ended."""
        while runs.end < last:
            turn, used = self._next
            alive = [number for number, lane in enumerate(self._lanes) if not lane.ended]
            if not alive:
                return
            if turn not in alive:
                turn, used = min(alive, key=lambda number: (number - turn) % self._count), 0
            lane, first, count = self._lanes[turn], runs.end, self._chunk - used
            opening = Opening(self._serial, self._epoch, lane.opened)
            runs.runs.append(runs.send(first, first + count, opening, to=turn, shift=first - lane.sent))
            self._asked.append(Asked(first, turn, used, lane.sent))
            lane.sent += count
            runs.end += count
            self._next = ((turn + 1) % self._count, 0)

    def ask_ahead(self, runs: Assembler) -> None:
        """See `Feed.ask_ahead`."""
        while runs.is_short and any(not lane.ended for lane in self._lanes):
            self.ask(runs, runs.end + 1)

    def came(self, run: Run, reply: Reply) -> None:
        """See `Feed.came`."""
        lane, mark = self._lanes[run.worker], self.took(reply)
        if mark is not None:
            lane.marks.append(mark)
        missing = run.last - run.first - reply.count
        if missing and reply.failure is None:  # the reader's last run: the items after it move up
            lane.ended = True
            lane.sent -= missing
            after = run.last
            for other in self._runs.runs:
                if other.first >= after and other is not run:
                    other.first, other.last = other.first - missing, other.last - missing
            for asked in self._asked:
                if asked.first >= after:
                    asked.first -= missing
                    asked.local -= missing if asked.turn == run.worker else 0
            run.last -= missing
            self._runs.end -= missing
