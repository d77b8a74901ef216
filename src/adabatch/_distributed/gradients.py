"""Collectives on gradients: a vote, an average, a sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

_BUCKET_BYTES: Final = 25 * 2**20  # as DDP's


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


def same_object(value: Any, group: Any = None) -> Any:
    """Rank 0's `value`, on every rank of `group`."""
    box = [value]
    dist.broadcast_object_list(box, group=group, group_src=0)
    return box[0]


class Average:
    """The mean of gradients over ranks, in buckets whose room is taken at once, so that it cannot fail half-way.

    Args:
        tensors: the gradients; they are changed in place by `run`.
        group: the process group.
    """

    def __init__(self, tensors: Sequence[Tensor], group: Any) -> None:
        self._group, self._world = group, dist.get_world_size(group)
        self._buckets: list[tuple[Tensor, list[Tensor]]] = []
        for members in _buckets(tensors):
            size = sum(member.numel() for member in members)
            self._buckets.append((members[0].new_empty(size), members))

    @torch.no_grad()
    def run(self) -> None:
        """Averages; all ranks must call it."""
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
    """The tensors in order, by type and device, in runs of at most the size of a bucket."""
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
    """Where a collective of a number runs: the CPU if the group's backend reaches it, else this rank's accelerator."""
    if "gloo" in str(dist.get_backend_config(group)):
        return torch.device("cpu")
    device = torch.accelerator.current_accelerator()
    return device if device is not None else torch.device("cpu")
