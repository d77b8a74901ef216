"""Streams as a source: how far they reach is found out while they are read."""

from __future__ import annotations

import copy
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch

from adabatch.data.agreement import Agreement, disagreement
from adabatch.data.assembler import Assembler, Learned, Run
from adabatch.data.device import mapped
from adabatch.data.order import items_of
from adabatch.data.pool import Pool
from adabatch.data.readers import SampleError
from adabatch.data.streams import Mark, Opening, StreamReader
from adabatch.data.worker import Reply, collated


def warn_of_skipping(samples: int) -> None:
    """Says what going on costs without the data set's help."""
    warnings.warn(
        f"{samples} samples of the stream are read and dropped, to get to where it stopped; give the data set"
        " `state_dict` and `load_state_dict`, with a state that JSON does not change, to save that",
        UserWarning,
        stacklevel=5,
    )


def warn_of_state(why: str) -> None:
    """Says why the data set's own state is of no use."""
    warnings.warn(
        f"`state_dict` of the data set must hold what JSON does not change: {why}; to go on from a state saved here"
        " samples will be read and dropped",
        UserWarning,
        stacklevel=5,
    )


class HereFailure:
    """Something raised in the main process."""

    def __init__(self, error: SampleError) -> None:
        self._error = error

    def raised(self) -> Exception:
        """The exception, with the place in the stream."""
        self._error.cause.add_note(f"while sample {self._error.index!r} was fetched")
        return self._error.cause


class HerePool:
    """The main process in the place of workers: a run is read when its reply is asked for.

    Args:
        reader: reads the samples.
        collate: whether runs are collated.
    """

    def __init__(self, reader: StreamReader, *, collate: bool) -> None:
        self._reader, self._collate = reader, collate
        self._tasks: deque[tuple[int, int, int, Any]] = deque()

    def send(self, run: int, first: int, last: int, drawn: Any = None, *, to: int | None = None) -> int:  # noqa: ARG002
        """See `Pool.send`."""
        self._tasks.append((run, first, last, drawn))
        return 0

    def receive(self, _number: int, _timeout: float = 0) -> Reply:
        """See `Pool.receive`."""
        run, first, last, drawn = self._tasks.popleft()
        begun = time.perf_counter()
        failure: Any = None
        rng = self._reader.rng
        try:
            if rng is None:
                samples = self._reader.read(first, last, drawn)
            else:
                with rng.kept():
                    samples = self._reader.read(first, last, drawn)
        except SampleError as error:
            samples, failure = error.samples, HereFailure(error)
        data: Any = samples
        if samples and self._collate:
            data = collated(samples, f"items {first} to {last - 1} could not be collated")
        seconds = time.perf_counter() - begun
        return Reply(run, len(samples), data, seconds, failure, self._reader.end, self._reader.mark)

    def has(self, _number: int) -> bool:
        """See `Pool.has`."""
        return False

    def drop_replies(self) -> None:
        """Forgets what was asked for."""
        self._tasks.clear()

    def close(self) -> None:
        """Nothing to end."""


class Keeping(Assembler):
    """What sources over streams share: the first sample that came is kept, for micro-batches of a rank that has none.

    Places that cannot be kept are said once and dropped.
    """

    _world: int
    _kept: Any = None

    def spare(self) -> Any:
        """The sample kept, as a batch, moved as others are; None before the first came."""
        if self._kept is None:
            return None
        if self._collate is None:
            return self._moved(mapped(self._kept, torch.clone))
        return self._moved(self._collate(copy.deepcopy(self._kept)))

    def _received(self, run: Run, reply: Reply) -> None:
        if self._kept is None and reply.count and self._world > 1:
            first = self._cut(reply.data, 0, 1)
            self._kept = mapped(first, torch.clone) if self._collate is None else copy.deepcopy(first)
        if reply.mark is not None and reply.mark.why is not None:
            if not self._learned.warned:
                self._learned.warned = True
                warn_of_state(reply.mark.why)
            reply.mark = None
        super()._received(run, reply)


