"""The worker processes, seen from the main process: one pipe to each, nothing shared, so that a death blocks nobody."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as multiprocessing

from adabatch.data.transport import Channel
from adabatch.data.worker import Reply, Setting, work

_PATIENCE_SECONDS = 5.0


class WorkerDiedError(RuntimeError):
    """A worker process ended without being asked to, or does not answer."""


class Pool:
    """Worker processes that read runs of samples.

    Args:
        reader: what they read with; sent to each when it starts.
        count: how many.
        seed: for their global generators.
        collate: whether they collate the runs.
        context: how they start: a multiprocessing context, the name of a start method, or None for the default.
        init: called in each with its number.
        show_info: whether the data set sees torch's worker info.
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
        self._processes: list[Any] = []
        self._connections: list[Any] = []
        self._channels: list[Channel] = []
        try:
            for number in range(count):
                setting = Setting(number, count, seed, collate, init, os.getpid(), show_info)
                mine, theirs = context.Pipe()
                self._connections.append(mine)
                self._channels.append(Channel(mine))
                process = context.Process(target=work, args=(theirs, reader, setting), daemon=True)
                try:
                    process.start()
                finally:
                    theirs.close()  # so that a death of the worker ends the connection
                self._processes.append(process)
        except BaseException:
            self.close()
            raise

    def send(self, run: int, first: int, last: int, drawn: Any = None, *, to: int | None = None) -> int:
        """Gives a run to worker `to`, or to the one with the least to do; returns its number."""
        number = self.outstanding.index(min(self.outstanding)) if to is None else to
        try:
            self._channels[number].send((run, first, last, drawn))
        except OSError:
            self._died(number)
        self.outstanding[number] += 1
        return number

    def receive(self, number: int, timeout: float = 0) -> Reply:
        """The next reply of worker `number`.

        Args:
            number: which worker.
            timeout: seconds to wait; 0 for ever.

        Raises:
            WorkerDiedError: if it ended, or nothing came in time.
        """
        connection = self._connections[number]
        try:
            if timeout and not connection.poll(timeout):
                raise WorkerDiedError(
                    f"`timeout`: worker {number} sent nothing for {timeout:g} seconds; raise `timeout` or look for a"
                    " sample that takes that long"
                )
            reply = self._channels[number].receive()
        except (EOFError, OSError):
            self._died(number)
        self.outstanding[number] -= 1
        assert isinstance(reply, Reply)
        return reply

    def has(self, number: int) -> bool:
        """Whether worker `number` has sent something that was not received."""
        try:
            return bool(self._connections[number].poll())
        except OSError:
            return True  # it died; `receive` says so

    def _died(self, number: int) -> None:
        process = self._processes[number]
        process.join(_PATIENCE_SECONDS)
        code = process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        raise WorkerDiedError(
            f"worker {number} (pid {process.pid}) ended {how} while it fetched samples; nothing is lost, iterate again"
            " to go on. Out of memory is the usual reason: use fewer workers or a smaller `prefetch_factor`"
        )

    def pids(self) -> list[int]:
        """The process ids."""
        return [process.pid for process in self._processes]

    def close(self) -> None:
        """Ends the workers and waits for them."""
        for channel in self._channels:
            with contextlib.suppress(OSError, ValueError):
                channel.send(None)
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
        self._connections, self._channels, self._processes = [], [], []
