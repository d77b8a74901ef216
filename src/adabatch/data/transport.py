"""Sends what workers fetched: small tensors inside the message, large ones as shared memory that travels along with it.

torch sends a tensor's memory by a number that the receiver redeems at a thread of the sender, and so waits until that
thread is given time; here the memory's file descriptor comes in the same pipe as the message.
"""

from __future__ import annotations

import io
import os
import socket
from multiprocessing import reduction
from typing import Any, Final

import torch
from torch import Tensor

_INLINE_BYTES: Final = 16 * 1024
_MOST_DESCRIPTORS: Final = 200
_received: list[int] = []


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
        if len(self.descriptors) >= _MOST_DESCRIPTORS:
            return NotImplemented
        tensor = thing if thing.untyped_storage().nbytes() < 2 * size else thing.clone()
        storage: Any = tensor.untyped_storage()
        descriptor, length = storage._share_fd_cpu_()
        self.kept.append(storage)  # keeps the descriptor open until it is sent
        self.descriptors.append(descriptor)
        place = len(self.descriptors) - 1
        return _from_descriptor, (place, length, tensor.dtype, tensor.storage_offset(), tensor.shape, tensor.stride())


def _plain(tensor: Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
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
    return torch.empty(0, dtype=dtype).set_(kind._new_shared_fd_cpu(_received[place], length), offset, shape, stride)


class Channel:
    """One end of a pipe between two processes, for tensors.

    Args:
        connection: an end of a duplex `multiprocessing` pipe.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._socket: socket.socket | None = None

    def _along(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(fileno=os.dup(self.connection.fileno()))
        return self._socket

    def send(self, thing: Any) -> None:
        """Sends `thing`; nothing is sent if it cannot be pickled."""
        file = io.BytesIO()
        packer = _Packer(file)
        packer.dump(thing)
        count = len(packer.descriptors)
        self.connection.send_bytes(bytes([count]) + file.getbuffer())
        if count:
            reduction.sendfds(self._along(), packer.descriptors)

    def receive(self) -> Any:
        """What the other end sent; waits for it."""
        global _received  # noqa: PLW0603
        message = self.connection.recv_bytes()
        count = message[0]
        descriptors = reduction.recvfds(self._along(), count) if count else []
        try:
            _received = descriptors
            return reduction.ForkingPickler.loads(memoryview(message)[1:])
        finally:
            _received = []
            for descriptor in descriptors:
                os.close(descriptor)

    def close(self) -> None:
        """Closes this end."""
        if self._socket is not None:
            self._socket.close()
        self.connection.close()
