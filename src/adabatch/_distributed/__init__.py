"""The only place that imports `torch.distributed`: this process's rank, and a few collectives."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from adabatch._errors import ArgumentError, UsageError

_Value = TypeVar("_Value")
_BUCKET_BYTES: Final = 25 * 2**20  # as DDP's
_FIRST_BUCKET_BYTES: Final = 2**20  # as DDP's, so that reduction begins early
_LAUNCHED: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Launch(NamedTuple):
    """A process as torchrun started it: its rank, the number of ranks, and its rank on this machine."""

    rank: int
    world: int
    local: int


def launched() -> Launch | None:
    """How torchrun started this process; None without torchrun. Raises UsageError if variables are missing or wrong."""
    if "RANK" not in os.environ and "LOCAL_RANK" not in os.environ:
        return None
    values = {name: os.environ.get(name, "") for name in _LAUNCHED}
    remedy = "start with torchrun, or unset RANK and LOCAL_RANK"
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        if not values[name].isdecimal():
            rule, got = "must be a whole number in the environment of a launched process", values[name] or "none"
            raise UsageError(name, rule, got=got, remedy=remedy)
    if not values["MASTER_ADDR"]:
        raise UsageError("MASTER_ADDR", "must be in the environment of a launched process", got="none", remedy=remedy)
    rank, world, local = (int(values[name]) for name in _LAUNCHED[:3])
    if rank >= world:
        raise UsageError("RANK", f"must be below WORLD_SIZE = {world}", got=str(rank), remedy=remedy)
    return Launch(rank, world, local)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """A context in which the processes that torchrun started are one group: over gloo on CPUs, NCCL on GPUs.

    Does nothing outside torchrun, or if there is a group already.
    """
    if launched() is None or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    try:
        yield
    finally:
        gc.collect()  # gloo aborts an interpreter that ends while a wrapped model is alive
        dist.destroy_process_group()
        gc.collect()


def is_of_peer(error: BaseException) -> bool:
    """Whether a collective failed because another process of the group is gone."""
    words = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def gathered(value: _Value, group: Any = None) -> list[_Value]:
    """The `value` of each rank of `group`, on every rank."""
    boxes: list[Any] = [value] * rank_and_world(group)[1]
    if len(boxes) > 1:
        dist.all_gather_object(boxes, value, group=group)
    return boxes


def from_first(make: Callable[[], _Value], group: Any = None) -> _Value:
    """Calls `make` on rank 0 only and returns its result on every rank; if it fails, the others raise `RankError`."""
    rank, world = rank_and_world(group)
    if world == 1:
        return make()
    box: list[Any] = [None, False]
    if rank == 0:
        try:
            box = [make(), True]
        finally:
            dist.broadcast_object_list(box, group=group, group_src=0)
    else:
        dist.broadcast_object_list(box, group=group, group_src=0)
        if not box[1]:
            raise RankError
    found: _Value = box[0]
    return found


def shard(model: torch.nn.Module, device: torch.device) -> None:
    """Shards a network's parameters over all ranks, each of its children and the rest apart (FSDP2)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for child in model.children():
        if any(True for _ in child.parameters()):
            fully_shard(child, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(value: Any) -> Any:
    """The full tensor of a sharded one, a collective; anything else unchanged."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def sharded_as(value: Any, like: Any) -> Any:
    """`value` sharded like `like`, if that is sharded and has the same shape; else `value`."""
    if not hasattr(like, "full_tensor") or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements)


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Gives all ranks rank 0's values, in place."""
    for tensor in tensors:
        dist.broadcast(tensor, group_src=0)


class RankError(RuntimeError):
    """Rank 0 failed and reports the error itself."""

    def __init__(self) -> None:
        super().__init__("rank 0 failed; its error says why")


def is_together() -> bool:
    """Whether this process is in a process group, of whatever size."""
    return dist.is_available() and dist.is_initialized()


def rank_and_world(group: Any = None) -> tuple[int, int]:
    """This process's rank and the number of ranks in `group` (default: the world); `(0, 1)` outside a process group."""
    if not is_together():
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def same_for_all(value: _Value, group: Any = None) -> _Value:
    """Rank 0's `value`, on every rank of `group`."""
    box = [value]
    if rank_and_world(group)[1] > 1:
        dist.broadcast_object_list(box, group=group, group_src=0)
    return box[0]


def sharing_group(*, group: Any = None, mesh: Any = None, shard: bool = True) -> tuple[Any, int, int]:
    """The group over which a batch is cut (None for the world), this process's rank in it and its number of ranks.

    Args:
        group: a process group; None for the world.
        mesh: a one-dimensional device mesh, in place of a group.
        shard: False for no cutting: every rank takes whole batches.

    Raises:
        ValueError: if a group and a mesh are given, the mesh has several dimensions, or this process is in neither.
    """
    if group is not None and mesh is not None:
        remedy = "give the one that spans the data-parallel ranks"
        raise ArgumentError("group", "and `mesh` must not both be given", remedy=remedy)
    if not shard:
        return None, 0, 1
    if mesh is not None:
        if mesh.ndim != 1:
            raise ArgumentError(
                "mesh",
                "must have one dimension, the data-parallel one",
                value=mesh.ndim,
                remedy="pass a slice such as `mesh['dp']`, or flatten: `mesh['replicate', 'shard']._flatten()`",
            )
        group = mesh.get_group()
    rank, world = rank_and_world(group)
    if rank < 0:
        remedy = "build the loader on its ranks only"
        raise ArgumentError("group", "must contain this process", got="one that does not", remedy=remedy)
    return group, rank, world


def least(value: int, group: Any = None) -> int:
    """The least `value` over the ranks of `group`."""
    return min(gathered(value, group))


def any_of(flags: Sequence[bool], *, device: torch.device, group: Any = None) -> list[bool]:
    """For each flag, whether it is True on any rank of `group`; every rank must give as many."""
    votes = torch.tensor(list(flags), dtype=torch.uint8, device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=group)
    return [bool(vote) for vote in votes.tolist()]


def largest(values: Sequence[float], *, device: torch.device, group: Any = None) -> list[float]:
    """For each value, the largest on any rank of `group`."""
    found = torch.tensor(list(values), dtype=torch.float64, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX, group=group)
    return [float(value) for value in found.tolist()]


def summed(value: Tensor, group: Any = None) -> Tensor:
    """The sum of `value` over the ranks of `group`, on its device."""
    total = value.detach().clone()
    dist.all_reduce(total, group=group)
    return total


class Average:
    """The mean of gradients over the ranks of `group`, in buckets allocated ahead, so that it cannot fail half-way."""

    def __init__(self, tensors: Sequence[Tensor], group: Any) -> None:
        self._group, self._world = group, dist.get_world_size(group)
        self._buckets: list[tuple[Tensor, list[Tensor]]] = []
        for members in _buckets(tensors):
            size = sum(member.numel() for member in members)
            self._buckets.append((members[0].new_empty(size), members))

    @torch.no_grad()
    def run(self) -> None:
        """Averages the gradients in place; all ranks must call it."""
        waiting = []
        for flat, members in self._buckets:
            torch.cat([member.reshape(-1) for member in members], out=flat)
            flat.div_(self._world)
            waiting.append(dist.all_reduce(flat, group=self._group, async_op=True))
        for work, (flat, members) in zip(waiting, self._buckets, strict=True):
            work.wait()
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
        members, size = kinds.get(kind, ([], _BUCKET_BYTES))
        needed = tensor.numel() * tensor.element_size()
        if size + needed > _BUCKET_BYTES:
            members, size = [], 0
            found.append(members)
        members.append(tensor)
        kinds[kind] = (members, size + needed)
    return found


def ddp_buckets(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Buffers as DistributedDataParallel reduces the gradients of `parameters` in, sharded or not; all zeros.

    From the last parameter to the first, by type and device; a buffer ends once it holds 1 MiB, later ones 25 MiB.
    """
    counts: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for parameter in reversed([each for each in parameters if each.requires_grad]):
        found = counts.setdefault((parameter.dtype, parameter.device), [0])
        full = _FIRST_BUCKET_BYTES if len(found) == 1 else _BUCKET_BYTES
        if found[-1] * parameter.element_size() >= full:
            found.append(0)
        found[-1] += parameter.numel()
    return [torch.zeros(n, dtype=kind, device=device) for (kind, device), found in counts.items() for n in found]


def all_reduce(buffers: Sequence[Tensor], group: Any = None) -> None:
    """Sums each buffer over the ranks of `group`, in place; all are under way at once, as DDP's are."""
    for work in [dist.all_reduce(buffer, group=group, async_op=True) for buffer in buffers]:
        work.wait()


def backend_of(device: torch.device, group: Any = None) -> str:
    """The name of the backend that reduces tensors of `device`: `"gloo"`, `"nccl"`."""
    pairs = str(dist.get_backend_config(group)).split(",")
    return dict(pair.split(":") for pair in pairs)[device.type]


def device_of(group: Any = None) -> torch.device:
    """The device for a collective of numbers: the CPU if the group's backend reaches it, else the accelerator."""
    if "gloo" in str(dist.get_backend_config(group)):
        return torch.device("cpu")
    device = torch.accelerator.current_accelerator()
    return device if device is not None else torch.device("cpu")


def is_phantom(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the coming step is one by which torch.distributed.checkpoint fills an empty state.

    Its optimizer has no state, an LR of 0 and gradients of 0 only. LRs on an accelerator are not read, since that would
    wait for it.
    """
    if optimizer.state:
        return False
    lrs = [group["lr"] for group in optimizer.param_groups]
    if any((isinstance(lr, Tensor) and lr.device.type != "cpu") or float(lr) != 0 for lr in lrs):
        return False
    return not any(_moves(param.grad) for group in optimizer.param_groups for param in group["params"])


def _moves(grad: Tensor | None) -> bool:
    """Whether a gradient is there and not all 0."""
    if grad is None:
        return False
    local = grad.to_local() if hasattr(grad, "to_local") else grad
    return local.layout != torch.strided or bool(local.count_nonzero())
