"""The mean of gradients over ranks, whole or in 16 bits on the way, and its cost in bytes and seconds.

In 16 bits each rank sends every other one its part of the gradients, sums what it got in float32, and sends the mean of
its part to all: an all-to-all and an all-gather, which carry as much as a ring's all-reduce. So a value is rounded to
16 bits twice, whatever the number of ranks; an all-reduce in 16 bits would round each partial sum. bf16 has the range
of float32. fp16 has not: each part is multiplied by the power of two that brings its largest magnitude between 2^14 and
2^15, which rounds nothing and cannot overflow; the exponent travels with the part.

    |error of a mean| <= u (mean |g_r| + |mean|) (1 + u) + W 2^-23 mean |g_r|,   u = 2^-8 for bf16, 2^-11 for fp16

and with fp16 2^-38 of the largest magnitude more, since what is smaller than 2^-28 of it loses bits, or 2^-124. A part
that holds an inf or nan is sent as it is. The bound ends where a rounding leads out of float32, from 2^128 (1 - u) on.
"""
# No `from __future__ import annotations`: DDP compares the annotations of a hook with types.

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from adabatch._errors import ArgumentError

BUCKET_BYTES: Final = 25 * 2**20  # as DDP's
_TYPES: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}
_all_gather: Final = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the older name
_NARROW: Final = frozenset(_TYPES.values())


class Traffic(NamedTuple):
    """The cost of averaging gradients to this process, since it began.

    Attributes:
        bytes: of gradients in the type in which they travelled; in a ring 2 (W - 1) / W times as many leave a rank.
        seconds: in which the thread that trains did nothing else, the wait for other ranks included. Work of GPUs, and
            what DistributedDataParallel overlaps with the backward pass, is not counted.
    """

    bytes: int
    seconds: float


_so_far = Traffic(0, 0.0)


def traffic() -> Traffic:
    """The cost of averaging gradients to this process so far."""
    return _so_far


@contextmanager
def _counted(size: int) -> Iterator[None]:
    """Adds `size` bytes, and the seconds spent inside."""
    global _so_far  # noqa: PLW0603 - of the process, as torch's statistics of memory
    began = time.perf_counter()
    yield
    _so_far = Traffic(_so_far.bytes + size, _so_far.seconds + time.perf_counter() - began)


def check_types(tensors: Sequence[Tensor]) -> None:
    """Raises ArgumentError unless gradients of the parameters can be compressed; those of 16 bits stay as they are.

    Args:
        tensors: the parameters.
    """
    for tensor in tensors:
        if tensor.requires_grad and tensor.dtype != torch.float32 and tensor.dtype not in _NARROW:
            raise ArgumentError(
                "compress",
                "must come with parameters of float32 or 16 bits",
                got=str(tensor.dtype).removeprefix("torch."),
                remedy="leave it out: such gradients are averaged whole",
            )


class Average:
    """The mean of gradients over the ranks of `group`, in buckets allocated ahead, so that it cannot fail half-way.

    Args:
        tensors: the gradients.
        group: the ranks.
        compress: `"fp16"`, `"bf16"`, or None for whole gradients.
    """

    def __init__(self, tensors: Sequence[Tensor], group: Any, compress: str | None = None) -> None:
        self._buckets: list[tuple[_Mean, Tensor, list[Tensor]]] = []
        self._bytes, world = 0, dist.get_world_size(group)
        for members in _buckets(tensors):
            size = sum(member.numel() for member in members)
            flat = members[0].new_empty(-(-size // world) * world)
            flat[size:].zero_()
            mean = _Mean(flat, group, compress)
            self._buckets.append((mean, flat[:size], members))
            self._bytes += size * mean.element_size

    @torch.no_grad()
    def run(self) -> None:
        """Averages the gradients in place; all ranks must call it."""
        with _counted(self._bytes):
            for mean, flat, members in self._buckets:
                torch.cat([member.reshape(-1) for member in members], out=flat)
                mean.begin()
            for mean, _, _ in self._buckets:
                mean.go_on()
            for mean, flat, members in self._buckets:
                mean.end()
                start = 0
                for member in members:
                    member.copy_(flat[start : start + member.numel()].view_as(member))
                    start += member.numel()


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The tensors in order, by type and device, in runs of at most a bucket's size."""
    found: list[list[Tensor]] = []
    kinds: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], int]] = {}
    for tensor in tensors:
        kind = (tensor.dtype, tensor.device)
        members, size = kinds.get(kind, ([], BUCKET_BYTES))
        needed = tensor.numel() * tensor.element_size()
        if size + needed > BUCKET_BYTES:
            members, size = [], 0
            found.append(members)
        members.append(tensor)
        kinds[kind] = (members, size + needed)
    return found


