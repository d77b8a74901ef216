"""The only place that imports `torch.distributed`: who am I, and the few collectives that the parts need."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from adabatch._errors import ArgumentError


def rank_and_world(group: Any = None) -> tuple[int, int]:
    """This process's rank and the number of ranks in `group` (default: the world); `(0, 1)` outside a process group."""
    if not dist.is_available() or not dist.is_initialized():
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def same_for_all(value: int, group: Any = None) -> int:
    """Rank 0's `value`, on every rank of `group`."""
    if rank_and_world(group)[1] == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, group=group, group_src=0)
    return int(box[0])


def sharing_group(*, group: Any = None, mesh: Any = None, shard: bool = True) -> tuple[Any, int, int]:
    """The group over which a batch is cut, this process's rank in it and its number of ranks.

    Args:
        group: a process group; None for the world.
        mesh: a one-dimensional device mesh, in place of a group.
        shard: False for no cutting: every rank takes whole batches.

    Returns:
        The group (None for the world), the rank and the number of ranks.

    Raises:
        ValueError: if a group and a mesh are given, the mesh has several dimensions, or this process is in neither.
    """
    if group is not None and mesh is not None:
        raise ArgumentError(
            "group", "and `mesh` must not both be given", remedy="give the one that spans the data-parallel ranks"
        )
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
        raise ArgumentError(
            "group", "must contain this process", got="one that does not", remedy="build the loader on its ranks only"
        )
    return group, rank, world


def least(value: int, group: Any = None) -> int:
    """The least `value` over the ranks of `group`."""
    if rank_and_world(group)[1] == 1:
        return value
    boxes: list[Any] = [None] * rank_and_world(group)[1]
    dist.all_gather_object(boxes, value, group=group)
    return min(int(box) for box in boxes)
