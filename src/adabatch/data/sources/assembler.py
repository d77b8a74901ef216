"""The assembler: workers fetch runs of samples ahead; it cuts and joins them into exactly the batches asked for.

                 items of this rank   0 . . . . . . . . . . . . . . . . . . . . . . . . .
    runs in flight                    |   run 0   |   run 1   |   run 2   |   run 3   |
    asked for, batch size unchanged   |  batch 0  |  batch 1  |               views, no copy
    asked for, batch size doubled                             |        batch 2        |  joined, once

Runs are predicted by cutting batches ahead with the size in force (with a schedule: the sizes to come). A wrong
prediction costs a copy and never a sample: runs are merged or split, none is thrown away. If samples of one batch stack
and those of several do not, as with sorted lengths, a run is one batch from then on.
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
    """Lessons of a loader's iterations for later ones.

    Attributes:
        target: samples in a run.
        merges: whether a run may hold several batches.
        starts: counts the starts of workers.
        warned: whether the user was told that positions in a stream cannot be saved.
    """

    def __init__(self) -> None:
        self.target, self.merges, self.warned = 1, True, False
        self.starts = itertools.count()


@dataclass(eq=False, repr=False, kw_only=True)
class Fetching:
    """How samples are fetched.

    Attributes:
        dataset, ..., seed: see `DataLoader`.
        size: samples in an epoch.
        arrive: starts to move or pin a run that arrives (or a batch that is collated here).
        learned: lessons of the loader's earlier iterations.
        fresh: where a pass of the stream begins; None if the data set does not know where it stands.
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
        """Whether workers made for `other` serve this too."""
        mine = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return all(one is another or (type(one) is int and one == another) for one, another in mine)

    def rng(self) -> SampleRng | None:
        """The setter of the generators for each sample; None for none."""
        return SampleRng(self.seed) if self.sample_rng else None

    def pool(self, reader: Any, rank: int, *, show_info: bool = True) -> Pool | HerePool:
        """Workers that read with `reader`, or the main process in their place."""
        if self.num_workers == 0:
            return HerePool(reader, collate=self.own_collate is None)
        return Pool(
            reader,
            count=self.num_workers,
            # another for each rank and each start of workers, as torch's
            seed=seed_of(seed_of(self.seed, rank), next(self.learned.starts)),
            collate=self.own_collate is None,
            context=self.multiprocessing_context,
            init=self.worker_init_fn,
            show_info=show_info,
        )

    def reader(self, dataset: Any = None, *, rank: int = 0, world: int = 1) -> StreamReader:
        """The reader of a stream; a user's `worker_init_fn` may make workers begin it elsewhere."""
        fresh = None if self.num_workers and self.worker_init_fn is not None and dataset is None else self.fresh
        dataset = self.dataset if dataset is None else dataset
        return StreamReader(dataset, seed=self.seed, rng=self.rng(), rank=rank, world=world, fresh=fresh)

    @property
    def own_collate(self) -> Collate | None:
        """The user's own `collate_fn`, called on the samples of each batch; None for torch's."""
        return None if is_default(self.collate_fn) else self.collate_fn


class Run:
    """Items `first` to `last` (exclusive), fetched by one worker."""

    __slots__ = ("first", "last", "number", "ready", "reply", "worker")

    def __init__(self, number: int, first: int, last: int, worker: int) -> None:
        self.number, self.first, self.last, self.worker = number, first, last, worker
        self.reply: Reply | None = None
        self.ready: Callable[[], None] | None = None  # to be called before the data are used


class Feed(ABC):
    """Shares requests out to the workers."""

    @abstractmethod
    def ask(self, runs: Assembler, last: int) -> None:
        """Requests the items up to `last`."""

    def ask_ahead(self, runs: Assembler) -> None:
        """Requests the predicted items."""
        runs.request_predicted()

    def came(self, run: Run, reply: Reply) -> None:  # noqa: B027
        """A reply came; its data are still as they were sent."""


class Numbered(Feed):
    """Feeds an assembler from a map-style data set; `sent` gives the keys that workers cannot compute."""

    def __init__(self, sent: Callable[[int, int], Any]) -> None:
        self._sent = sent

    def ask(self, runs: Assembler, last: int) -> None:
        """See `Feed.ask`."""
        runs.request(last, self._sent(runs.end, last))


class Assembler:
    """Items in order, fetched ahead by workers.

    Args:
        how: how samples are fetched.
        start: makes the pool of workers at the first request.
        feed: shares requests out to the workers.

    Attributes:
        held: holds the workers.
        runs: the runs in flight or not used up, in order.
        at: the item after those taken last, expected next; -1 for none.
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
        """See `Source.fetch`; an error of the data set is raised with the number of the sample."""
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
            self._feed.ask_ahead(self)  # replaces the runs that were used up
            self._look_ahead()
        except BaseException as error:
            self.failed(error)
            raise
        return found

    def failed(self, error: BaseException) -> None:
        """Forgets what is in flight; ends the workers after a death, or an interrupt that may have cut a message."""
        if isinstance(error, WorkerDiedError) or not isinstance(error, Exception):
            self.close()
        self.restart(-1)

    def restart(self, first: int) -> None:
        """Forgets what is in flight and goes on at item `first`; late replies are dropped."""
        self.runs.clear()
        self._waiting.clear()
        self._expected.clear()
        self._ahead = iter(())
        self.at = self.end = first

    def request(self, last: int, directions: Any) -> None:
        """Requests the items up to `last` from the worker with the least to do."""
        if self.held.pool is not None and not self.runs:
            self.held.pool.drop_replies()  # to requests forgotten since
        self.runs.append(self.send(self.end, last, directions))
        self.end = last

    def request_predicted(self) -> None:
        """Requests predicted items until the allowed number of runs is in flight."""
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
        """Whether more runs may be in flight."""
        return len(self.runs) < self._depth

    @property
    def open(self) -> Run | None:
        """The first run without a reply."""
        return next((run for run in self.runs if run.reply is None), None)

    @property
    def broken(self) -> bool:
        """Whether samples of a run could not be fetched."""
        return any(run.reply is not None and run.reply.failure is not None for run in self.runs)

    def send(self, first: int, last: int, directions: Any, *, to: int | None = None, shift: int = 0) -> Run:
        """Sends a run to worker `to`, whose item 0 is item `shift` here, or to the worker with the least to do."""
        if self.held.pool is None:
            self.held.pool = self._start()
        self._number += 1
        worker = self.held.pool.send(self._number, first - shift, last - shift, directions, to=to)
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
        samples = pieces[0] if len(pieces) == 1 else [sample for piece in pieces for sample in piece]
        return self.arrived(self._collate(samples))

    def _anew(self, first: int, last: int) -> Any:
        """Fetches these items alone, since the runs in flight have other bounds and cannot be cut or joined."""
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
        """A batch that was collated here, moved or pinned as others are."""
        return data if self._arrive is None else nested.arrived(self._arrive, data)

    def wait(self, wanted: Run) -> Reply:
        """Waits for the reply to a run."""
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
        """Takes in the next run if it has come, so that it starts to move to the device."""
        if self._arrive is not None and (run := self.open) is not None and self.held.pool.has(run.worker):
            self.wait(run)

    def rest(self) -> None:
        """Stops fetching; the workers stay for the next epoch."""
        self.restart(-1)

    def close(self) -> None:
        """Ends the workers; the next request starts new ones."""
        self.restart(-1)
        self.held.close()