class DdpHook:
    """The state of the communication hook by which DistributedDataParallel averages like `Average`.

    All collectives are begun by the thread of the backward pass, in the order of buckets, so that every rank begins
    them in the same order. The last bucket, with which the backward pass is over, waits for all.

    Attributes:
        compress: `"fp16"`, `"bf16"`, or None for whole gradients.
    """

    def __init__(self, group: Any, compress: str | None) -> None:
        self.compress, self._group = compress, group
        self._under_way: list[tuple[_Mean, Tensor, torch.futures.Future[Tensor]]] = []

    @torch.no_grad()
    def take(self, bucket: Any) -> torch.futures.Future[Tensor]:
        """Begins to average a bucket."""
        flat = bucket.buffer()
        if flat.layout != torch.strided:
            remedy = "leave out `compress`, and wrap the model anew"
            raise ArgumentError("model", "must have dense gradients", got="sparse ones", remedy=remedy)
        on_device = [] if flat.device.type == "cpu" else [flat.device]
        future: torch.futures.Future[Tensor] = torch.futures.Future(devices=on_device)
        if dist.get_world_size(self._group) == 1:
            future.set_result(flat)
            return future
        mean = _Mean(flat, self._group, self.compress)
        with _counted(flat.numel() * mean.element_size):
            if bucket.index() == 0:
                self._under_way.clear()  # those of a backward pass that failed
            if self._under_way:
                self._under_way[-1][0].go_on()
            mean.begin()
            self._under_way.append((mean, flat, future))
            if bucket.is_last():
                mean.go_on()
                for each, its_flat, its_future in self._under_way:
                    each.end()
                    its_future.set_result(its_flat)
                self._under_way.clear()
        return future


