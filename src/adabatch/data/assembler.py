"""The assembler: workers fetch runs of samples ahead, it cuts and joins them into exactly what is asked for.

                 items of this rank   0 . . . . . . . . . . . . . . . . . . . . . . . . .
    runs in flight                    |   run 0   |   run 1   |   run 2   |   run 3   |
    asked for, batch size unchanged   |  batch 0  |  batch 1  |               views, no copy
    asked for, batch size doubled                             |        batch 2        |  joined, once

Which runs to fetch is predicted by cutting batches ahead with the size in force (with a schedule: the sizes to come).
A wrong prediction costs a copy and never a sample: runs are merged or split, none is thrown away. Where samples of one
batch stack and those of several do not, as with lengths that are sorted, a run is one batch from then on.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import default_collate

from adabatch.data import tree
from adabatch.data.pool import WorkerDiedError
from adabatch.data.readers import Whole
from adabatch.data.worker import Apart, Reply

Bounds = tuple[int, int]
Ahead = Callable[[], Iterator[Bounds]]
_LONGEST_RUN = 64
_RUN_SECONDS = 0.01


class Run:
    """Items `first` to `last` (exclusive), fetched by one worker."""

    __slots__ = ("first", "last", "number", "ready", "reply", "worker")

    def __init__(self, number: int, first: int, last: int, worker: int) -> None:
        self.number, self.first, self.last, self.worker = number, first, last, worker
        self.reply: Reply | None = None
        self.ready: Callable[[], None] | None = None  # what to call before the data are used


class Held:
    """The pool of an assembler, apart from it, so that it can be closed when the loader is gone.

    Attributes:
        pool: the pool; None before the first request and after `close`.
    """

    def __init__(self) -> None:
        self.pool: Any = None

    def close(self) -> None:
        """Ends the workers."""
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.close()


class Learned:
    """What iterations of a loader learn of its samples for those that follow.

    Attributes:
        target: samples in a run.
        merges: whether a run may be several batches.
        starts: counts how often workers start.
        warned: whether the user was told that places in a stream cannot be kept.
    """

    def __init__(self) -> None:
        self.target, self.merges, self.warned = 1, True, False
        self.starts = itertools.count()


class Assembler:
    """Items in order, fetched ahead by workers.

    Args:
        start: makes the pool of workers, when the first items are asked for.
        depth: runs in flight.
        drawn: the numbers of the samples of items, where workers cannot know them.
        timeout: seconds to wait for a run; 0 for ever.
        collate: what to make of a list of samples; None if workers collate.
        arrive: starts what is done to a run when it arrives (or to a batch that is collated here); gives the run and
            what to call before it is used.
        learned: what iterations before learned.
    """

    def __init__(
        self,
        start: Callable[[], Any],
        *,
        depth: int,
        drawn: Callable[[int, int], Any],
        timeout: float = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        arrive: Callable[[Any], tuple[Any, Callable[[], None] | None]] | None = None,
        learned: Learned | None = None,
    ) -> None:
        self._learned = Learned() if learned is None else learned
        self._start, self._depth, self._timeout = start, depth, timeout
        self._collate, self._arrive, self._drawn = collate, arrive, drawn
        self.held = Held()
        self._runs: deque[Run] = deque()
        self._waiting: dict[int, Run] = {}
        self._expected: deque[Bounds] = deque()
        self._ahead: Iterator[Bounds] = iter(())
        self._number = 0
        self._at = self._end = -1

    def fetch(self, first: int, last: int, ahead: Ahead) -> Any:
        """Items `first` to `last` (exclusive), at least one; `ahead` predicts what is asked for next.

        Raises:
            WorkerDiedError: if a worker ended.
            Exception: what a data set raised, with the number of the sample.
        """
        if first != self._at:
            self._restart(first)
        if self._expected and self._expected[0] == (first, last):
            self._expected.popleft()
        else:
            self._expected.clear()
            self._ahead = ahead()
        with self._guarded():
            if self._end < last:
                self._dispatch(last)
            self._top_up()
            found = self._take(first, last)
            self._top_up()  # in place of the runs that were used up
            self._look_ahead()
        return found

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if isinstance(error, WorkerDiedError):
                self.close()
            self._restart(-1)
            raise
        except BaseException:  # an interrupt may have left half a message in a pipe
            self.close()
            raise

    def _restart(self, first: int) -> None:
        """Forgets what is in flight; replies that still come are dropped."""
        self._runs.clear()
        self._waiting.clear()
        self._expected.clear()
        self._ahead = iter(())
        self._at = self._end = first

    def _dispatch(self, last: int) -> None:
        """Has the items up to `last` fetched."""
        if self.pool is None:
            self.pool = self._start()
        elif not self._runs:
            self.pool.drop_replies()  # to what was asked for before
        self._number += 1
        worker = self.pool.send(self._number, self._end, last, self._drawn(self._end, last))
        run = Run(self._number, self._end, last, worker)
        self._runs.append(run)
        self._waiting[run.number] = run
        self._end = last

    def _top_up(self) -> None:
        while len(self._runs) < self._depth:
            last = self._end
            while last - self._end < self._learned.target:
                bounds = next(self._ahead, None)
                if bounds is None:
                    break
                self._expected.append(bounds)
                last = max(last, bounds[1])
            if last == self._end:
                return
            self._dispatch(last)

    def _take(self, first: int, last: int) -> Any:
        pieces: list[Any] = []
        asked = first
        while first < last:
            run = self._runs[0]
            reply = run.reply if run.reply is not None else self._wait(run)
            if run.ready is not None:
                run.ready()
                run.ready = None
            stop = min(last, run.first + reply.count)
            if isinstance(reply.data, Whole) and (pieces or (run.first, run.last) != (first, last)):
                return self._anew(asked, last)
            if stop <= first:
                if reply.failure is not None:
                    raise reply.failure.raised()
                self._runs.popleft()  # a reader that shares a stream with others had ended
                continue
            pieces.append(self._piece(reply.data, first - run.first, stop - run.first, reply.count))
            first = stop
            if first == run.last:
                self._runs.popleft()
        self._at = last
        if self._collate is None:
            return pieces[0] if len(pieces) == 1 else tree.join(pieces)
        if isinstance(pieces[0], Whole):
            return self._moved(self._collate(pieces[0].data))
        found = self._collate(pieces[0] if len(pieces) == 1 else [sample for piece in pieces for sample in piece])
        return self._moved(found)

    def _anew(self, first: int, last: int) -> Any:
        """Fetches just these items: what is there was made for other bounds and cannot be cut or joined."""
        self._restart(first)
        self._dispatch(last)
        return self._take(first, last)

    def _piece(self, data: Any, first: int, last: int, count: int) -> Any:
        """Samples `first` to `last` (exclusive) of a run of `count`."""
        if isinstance(data, Apart):
            return self._moved(self._cut(data, first, last))
        return data if last - first == count else self._cut(data, first, last)

    def _cut(self, data: Any, first: int, last: int) -> Any:
        if isinstance(data, Apart):
            try:
                return default_collate(data[first:last])
            except Exception as error:
                error.add_note(data.why.what)
                raise
        return data[first:last] if self._collate is not None else tree.cut(data, first, last)

    def _moved(self, data: Any) -> Any:
        """What is collated here, arrived."""
        if self._arrive is None:
            return data
        found, ready = self._arrive(data)
        if ready is not None:
            ready()
        return found

    def _wait(self, wanted: Run) -> Reply:
        assert self.pool is not None
        while wanted.reply is None:
            reply = self.pool.receive(wanted.worker, self._timeout)
            run = self._waiting.pop(reply.run, None)
            if run is None:
                continue
            self._received(run, reply)
        return wanted.reply

    def _received(self, run: Run, reply: Reply) -> None:
        if reply.count:
            self._learned.merges = self._learned.merges and not isinstance(reply.data, Apart | Whole)
            longest = _LONGEST_RUN if self._learned.merges else 1
            self._learned.target = max(1, min(longest, int(_RUN_SECONDS * reply.count / max(reply.seconds, 1e-6))))
            if self._arrive is not None and self._collate is None and not isinstance(reply.data, Apart):
                reply.data, run.ready = self._arrive(reply.data)
        run.reply = reply

    def _look_ahead(self) -> None:
        """Takes in the next run if it is there, so that its way to the device begins."""
        run = next((run for run in self._runs if run.reply is None), None)
        if self._arrive is not None and run is not None and self.pool.has(run.worker):
            self._wait(run)

    def rest(self) -> None:
        """Stops fetching; the workers stay for the next epoch."""
        self._restart(-1)

    @property
    def pool(self) -> Any:
        """The workers; None while there are none."""
        return self.held.pool

    @pool.setter
    def pool(self, pool: Any) -> None:
        self.held.pool = pool

    def close(self) -> None:
        """Ends the workers; the next request starts new ones."""
        self._restart(-1)
        self.held.close()
