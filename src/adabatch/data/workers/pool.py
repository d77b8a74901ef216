"""The worker processes, seen from the main process, and the main process in their place.

A pair of sockets leads to each worker, so that no death blocks another.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as multiprocessing

from adabatch._errors import UsageError
from adabatch.data.workers.readers import SampleError
from adabatch.data.workers.streams import Opening, StreamReader
from adabatch.data.workers.transport import Channel
from adabatch.data.workers.worker import Reply, Setting, Task, collated, work

_PATIENCE_SECONDS = 5.0
_ends: weakref.WeakSet[socket.socket] = weakref.WeakSet()  # this process's ends of all pairs


class WorkerDiedError(UsageError):
    """A worker process ended without being asked to, or does not answer."""


class Pool:
    """Worker processes that read runs of samples.

    Args:
        reader: reads the samples; sent to each worker when it starts.
        count: the number of workers.
        context: how they start: a multiprocessing context, the name of a start method, or None for the default.
        seed, collate, init, show_info: see `Setting`.
    """

    def __init__(
        self,
        reader: Any,
        *,
        count: int,
        seed: int,
        collate: bool,
        context: Any = None,
        init: Callable[[int], None] | None = None,
        show_info: bool = True,
    ) -> None:
        if not hasattr(context, "Process"):
            context = multiprocessing.get_context(context)
        self.outstanding = [0] * count
        self._owner = os.getpid()
        self._processes: list[Any] = []
        self._channels: list[Channel] = []
        self._unsent: set[int] = set()  # workers with tasks that their sockets had no room for
        self._openings: list[Opening | None] = [None] * count  # the last one sent to each
        try:
            for number in range(count):
                setting = Setting(number, count, seed, collate, init, show_info)
                mine, theirs = socket.socketpair()
                _ends.add(mine)
                self._channels.append(Channel(mine))
                process = context.Process(target=_work, args=(theirs, reader, setting), daemon=True)
                try:
                    process.start()
                finally:
                    theirs.close()  # so that a death of the worker ends the connection
                self._processes.append(process)
        except BaseException:
            self.close()
            raise

    def send(self, run: int, first: int, last: int, directions: Any = None, *, to: int | None = None) -> int:
        """Gives a run to worker `to`, or to the one with the least to do; returns its number and does not wait."""
        number = self.outstanding.index(min(self.outstanding)) if to is None else to
        if isinstance(directions, Opening):  # may hold a large state
            known, self._openings[number] = self._openings[number], directions
            directions = None if directions == known else directions
        channel = self._channels[number]
        channel.put(Task(run, first, last, directions))
        try:
            done = channel.flush()
        except OSError:
            self._died(number)
        if not done:
            self._unsent.add(number)
        self.outstanding[number] += 1
        return number

    def receive(self, number: int, timeout: float = 0) -> Reply:
        """The next reply of worker `number`; raises if it died, or sent none in `timeout` seconds (0 for no limit)."""
        if (self._unsent or timeout) and not self._answers(number, timeout):
            raise WorkerDiedError(
                None,
                f"DataLoader timed out after {timeout:g} seconds, in which worker {number} sent nothing",
                remedy="raise `timeout` or look for a sample that takes that long",
            )
        try:
            reply = self._channels[number].receive()
        except (EOFError, OSError):
            self._died(number)
        except Exception:  # the reply could not be unpickled
            self.outstanding[number] -= 1
            raise
        self.outstanding[number] -= 1
        assert isinstance(reply, Reply)
        return reply

    def _answers(self, number: int, timeout: float) -> bool:
        """Whether worker `number` sends something within `timeout` seconds; tasks go out meanwhile."""
        deadline = time.monotonic() + timeout if timeout else math.inf
        own = self._channels[number].fileno()
        while True:
            for other in tuple(self._unsent):
                with contextlib.suppress(OSError):  # it died: `receive` says so
                    if not self._channels[other].flush():
                        continue
                self._unsent.discard(other)
            poll = select.poll()
            for other in self._unsent:
                poll.register(self._channels[other].fileno(), select.POLLOUT)
            poll.register(own, select.POLLIN | (select.POLLOUT if number in self._unsent else 0))
            left = deadline - time.monotonic()
            events = poll.poll(None if left == math.inf else max(0.0, 1000 * left))
            if not events:
                return False
            if any(which == own and event & ~select.POLLOUT for which, event in events):
                return True

    def has(self, number: int) -> bool:
        """Whether worker `number` sent a reply that was not received, or died."""
        return self._channels[number].ready()

    def drop_replies(self) -> None:
        """Drops replies that were not received, so that workers are chosen by their open tasks."""
        for number in range(len(self.outstanding)):
            with contextlib.suppress(Exception):  # the next request raises a death
                while self.outstanding[number] and self.has(number):
                    self.receive(number)

    def _died(self, number: int) -> None:
        process = self._processes[number]
        process.join(_PATIENCE_SECONDS)
        code = process.exitcode
        signaled = code is not None and code < 0
        how = f"is killed by signal: {-(code or 0)}" if signaled else f"ended with exit code {code}"
        raise WorkerDiedError(  # begun as torch's, for which users look in their logs
            None,
            f"DataLoader worker (pid {process.pid}) {how}: worker {number}, while it fetched samples",
            remedy="nothing is lost, iterate again to go on. Out of memory is the usual reason: use fewer workers or a"
            " smaller `prefetch_factor`",
        )

    def pids(self) -> list[int]:
        """The process ids."""
        return [process.pid for process in self._processes]

    def close(self) -> None:
        """Ends the workers and waits for them; does nothing in a forked copy."""
        if os.getpid() != self._owner:
            return
        for channel in self._channels:
            with contextlib.suppress(OSError):
                channel.put(None)
                channel.flush()
        for channel in self._channels:
            channel.close()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for process in self._processes:
            process.join(0.02)
            if process.is_alive():
                process.terminate()
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._channels, self._processes = [], []


def _work(end: socket.socket, reader: Any, setting: Setting) -> None:
    """Runs a worker; first closes a fork's copies of the main process's ends, which would keep connections open."""
    for other in tuple(_ends):
        other.close()
    work(end, reader, setting)


class HerePool:
    """The main process in the place of workers: reads a run of a stream when its reply is asked for."""

    def __init__(self, reader: StreamReader, *, collate: bool) -> None:
        self._reader, self._collate = reader, collate
        self._tasks: deque[tuple[int, int, int, Any]] = deque()

    def send(
        self,
        run: int,
        first: int,
        last: int,
        directions: Any = None,
        *,
        to: int | None = None,  # noqa: ARG002
    ) -> int:
        """See `Pool.send`."""
        self._tasks.append((run, first, last, directions))
        return 0

    def receive(self, _number: int, _timeout: float = 0) -> Reply:
        """See `Pool.receive`."""
        run, first, last, directions = self._tasks.popleft()
        begun, rng = time.perf_counter(), self._reader.rng
        failure: Any = None
        try:
            with rng.kept() if rng is not None else contextlib.nullcontext():
                samples = self._reader.read(first, last, directions)
        except SampleError as error:
            samples, failure = error.samples, error
        data: Any = samples
        if samples and self._collate:
            data = collated(samples, f"items {first} to {last - 1} could not be collated")
        seconds = time.perf_counter() - begun
        return Reply(run, len(samples), data, seconds, failure, self._reader.end, self._reader.mark)

    def has(self, _number: int) -> bool:
        """See `Pool.has`."""
        return False

    def drop_replies(self) -> None:
        """Forgets open tasks."""
        self._tasks.clear()

    def close(self) -> None:
        """Does nothing."""


class Held:
    """The pool of a source, None before the first request and after `close`; apart, to be closed after its loader."""

    def __init__(self) -> None:
        self.pool: Any = None

    def close(self) -> None:
        """Ends the workers."""
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.close()
