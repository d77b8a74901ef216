"""Streams that share themselves out among their readers: every worker of every rank has a stream of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adabatch.data.assembler import Learned, Run
from adabatch.data.order import items_of
from adabatch.data.stream_source import Keeping, warn_of_skipping
from adabatch.data.streams import Mark, Opening
from adabatch.data.worker import Reply


class Reader:
    """One reader's stream.

    Args:
        done: samples that were delivered before.
        mark: where it is opened.

    Attributes:
        opened: where it is opened.
        sent: samples asked for.
        ended: whether it gave its last.
        marks: places from which it can be read on.
    """

    def __init__(self, done: int, mark: Mark) -> None:
        self.opened, self.sent, self.ended = mark, done, False
        self.marks = deque([mark])

    def mark(self, done: int) -> Mark:
        """The last place at or before `done`."""
        return next((mark for mark in reversed(self.marks) if mark.offset <= done), Mark())


@dataclass
class Asked:
    """A request: from item `first` on, reader `turn` gives samples from its `local` one on, `used` of its turn gone."""

    first: int
    turn: int
    used: int
    local: int


class SharedOutSource(Keeping):
    """Takes a chunk of samples from each reader in turn, without those that have ended.

    The order, and so the state, belong to this number of readers. Each rank reads its own streams; an epoch ends for
    all when one of them has no more.

    Args:
        start: makes the pool of readers.
        readers: how many.
        rank: which one this is.
        world: ranks in all.
        agree: the least of all ranks' values.
        depth: runs in flight.
        timeout: seconds to wait for a run; 0 for ever.
        collate: what to make of a list of samples; None if runs are collated.
        arrive: what is done to a run when it arrives.
        learned: what iterations before learned.
    """

    def __init__(
        self,
        start: Callable[[], Any],
        *,
        readers: int,
        rank: int,
        world: int,
        agree: Callable[[int], int],
        depth: int,
        timeout: float = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        arrive: Any = None,
        learned: Learned | None = None,
    ) -> None:
        how: dict[str, Any] = {"timeout": timeout, "collate": collate, "arrive": arrive, "learned": learned}
        super().__init__(start, depth=depth, drawn=_nothing, **how)
        self._count, self._rank, self._world, self._agree = readers, rank, world, agree
        self._serial = 0
        self._open(0, None, 0, 1)

    def begin(self, epoch: int, place: Mapping[str, Any] | None, offset: int, turn: Callable[[], int]) -> None:
        """Opens pass `epoch`, at its beginning or at the `place` of `offset`.

        Args:
            epoch: which pass.
            place: from `place`; None for the beginning.
            offset: samples that were delivered before, over all ranks.
            turn: tells how many samples one reader gives before it is the next one's turn.
        """
        self._open(epoch, place, offset, turn())

    def _open(self, epoch: int, place: Mapping[str, Any] | None, offset: int, chunk: int) -> None:
        self._restart(items_of(offset, 0, self._rank, self._world)[0])
        self._serial, self._epoch, self._chunk = self._serial + 1, epoch, chunk
        self._readers = [Reader(0, Mark()) for _ in range(self._count)]
        self._next = (0, 0)
        self._asked: deque[Asked] = deque()
        if place is not None:
            self._next = place["turn"], place["used"]
            self._readers = [Reader(done, Mark(offset, state)) for done, offset, state in place["readers"]]
        skipped = sum(reader.sent for reader in self._readers if reader.opened.state is None)
        if skipped:
            warn_of_skipping(skipped)

    def place(self, offset: int) -> dict[str, Any]:
        """Where the readers stand once `offset` samples of the pass are delivered; JSON-safe."""
        items = items_of(offset, 0, self._rank, self._world)[0]
        done = [reader.sent for reader in self._readers]
        turn, used = self._next
        for asked in reversed(self._asked):  # undo what was asked for beyond `items`
            if asked.first < items:
                done[asked.turn] = asked.local + (items - asked.first)
                turn, used = asked.turn, asked.used + items - asked.first
                if used >= self._chunk or (self._readers[turn].ended and done[turn] == self._readers[turn].sent):
                    turn, used = (turn + 1) % self._count, 0
                break
            done[asked.turn] = asked.local
            turn, used = asked.turn, asked.used
        marks = [reader.mark(count) for reader, count in zip(self._readers, done, strict=True)]
        readers = [[count, mark.offset, mark.state] for count, mark in zip(done, marks, strict=True)]
        return {"rank": self._rank, "turn": turn, "used": used, "readers": readers}

    def extent(self, offset: int, wanted: int) -> int:
        """How many samples the pass has over all ranks, up to `wanted`; waits until that is known."""
        first, upto = items_of(offset, 0, self._rank, self._world)[0], -(-wanted // self._world)
        with self._guarded():
            if self._at != first:  # a sample could not be had: what was asked for behind it is asked for again
                self._open(self._epoch, self.place(offset), offset, self._chunk)
            while len(self._asked) > 1 and self._asked[1].first <= first:
                self._asked.popleft()
            self._forget_marks()
            while not self._failed() and self._received_to() < upto and self._ask():
                self._wait(next(run for run in self._runs if run.reply is None))
        have = self._agree(upto if self._failed() else min(upto, self._received_to()))
        return min(wanted, have * self._world)

    def _forget_marks(self) -> None:
        """Forgets the places that no `place` will ask for."""
        needed = [reader.sent for reader in self._readers]
        for asked in reversed(self._asked):
            needed[asked.turn] = asked.local
        for reader, done in zip(self._readers, needed, strict=True):
            while len(reader.marks) > 1 and reader.marks[1].offset <= done:
                reader.marks.popleft()

    def _ask(self) -> bool:
        """Makes sure that a run is in flight; False if every reader has ended."""
        if all(run.reply is not None for run in self._runs):
            self._dispatch(self._end + 1)
        return any(run.reply is None for run in self._runs)

    def _received_to(self) -> int:
        """The item up to which all have come."""
        upto = self._at
        for run in self._runs:
            if run.reply is None:
                break
            upto = run.first + run.reply.count
        return upto

    def _failed(self) -> bool:
        return any(run.reply is not None and run.reply.failure is not None for run in self._runs)

    def _dispatch(self, last: int) -> None:
        """Asks the readers in turn, until `last` is covered or all have ended."""
        while self._end < last:
            turn, used = self._next
            alive = [number for number, reader in enumerate(self._readers) if not reader.ended]
            if not alive:
                return
            if turn not in alive:
                turn, used = min(alive, key=lambda number: (number - turn) % self._count), 0
            reader, count = self._readers[turn], self._chunk - used
            if self.pool is None:
                self.pool = self._start()
            self._number += 1
            opening = Opening(self._serial, self._epoch, reader.opened)
            self.pool.send(self._number, reader.sent, reader.sent + count, opening, to=turn)
            run = Run(self._number, self._end, self._end + count, turn)
            self._asked.append(Asked(self._end, turn, used, reader.sent))
            self._runs.append(run)
            self._waiting[run.number] = run
            reader.sent += count
            self._end += count
            self._next = ((turn + 1) % self._count, 0)

    def _top_up(self) -> None:
        while len(self._runs) < self._depth and any(not reader.ended for reader in self._readers):
            self._dispatch(self._end + 1)

    def _received(self, run: Run, reply: Reply) -> None:
        super()._received(run, reply)
        reader = self._readers[run.worker]
        if reply.mark is not None:
            reader.marks.append(reply.mark)
        missing = run.last - run.first - reply.count
        if missing and reply.failure is None:  # the reader's last: what was numbered behind it moves up
            reader.ended = True
            reader.sent -= missing
            behind = run.last
            for other in self._runs:
                if other.first >= behind and other is not run:
                    other.first, other.last = other.first - missing, other.last - missing
            for asked in self._asked:
                if asked.first >= behind:
                    asked.first -= missing
                    asked.local -= missing if asked.turn == run.worker else 0
            run.last -= missing
            self._end -= missing


def _nothing(_first: int, _last: int) -> None:
    """Workers are told otherwise."""
