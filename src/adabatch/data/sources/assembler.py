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

import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from torch.utils.data import default_collate

from adabatch.data.order import seed_of
from adabatch.data.sources import nested
from adabatch.data.sources.here import Ahead, Bounds, Collate, is_default
from adabatch.data.workers.pool import Held, HerePool, Pool, WorkerDiedError
from adabatch.data.workers.readers import Whole
from adabatch.data.workers.rng import SampleRng
from adabatch.data.workers.streams import Beginning, StreamReader
from adabatch.data.workers.worker import Apart, Reply

_LONGEST_RUN = 64
_RUN_SECONDS = 0.01


class Learned:
    """Lessons of a loader's iterations for those that follow.

    Attributes:
        target: samples in a run.
        merges: whether a run may be several batches.
        starts: counts how often workers start.
        warned: whether the user was told that places in a stream cannot be kept.
    """

    def __init__(self) -> None:
        self.target, self.merges, self.warned = 1, True, False
        self.starts = itertools.count()


@dataclass(eq=False, repr=False, kw_only=True)
class Fetching:
    """How samples are fetched.

    Attributes:
        dataset: and those up to the seed: see `DataLoader`.
        size: samples in an epoch.
        arrive: starts what is done to a run when it arrives (or to a batch that is collated here); gives the run and
            what to call before it is used.
        learned: what iterations of the loader learn for those that follow.
        fresh: where a pass of a stream begins, if it knows where it stands.
    """

    dataset: Any
    collate_fn: Collate = default_collate
    num_workers: int = 0
    prefetch_factor: int | None = None
    timeout: float = 0
    multiprocessing_context: Any = None
    worker_init_fn: Callable[[int], None] | None = None
    sample_rng: bool = True
    seed: int = 0
    size: int = 0
    arrive: nested.Arrive | None = None
    learned: Learned = field(default_factory=Learned)
    fresh: Beginning | None = None

    def same(self, other: Fetching) -> bool:
        """Whether workers of the other would do as well."""
        mine = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return all(one is another or (type(one) is int and one == another) for one, another in mine)

    def rng(self) -> SampleRng | None:
        """Sets the generators for each sample; None if nobody does."""
        return SampleRng(self.seed) if self.sample_rng else None

    def pool(self, reader: Any, rank: int, *, show_info: bool = True) -> Pool | HerePool:
        """Workers that read with `reader`, or the main process in their place."""
        if self.num_workers == 0:
            return HerePool(reader, collate=self.own_collate is None)
        return Pool(
            reader,
            count=self.num_workers,
            # others on each rank and each time that workers start, as torch's
            seed=seed_of(seed_of(self.seed, rank), next(self.learned.starts)),
            collate=self.own_collate is None,
            context=self.multiprocessing_context,
            init=self.worker_init_fn,
            show_info=show_info,
        )

    def reader(self, dataset: Any = None, *, rank: int = 0, world: int = 1) -> StreamReader:
        """Reads a stream; workers may begin it elsewhere, by the user's `worker_init_fn`."""
        fresh = None if self.num_workers and self.worker_init_fn is not None and dataset is None else self.fresh
        dataset = self.dataset if dataset is None else dataset
        return StreamReader(dataset, seed=self.seed, rng=self.rng(), rank=rank, world=world, fresh=fresh)

    @property
    def own_collate(self) -> Collate | None:
        """A `collate_fn` of the user's, to be called on the samples of each batch."""
        return None if is_default(self.collate_fn) else self.collate_fn


class Run:
    """Items `first` to `last` (exclusive), fetched by one worker."""

    __slots__ = ("first", "last", "number", "ready", "reply", "worker")

    def __init__(self, number: int, first: int, last: int, worker: int) -> None:
        self.number, self.first, self.last, self.worker = number, first, last, worker
        self.reply: Reply | None = None
        self.ready: Callable[[], None] | None = None  # what to call before the data are used


