"""The ranks among which wrappers and tensor parallelism work, as numbers in the world."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from torch import Tensor


def members(group: Any = None) -> frozenset[int]:
    """The ranks of a process group (default: the world)."""
    return frozenset(dist.get_process_group_ranks(group))


def fully_sharded_over(modules: Iterable[Any]) -> frozenset[int] | None:
    """The ranks over which FSDP2 averages the gradients of modules, replicas included; None where torch hides them.

    Args:
        modules: those that `fully_shard` was called on.
    """
    found: set[int] = set()
    for module in modules:
        state = getattr(module, "_get_fsdp_state", lambda: None)()  # torch has no public way
        groups = getattr(state, "_fsdp_param_groups", None)  # before torch 2.13 one at most
        for group in [getattr(state, "_fsdp_param_group", None)] if groups is None else groups:
            mesh = getattr(getattr(group, "mesh_info", None), "mesh", None)
            found |= set() if mesh is None else set(mesh.mesh.flatten().tolist())
    return frozenset(found) or None


def tensor_parallel_with(parameters: Iterable[Tensor]) -> frozenset[int]:
    """The ranks that hold other parts of this rank's parameters, itself included; none where nothing is sharded."""
    found: set[int] = set()
    for parameter in parameters:
        mesh: Any = getattr(parameter, "device_mesh", None)
        if mesh is not None:
            placed: Any = parameter
            for dim, place in enumerate(placed.placements):
                if place.is_shard():
                    found |= members(mesh.get_group(dim))
    return frozenset(found)


def is_flat(parameter: Tensor) -> bool:
    """Whether FullyShardedDataParallel has flattened a parameter, so that neither shape nor norm is the weight's."""
    return bool(getattr(parameter, "_fsdp_flattened", False))  # torch has no public way
