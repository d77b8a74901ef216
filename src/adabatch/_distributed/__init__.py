"""The only place that imports `torch.distributed`: this process's rank, and a few collectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from adabatch._errors import ArgumentError

_Value = TypeVar("_Value")
_BUCKET_BYTES: Final = 25 * 2**20  # as DDP's


def rank_and_world(group: Any = None) -> tuple[int, int]:
    """This process's rank and the number of ranks in `group` (default: the world); `(0, 1)` outside a process group."""
    if not dist.is_available() or not dist.is_initialized():
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
    if rank_and_world(group)[1] == 1:
        return value
    boxes: list[Any] = [None] * rank_and_world(group)[1]
    dist.all_gather_object(boxes, value, group=group)
    return min(int(box) for box in boxes)


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
