"""The only place that imports `torch.distributed`: who am I, and the few collectives that the parts need."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


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
