"""Sends what workers fetched: small tensors inside the message, large ones as shared memory that travels along with it.

torch sends a tensor's memory by a number that the receiver redeems at a thread of the sender, and so waits until that
thread is given time; here the memory's file descriptor comes along with the message, over the same pair of sockets.

A socket holds little, and one that is full blocks its writer: a main process that writes tasks while its worker writes
a large reply would stand still for ever. So nothing here writes without being able to stop in the middle of a message.
"""

from __future__ import annotations

import array
import errno
import io
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from multiprocessing import reduction
from typing import Any, Final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from adabatch._errors import UsageError

_INLINE_BYTES: Final = 16 * 1024
_MOST_DESCRIPTORS: Final = 200
_HEADER: Final = struct.Struct("!QB")  # bytes that follow, descriptors that come along
_ROOM: Final = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
WATCH_SECONDS = 5.0
_RETRY_SECONDS: Final = 0.001
_received = threading.local()  # `descriptors` of the message that this thread unpacks


class _Packer(reduction.ForkingPickler):
    """Pickles; tensors on the CPU become bytes or descriptors."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 5)
        self.descriptors: list[int] = []
        self.kept: list[Any] = []

    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is not Tensor or not _plain(thing):
            return NotImplemented
        size = thing.numel() * thing.element_size()
        if size <= _INLINE_BYTES:
            data = thing.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if size else b""
            return _from_bytes, (data, thing.dtype, thing.shape)
        # What is not shared yet is the data set's own: shared in place it would hold a file open as long as it lives.
        storage: Any = thing.untyped_storage()
        tensor = thing if storage.is_shared() and storage.nbytes() < 2 * size else thing.clone()
        if len(self.descriptors) >= _MOST_DESCRIPTORS:
            return reduce_tensor(tensor)  # type: ignore[no-untyped-call]  # torch's own way
        storage = tensor.untyped_storage()
        descriptor, length = storage._share_fd_cpu_()
        self.kept.append(storage)  # keeps the descriptor open until it is sent
        self.descriptors.append(descriptor)
        place = len(self.descriptors) - 1
        return _from_descriptor, (place, length, tensor.dtype, tensor.storage_offset(), tensor.shape, tensor.stride())


def _plain(tensor: Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.is_nested
        and not tensor.requires_grad
        and not tensor.is_quantized
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def _from_bytes(data: bytes, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype).view(shape)


def _from_descriptor(
    place: int, length: int, dtype: torch.dtype, offset: int, shape: torch.Size, stride: tuple[int, ...]
) -> Tensor:
    kind: Any = torch.UntypedStorage
    return torch.empty(0, dtype=dtype).set_(
        kind._new_shared_fd_cpu(_received.descriptors[place], length),  # noqa: SLF001, the way that torch itself takes
        offset,
        shape,
        stride,
    )


class _Message:
    """The part of a message that is not written yet."""

    def __init__(self, thing: Any) -> None:
        file = io.BytesIO()
        packer = _Packer(file)
        packer.dump(thing)
        body, descriptors = file.getbuffer(), packer.descriptors
        self._parts = [memoryview(_HEADER.pack(len(body), len(descriptors))), body]
        self._along = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._kept = packer.kept

    def write(self, end: socket.socket) -> bool:
        """Writes as much as `end` takes without waiting; returns whether that was all."""
        while self._parts:
            try:
                sent = end.sendmsg(self._parts, self._along, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                time.sleep(_RETRY_SECONDS)  # too many descriptors are under way: until some have arrived
                return False
            self._along = []  # they went with the first bytes
            while self._parts and sent >= len(self._parts[0]):
                sent -= len(self._parts.pop(0))
            if sent:
                self._parts[0] = self._parts[0][sent:]
        return True


class Channel:
    """One end of a pair of sockets between two processes, for tensors.

    Args:
        end: one of `socket.socketpair()`.
        parent: the process without which there is nothing to wait for; None for none.
    """

    def __init__(self, end: socket.socket, parent: int | None = None) -> None:
        end.settimeout(None)
        self._end, self._parent = end, parent
        self._reading = 0 if parent is None else socket.MSG_DONTWAIT
        self._outgoing: deque[_Message] = deque()
        self._polls = {event: select.poll() for event in (select.POLLIN, select.POLLOUT)}
        for event, poll in self._polls.items():
            poll.register(end, event)

    def put(self, thing: Any) -> None:
        """Packs `thing` to be written; if it cannot be pickled, the channel stays as it was."""
        self._outgoing.append(_Message(thing))

    def flush(self) -> bool:
        """Writes as much as possible without waiting; returns whether that was all."""
        while self._outgoing:
            if not self._outgoing[0].write(self._end):
                return False
            self._outgoing.popleft()
        return True

    def send(self, thing: Any) -> None:
        """Sends `thing`; waits until it is written."""
        self.put(thing)
        self.finish()

    def finish(self) -> None:
        """Writes all that was put."""
        while not self.flush():
            self._wait(select.POLLOUT)

    def receive(self) -> Any:
        """Waits for the next thing that the other end sent.

        Raises:
            EOFError: if the other end is closed, or `parent` is gone.
            RuntimeError: if this process may not open so many files, or the message cannot be unpickled.
        """
        (size, count), descriptors = self._head()
        try:
            body = bytearray(size)
            self._fill(memoryview(body))
            if len(descriptors) != count:
                raise UsageError(
                    None,
                    f"a run of samples came with {count} open files, and this process could take only "
                    f"{len(descriptors)}",
                    remedy="raise its limit (`ulimit -n`) or lower `prefetch_factor`",
                )
            _received.descriptors = descriptors
            try:
                return reduction.ForkingPickler.loads(body)
            except (EOFError, OSError) as error:  # not the channel's
                raise UsageError(None, f"a run of samples could not be unpickled: {error!r}") from error
        finally:
            _received.descriptors = []
            for descriptor in descriptors:
                os.close(descriptor)

    def _head(self) -> tuple[tuple[int, int], list[int]]:
        """The header of a message, and the descriptors that came along."""
        head, found = b"", array.array("i")
        while len(head) < _HEADER.size:
            try:
                data, along, _, _ = self._end.recvmsg(_HEADER.size - len(head), _ROOM, self._reading)
            except BlockingIOError:
                self._wait(select.POLLIN)
                continue
            for level, kind, content in along:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    found.frombytes(content[: len(content) - len(content) % found.itemsize])
            if not data:
                raise EOFError
            head += data
        return _HEADER.unpack(head), found.tolist()

    def _fill(self, view: memoryview) -> None:
        while view:
            try:
                count = self._end.recv_into(view, 0, self._reading)
            except BlockingIOError:
                self._wait(select.POLLIN)
                continue
            if not count:
                raise EOFError
            view = view[count:]

    def _wait(self, event: int) -> None:
        """Waits until the socket can be read or written."""
        while not self._polls[event].poll(None if self._parent is None else 1000 * WATCH_SECONDS):
            if os.getppid() != self._parent:
                raise EOFError

    def ready(self) -> bool:
        """Whether a message, or the other end's closing, waits to be received."""
        return bool(self._polls[select.POLLIN].poll(0))

    def fileno(self) -> int:
        """The socket's number."""
        return self._end.fileno()

    def close(self) -> None:
        """Closes this end."""
        self._outgoing.clear()
        self._end.close()
