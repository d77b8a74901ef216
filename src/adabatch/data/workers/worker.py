"""A worker process: takes a task, reads its samples, collates them, sends them back."""

from __future__ import annotations

import os
import pickle
import random
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate
from torch.utils.data._utils import worker as torch_worker

from adabatch._errors import ArgumentTypeError
from adabatch.data.workers.readers import SampleError
from adabatch.data.workers.streams import Opening, Prints
from adabatch.data.workers.transport import Channel

inside = False  # whether this process is a worker


@dataclass
class Setting:
    """Settings of a worker, sent when it starts.

    Attributes:
        number: its number.
        count: workers in all.
        seed: seeds its global generators.
        collate: whether it collates runs; else it sends samples.
        init: the user's `worker_init_fn`.
        show_info: whether the data set sees torch's worker info; not where it would wrongly shard itself.
    """

    number: int
    count: int
    seed: int
    collate: bool
    init: Callable[[int], None] | None
    show_info: bool = True


@dataclass
class Failure:
    """An exception raised in a worker.

    Attributes:
        what: what failed and where, in words.
        error: the exception, if it can be pickled; else its type, if that can.
        text: its type and message.
        trace: its traceback.
    """

    what: str
    error: Exception | type[Exception] | None
    text: str
    trace: str

    @classmethod
    def of(cls, what: str, error: Exception) -> Failure:
        """One that can be sent."""
        trace = "".join(traceback.format_exception(error))
        try:
            text = f"{type(error).__name__}: {error}"
        except Exception:  # its own `__str__`
            text = type(error).__name__
        return cls(what, _sendable(error), text, trace)

    def raised(self) -> Exception:
        """The exception to raise in the main process, with a note of its origin."""
        told = f"{self.what}: {self.text}\n\nIn the worker:\n{self.trace}"
        found = self.error
        if isinstance(found, type):
            try:
                found = found(self.text)
            except Exception:  # a type with other arguments
                found = None
        if found is None:
            return RuntimeError(told)
        found.add_note(told)
        self.error = type(found)  # the exception would keep its traceback, and so an iteration and its workers
        return found


def _sendable(error: Exception) -> Exception | type[Exception] | None:
    """`error` if it can be pickled, else its type, else None."""
    for what in (error, type(error)):
        try:
            found = pickle.loads(pickle.dumps(what))
        except Exception:  # whatever an exception's own reduction raises
            continue
        if type(found) is type(what):
            return what
    return None


def collated(samples: list[Any], what: str) -> Any:
    """A run collated; `Apart`, with `what` failed, where that is impossible or would change its batches.

    By torch's rules all of a run, which is several batches, would take the types and keys of its first sample.
    """
    first = _form(samples[0])
    try:
        if all(_form(sample) == first for sample in samples):
            return default_collate(samples)
        raise ArgumentTypeError(None, "the samples differ in their types or keys")
    except Exception as error:  # its batches may collate nevertheless
        return Apart(samples, Failure.of(what, error))


def _form(sample: Any) -> Any:
    """The types and keys that decide how torch collates a sample."""
    if isinstance(sample, torch.Tensor | np.ndarray):
        return sample.dtype
    if isinstance(sample, tuple | list):
        return type(sample), [_form(each) for each in sample]
    if isinstance(sample, Mapping):
        return type(sample), {key: _form(value) for key, value in sample.items()}
    return type(sample)


class Apart(list[Any]):
    """The samples of a run that could not be collated; its batches may be."""

    def __init__(self, samples: list[Any], why: Failure) -> None:
        super().__init__(samples)
        self.why = why


@dataclass
class Task:
    """A run to be fetched.

    Attributes:
        run: its number.
        first: its first item.
        last: one past its last.
        directions: for the reader: a sampler's keys, or a stream's `Opening`; None: by the order, or the last opening.
    """

    run: int
    first: int
    last: int
    directions: Any


@dataclass
class Reply:
    """A run as a worker sends it.

    Attributes:
        run: its number.
        count: samples in it; fewer than asked for before a failure or the end.
        data: the samples collated, as a list, `Apart` or `Whole`; None without samples.
        seconds: the time that it took.
        failure: why samples are missing: a `Failure`.
        end: the length of the stream, if its end was seen.
        mark: a place in the stream from which it can be read on.
        prints: prints of the first samples of the stream, where workers are compared.
    """

    run: int
    count: int
    data: Any
    seconds: float
    failure: Any = None
    end: int | None = None
    mark: Any = None
    prints: Prints | None = None


def work(end: socket.socket, reader: Any, setting: Setting) -> None:
    """Runs a worker until the main process closes its end or is gone."""
    global inside  # noqa: PLW0603
    inside = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides what an interrupt means
    if hasattr(signal, "SIGHUP"):  # a terminal that closes sends it to all of its processes
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the main process's handler is not for workers
    signal.set_wakeup_fd(-1)
    torch.set_num_threads(1)
    _seed_all(setting.seed + setting.number)
    info = torch_worker.WorkerInfo(
        id=setting.number, num_workers=setting.count, seed=setting.seed + setting.number, dataset=reader.dataset
    )
    channel = Channel(end, parent=os.getppid())  # under forkserver the server's number, not the main process's
    failure: Failure | None = None
    _show(info)
    try:
        if setting.init is not None:
            setting.init(setting.number)
    except Exception as error:  # it is sent on
        failure = Failure.of(f"`worker_init_fn` failed in worker {setting.number}", error)
    if not setting.show_info:
        _show(None)
    # if the user's function shared the stream out, each would keep a part of a part
    walks = setting.count > 1 and not setting.show_info
    reader.told(collates=setting.collate, walks=walks, compares=walks and setting.init is not None)
    opening: Opening | None = None
    try:
        while (task := channel.receive()) is not None:
            if isinstance(task.directions, Opening):
                opening = task.directions
            elif task.directions is None:
                task.directions = opening  # as before
            reply = Reply(task.run, 0, None, 0.0, failure) if failure else _run(reader, setting, info, task)
            del task
            _send(channel, reply, setting.number)
            del reply
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    finally:
        channel.close()


def _show(info: Any) -> None:
    """Shows the data set torch's worker info."""
    vars(torch_worker)["_worker_info"] = info


def _seed_all(value: int) -> None:
    """Seeds python's, numpy's and torch's global generators, as torch's workers do."""
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    torch.manual_seed(value)


def _run(reader: Any, setting: Setting, info: Any, task: Task) -> Reply:
    first, last = task.first, task.last
    begun = time.perf_counter()
    failure = None
    where = f"in worker {setting.number} (pid {os.getpid()})"
    try:
        samples = reader.read(first, last, task.directions)
    except SampleError as error:
        samples = error.samples
        failure = Failure.of(f"sample {error.index!r} could not be fetched {where}", error.cause)
    data: Any = samples or None
    if samples and setting.collate:
        _show(info)  # makes torch collate into shared memory
        try:
            data = collated(samples, f"items {first} to {last - 1} could not be collated {where}")
        finally:
            if not setting.show_info:
                _show(None)
    seconds = time.perf_counter() - begun
    return Reply(task.run, len(samples), data, seconds, failure, reader.end, reader.mark, reader.prints)


def _send(channel: Channel, reply: Reply, number: int) -> None:
    try:
        channel.put(reply)
    except Exception as error:  # the data cannot be pickled
        what = f"samples could not be sent from worker {number}; return tensors, arrays or numbers"
        failure = reply.data.why if isinstance(reply.data, Apart) else Failure.of(what, error)
        channel.put(Reply(reply.run, 0, None, reply.seconds, failure))
    channel.finish()
