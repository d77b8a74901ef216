"""Checks that the ranks which share batches are those which train one model together."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from adabatch import _distributed
from adabatch._errors import ArgumentError
from adabatch.accumulate._models import Models
from adabatch.types import DrivenLoader, Part

_SHARED = ("seed", "dataset_size", "drop_last", "run_on", "micro_batch_size")


def check_ranks(models: Models, group: Any) -> None:
    """Raises unless the ranks that share a batch average their gradients together, and no two split one network.

    Ranks of a wrapper that torch does not tell are not checked. Averaging over more ranks than those that share a batch
    is right if the others share the same batch.

    Args:
        models: the modules that are trained.
        group: the ranks that share a batch; None for the world.
    """
    sharing, averaging = _distributed.members(group), models.ranks
    known = averaging is not None or not models.reduces
    mine = frozenset({_distributed.rank_and_world()[0]})
    apart = _distributed.tensor_parallel_with(models.parameters) - (averaging or frozenset()) if known else frozenset()
    if apart & sharing - mine:
        raise ArgumentError(
            "loader",
            "must give tensor-parallel ranks the same samples",
            got=f"one that shares each batch among {_listed(sharing)}, while {_listed(apart | mine)} split the "
            "parameters",
            remedy='write `ab.DataLoader(..., seed=0, mesh=mesh["dp"])` with the data-parallel part of the mesh, or '
            "`ab.DataLoader(..., seed=0, shard=False)` where there is none",
        )
    if averaging is not None and not sharing <= averaging:
        raise ArgumentError(
            "model",
            "must average gradients over all ranks that share a batch",
            got=f"one that averages over {_listed(averaging)}, and a loader that shares over {_listed(sharing)}",
            remedy="give `ab.DataLoader` the model's `group` or `mesh`, or wrap the model over the loader's",
        )


def check_alike(loader: DrivenLoader, part: Part, group: Any) -> None:
    """Raises on all ranks if they iterate differently; all ranks must call it at the first micro-batch.

    Args:
        loader: the loader.
        part: its first micro-batch.
        group: the ranks that share a batch; None for the world.
    """
    values = {name: getattr(loader, name, None) for name in _SHARED}
    values |= {"batch_size": part.batch.requested, "epoch": part.batch.epoch, "clock": part.batch.clock}
    _distributed.check_same(values, group, remedy="build the loader on every rank with the same arguments and data")


def warn_of_drift(models: Models, group: Any) -> bool:
    """Warns if the weights of a model that nothing wraps differ between ranks; returns whether they do.

    All ranks must call it.
    """
    sizes = _distributed.gathered([_size(p) for p in models.parameters if _has_values(p)], group)
    differ = any(size != sizes[0] for size in sizes)
    if differ:
        warnings.warn(
            "the weights of `model` differ between ranks that share batches: nothing averages its gradients; wrap it "
            "in DistributedDataParallel or by `fully_shard`, or begin with the same weights and sum gradients over "
            "ranks before each step",
            UserWarning,
            stacklevel=4,
        )
    return differ


def _has_values(parameter: Tensor) -> bool:
    return parameter.device.type != "meta" and not torch.nn.parameter.is_lazy(parameter)


def _size(parameter: Tensor) -> float:
    return float(torch.linalg.vector_norm(_distributed.local(parameter.detach())))


def _listed(ranks: Iterable[int]) -> str:
    return "ranks " + ", ".join(map(str, sorted(ranks)))