def ddp_hook(  # DDP wants these very types
    state: DdpHook,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """A communication hook of DistributedDataParallel, as its `register_comm_hook` takes it."""
    return state.take(bucket)


def hook_into(ddp: Any, compress: str | None = None) -> DdpHook:
    """Makes a DistributedDataParallel average by our hook, if it does not yet; returns the hook's state.

    Raises:
        ValueError: if it has a hook of another make.
    """
    own = own_hook(ddp)
    if own is None:
        if hooks_of(ddp):
            raise ArgumentError(
                "compress",
                "must be None where DistributedDataParallel has a communication hook, since it takes one only",
                got=f"{compress!r}",
                remedy="leave it out, or register no hook",
            )
        own = DdpHook(ddp.process_group, compress)
        ddp.register_comm_hook(own, ddp_hook)
    own.compress = compress
    return own


def own_hook(ddp: Any) -> DdpHook | None:
    """The state of our hook in a DistributedDataParallel; None if it is not there."""
    return next((state for _, state in hooks_of(ddp) if isinstance(state, DdpHook)), None)


def hooks_of(ddp: Any) -> Sequence[tuple[Any, Any]]:
    """The communication hooks of a DistributedDataParallel, each with its state."""
    found: Sequence[tuple[Any, Any]] = getattr(ddp, "_comm_hooks", ())  # torch has no public way
    return found


class _Mean:
    """The mean of a flat tensor over ranks, in place, in three steps that every rank takes in the same order.

    Memory is taken at once: in 16 bits as much again as the tensor has, and a share of it.

    Attributes:
        element_size: bytes of a value on its way.
    """

    def __init__(self, flat: Tensor, group: Any, compress: str | None) -> None:
        self._flat, self._group, self._world = flat, group, dist.get_world_size(group)
        self._work: Any = None
        self._narrow = compress is not None and flat.dtype == torch.float32 and flat.numel() > 0
        self.element_size = flat.element_size()
        if not self._narrow or compress is None:
            return
        kind, world = _TYPES[compress], self._world
        self.element_size = kind.itemsize
        length = -(-flat.numel() // world)
        fits = flat.numel() == world * length
        self._parts = flat.view(world, length) if fits else flat.new_zeros(world, length)  # a row for each rank
        head = int(kind == torch.float16)
        self._sent, self._got = (flat.new_empty(world, head + length, dtype=kind) for _ in range(2))
        self._mean = flat.new_empty(1, length)
        self._sent_mean = flat.new_empty(1, head + length, dtype=kind)
        self._halvings = (world - 1).bit_length()  # after these the sum over ranks overflows only if the mean does

    def begin(self) -> None:
        """Sends the parts."""
        if not self._narrow:
            self._flat.div_(self._world)
            self._work = dist.all_reduce(self._flat, group=self._group, async_op=True)
            return
        if self._parts.data_ptr() != self._flat.data_ptr():
            self._parts.view(-1)[: self._flat.numel()].copy_(self._flat)
        _pack(self._parts, self._sent)
        self._work = dist.all_to_all_single(self._got, self._sent, group=self._group, async_op=True)

    def go_on(self) -> None:
        """Waits for this rank's part of the others, and sends its mean."""
        if not self._narrow:
            return
        self._work.wait()
        _unpack(self._got, self._parts, halvings=self._halvings)
        torch.sum(self._parts, 0, keepdim=True, out=self._mean)
        self._mean.div_(self._world / 2**self._halvings)
        _pack(self._mean, self._sent_mean)
        self._work = _all_gather(self._got, self._sent_mean, group=self._group, async_op=True)

    def end(self) -> None:
        """Waits for the means."""
        self._work.wait()
        if not self._narrow:
            return
        _unpack(self._got, self._parts)
        if self._parts.data_ptr() != self._flat.data_ptr():
            self._flat.copy_(self._parts.view(-1)[: self._flat.numel()])


def _pack(values: Tensor, packed: Tensor) -> None:
    """Rounds rows of float32 to 16 bits; rows of fp16 are scaled, in place, and begin with the exponent."""
    head = packed.shape[1] - values.shape[1]
    if head:
        largest = torch.maximum(values.amax(1, keepdim=True), -values.amin(1, keepdim=True))
        exponent = (largest.view(torch.int32) >> 23) & 255  # of float32, plus 127; 255: inf or nan
        shift = torch.where(exponent == 255, 0, (127 + 14 - exponent).clamp_(max=_MOST))
        values.mul_(_power(shift))
        packed[:, :1].copy_(shift)
    packed[:, head:].copy_(values)


def _unpack(packed: Tensor, values: Tensor, *, halvings: int = 0) -> None:
    """The rows that `_pack` rounded, halved so many times."""
    head = packed.shape[1] - values.shape[1]
    values.copy_(packed[:, head:])
    if head:
        values.mul_(_power(-halvings - packed[:, :1].to(torch.int32)))
    elif halvings:
        values.mul_(2.0**-halvings)


_MOST: Final = 100  # no gradient is scaled up by more than 2^100, so that no factor leaves the range of float32


def _power(exponent: Tensor) -> Tensor:
    """2^exponent in float32, exactly, for exponents from -126 to 127."""
    return ((exponent + 127) << 23).view(torch.float32)