class StreamSource(Keeping):
    """A stream that every reader walks, each keeping its share; exact for any number of workers and ranks.

    Args:
        start: makes the pool of readers.
        rank: which share.
        world: how many shares.
        depth: runs in flight.
        timeout: seconds to wait for a run; 0 for ever.
        collate: what to make of a list of samples; None if runs are collated.
        arrive: what to do with a run when it arrives.
        learned: what iterations before learned.
    """

    def __init__(
        self,
        start: Callable[[], Pool | HerePool],
        *,
        rank: int,
        world: int,
        depth: int,
        timeout: float = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        arrive: Callable[[Any], tuple[Any, Callable[[], None] | None]] | None = None,
        learned: Learned | None = None,
    ) -> None:
        how: dict[str, Any] = {"timeout": timeout, "collate": collate, "arrive": arrive, "learned": learned}
        super().__init__(start, depth=depth, drawn=self._told, **how)
        self._rank, self._world = rank, world
        self._serial = 0
        self._opening = Opening(0, 0, Mark())
        self._marks: deque[Mark] = deque([Mark()])
        self._total: int | None = None
        self._seen = 0  # items up to which the whole stream was walked
        self._agreement, self._compared = Agreement(), False

    def begin(self, epoch: int, place: Mapping[str, Any] | None, offset: int, _turn: Any = None) -> None:
        """Opens pass `epoch`, at its beginning or at a `place`, to deliver from `offset` on."""
        mark = Mark(place["offset"], place["state"]) if place is not None and offset else Mark()
        if offset and mark.state is None:
            warn_of_skipping(offset)
        self._restart(-1)
        self._serial += 1
        self._opening, self._total = Opening(self._serial, epoch, mark), None
        self._marks, self._seen, self._agreement = deque([mark]), 0, Agreement()

    def place(self, offset: int) -> dict[str, Any]:
        """The last place at or before `offset` from which the stream can be read on; JSON-safe."""
        mark = self.mark(offset)
        return {"offset": mark.offset, "state": mark.state}

    def mark(self, offset: int) -> Mark:
        """See `place`."""
        return next((mark for mark in reversed(self._marks) if mark.offset <= offset), Mark())

    def extent(self, offset: int, wanted: int) -> int:
        """How many samples the pass has, up to `wanted`; waits until that is known. What is before `offset` is done."""
        while len(self._marks) > 1 and self._marks[1].offset <= offset:
            self._marks.popleft()
        first = items_of(offset, 0, self._rank, self._world)[0]
        upto = (wanted - 1) // self._world + 1
        with self._guarded():
            if first != self._at:
                self._restart(first)
            while self._total is None and self._seen < upto:
                if any(run.reply is not None and run.reply.failure is not None for run in self._runs):
                    break  # told when it is its turn
                run = next((run for run in self._runs if run.reply is None), None)
                if run is None:
                    self._dispatch(max(upto, self._end + 1))
                else:
                    self._wait(run)
            if self._total is not None and self._compared:
                self._walk_all(-(-self._total // self._world))
            if self._total is not None and self._total < offset:
                raise disagreement(f"one found {self._total} samples where others gave {offset}")
        return wanted if self._total is None else min(wanted, self._total)

    def _walk_all(self, last: int) -> None:
        """Has all workers walk to the end, item `last`: they may see another stream."""
        for worker in range(len(self.pool.outstanding)):
            if worker not in self._agreement.ended:
                self._number += 1
                run = Run(self._number, last, last + 1, worker)
                self._waiting[run.number] = run
                self.pool.send(run.number, run.first, run.last, self._opening, to=worker)
                self._wait(run)

    def _told(self, _first: int, _last: int) -> Opening:
        return self._opening

    def _top_up(self) -> None:
        if self._total is None:
            super()._top_up()

    def _received(self, run: Run, reply: Reply) -> None:
        super()._received(run, reply)
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
        if reply.mark is not None and reply.mark.offset > self._marks[-1].offset:
            self._marks.append(reply.mark)