class Feed(ABC):
    """Knows which worker is asked for what."""

    @abstractmethod
    def ask(self, runs: Assembler, last: int) -> None:
        """Has the items up to `last` fetched."""

    def ask_ahead(self, runs: Assembler) -> None:
        """Has what will be asked for fetched."""
        runs.request_predicted()

    def came(self, run: Run, reply: Reply) -> None:  # noqa: B027
        """A reply came, whose data are as they were sent."""


class Numbered(Feed):
    """Feeds an assembler from a map-style data set; `sent` gives keys of items, where workers cannot know them."""

    def __init__(self, sent: Callable[[int, int], Any]) -> None:
        self._sent = sent

    def ask(self, runs: Assembler, last: int) -> None:
        """See `Feed.ask`."""
        runs.request(last, self._sent(runs.end, last))


class Assembler:
    """Items in order, fetched ahead by workers.

    Args:
        how: how samples are fetched.
        start: makes the pool of workers, when the first items are asked for.
        feed: knows which worker is asked for what.

    Attributes:
        held: holds the workers.
        runs: in flight or not used up, in order.
        at: the next item that is asked for, if all goes on as it did; -1 for none.
        end: one past the last item in flight.
    """

    def __init__(self, how: Fetching, start: Callable[[], Pool | HerePool], feed: Feed) -> None:
        self._learned, self._timeout = how.learned, how.timeout
        self._depth = how.num_workers * (how.prefetch_factor or 2)  # runs in flight
        self._collate, self._arrive = how.own_collate, how.arrive
        self._start, self._feed = start, feed
        self.held = Held()
        self.runs: deque[Run] = deque()
        self.at = self.end = -1
        self._waiting: dict[int, Run] = {}
        self._expected: deque[Bounds] = deque()
        self._ahead: Iterator[Bounds] = iter(())
        self._number = 0

    def fetch(self, first: int, last: int, ahead: Ahead) -> Any:
        """Items `first` to `last` (exclusive), at least one; `ahead` predicts what is asked for next.

        Raises:
            WorkerDiedError: if a worker ended.
            Exception: what a data set raised, with the number of the sample.
        """
        if first != self.at:
            self.restart(first)
        if self._expected and self._expected[0] == (first, last):
            self._expected.popleft()
        else:
            self._expected.clear()
            self._ahead = ahead()
        try:
            if self.end < last:
                self._feed.ask(self, last)
            self._feed.ask_ahead(self)
            found = self._take(first, last)
            self._feed.ask_ahead(self)  # in place of the runs that were used up
            self._look_ahead()
        except BaseException as error:
            self.failed(error)
            raise
        return found

    def failed(self, error: BaseException) -> None:
        """Something was raised: forgets what is in flight."""
        # an interrupt may have left half a message in a pipe
        if isinstance(error, WorkerDiedError) or not isinstance(error, Exception):
            self.close()
        self.restart(-1)

    def restart(self, first: int) -> None:
        """Forgets what is in flight, to go on at item `first`; replies that still come are dropped."""
        self.runs.clear()
        self._waiting.clear()
        self._expected.clear()
        self._ahead = iter(())
        self.at = self.end = first

    def request(self, last: int, drawn: Any) -> None:
        """Has the items up to `last` fetched by the worker with the least to do."""
        if self.held.pool is not None and not self.runs:
            self.held.pool.drop_replies()  # to what was asked for before
        self.runs.append(self.send(self.end, last, drawn))
        self.end = last

    def request_predicted(self) -> None:
        """Has what is predicted fetched, until as many runs are in flight as may be."""
        while len(self.runs) < self._depth:
            last = self.end
            while last - self.end < self._learned.target:
                bounds = next(self._ahead, None)
                if bounds is None:
                    break
                self._expected.append(bounds)
                last = max(last, bounds[1])
            if last == self.end:
                return
            self._feed.ask(self, last)

    @property
    def is_short(self) -> bool:
        """Whether fewer runs are in flight than may be."""
        return len(self.runs) < self._depth

    @property
    def open(self) -> Run | None:
        """The first run that was not answered."""
        return next((run for run in self.runs if run.reply is None), None)

    @property
    def broken(self) -> bool:
        """Whether samples of a run could not be had."""
        return any(run.reply is not None and run.reply.failure is not None for run in self.runs)

    def send(self, first: int, last: int, drawn: Any, *, to: int | None = None, shift: int = 0) -> Run:
        """Sends a run to worker `to`, which counts its items from `shift` on, or to the one with the least to do."""
        if self.held.pool is None:
            self.held.pool = self._start()
        self._number += 1
        worker = self.held.pool.send(self._number, first - shift, last - shift, drawn, to=to)
        run = self._waiting[self._number] = Run(self._number, first, last, worker)
        return run

    def _take(self, first: int, last: int) -> Any:
        pieces: list[Any] = []
        asked = first
        while first < last:
            run = self.runs[0]
            reply = run.reply if run.reply is not None else self.wait(run)
            if run.ready is not None:
                run.ready()
                run.ready = None
            stop = min(last, run.first + reply.count)
            if isinstance(reply.data, Whole) and (pieces or (run.first, run.last) != (first, last)):
                return self._anew(asked, last)
            if stop <= first:
                if reply.failure is not None:
                    raise reply.failure.raised()
                self.runs.popleft()  # a reader that shares a stream with others had ended
                continue
            pieces.append(self._piece(reply.data, first - run.first, stop - run.first, reply.count))
            first = stop
            if first == run.last:
                self.runs.popleft()
        self.at = last
        if self._collate is None:
            return pieces[0] if len(pieces) == 1 else nested.join(pieces)
        if isinstance(pieces[0], Whole):
            return self.arrived(self._collate(pieces[0].data))
        return self.arrived(
            self._collate(pieces[0] if len(pieces) == 1 else [sample for piece in pieces for sample in piece])
        )

    def _anew(self, first: int, last: int) -> Any:
        """Fetches just these items: what is there was made for other bounds and cannot be cut or joined."""
        self.restart(first)
        self._feed.ask(self, last)
        return self._take(first, last)

    def _piece(self, data: Any, first: int, last: int, count: int) -> Any:
        """Samples `first` to `last` (exclusive) of a run of `count`."""
        if isinstance(data, Apart):
            return self.arrived(self.cut(data, first, last))
        return data if last - first == count else self.cut(data, first, last)

    def cut(self, data: Any, first: int, last: int) -> Any:
        """Samples `first` to `last` (exclusive) of a run as it came, collated if runs are."""
        if isinstance(data, Apart):
            try:
                return default_collate(data[first:last])
            except Exception as error:
                error.add_note(data.why.what)
                raise
        return data[first:last] if self._collate is not None else nested.cut(data, first, last)

    def arrived(self, data: Any) -> Any:
        """A batch that was collated here, moved as others are."""
        return data if self._arrive is None else nested.arrived(self._arrive, data)

    def wait(self, wanted: Run) -> Reply:
        """The reply to a run; waits for it."""
        while wanted.reply is None:
            reply = self.held.pool.receive(wanted.worker, self._timeout)
            run = self._waiting.pop(reply.run, None)
            if run is None:
                continue
            self._feed.came(run, reply)
            if reply.count:
                self._learned.merges = self._learned.merges and not isinstance(reply.data, Apart | Whole)
                longest = _LONGEST_RUN if self._learned.merges else 1
                self._learned.target = max(1, min(longest, int(_RUN_SECONDS * reply.count / max(reply.seconds, 1e-6))))
                if self._arrive is not None and self._collate is None and not isinstance(reply.data, Apart):
                    reply.data, run.ready = self._arrive(reply.data)
            run.reply = reply
        return wanted.reply

    def _look_ahead(self) -> None:
        """Takes in the next run if it is there, so that its way to the device begins."""
        if self._arrive is not None and (run := self.open) is not None and self.held.pool.has(run.worker):
            self.wait(run)

    def rest(self) -> None:
        """Stops fetching; the workers stay for the next epoch."""
        self.restart(-1)

    def close(self) -> None:
        """Ends the workers; the next request starts new ones."""
        self.restart(-1)
        self.held.close()
