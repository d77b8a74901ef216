"""The only place that imports `torch.distributed`: this process's rank, and a few collectives."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from adabatch._distributed.averaging import BUCKET_BYTES
from adabatch._distributed.averaging import Average as Average
from adabatch._distributed.averaging import Traffic as Traffic
from adabatch._distributed.averaging import check_types as check_types
from adabatch._distributed.averaging import hook_into as hook_into
from adabatch._distributed.averaging import hooks_of as hooks_of
from adabatch._distributed.averaging import own_hook as own_hook
from adabatch._distributed.averaging import traffic as traffic
from adabatch._distributed.meeting import meet
from adabatch._distributed.members import fully_sharded_over as fully_sharded_over
from adabatch._distributed.members import is_flat as is_flat
from adabatch._distributed.members import members as members
from adabatch._distributed.members import tensor_parallel_with as tensor_parallel_with
from adabatch._distributed.scattering import OwnNorm as OwnNorm
from adabatch._distributed.scattering import own_norms as own_norms
from adabatch._errors import ArgumentError, UsageError

_Value = TypeVar("_Value")
_TIMEOUT: Final = timedelta(minutes=30)  # until all processes must be there; torch's own
_FIRST_BUCKET_BYTES: Final = 2**20  # as DDP's, so that reduction begins early
_LAUNCHED: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Launch(NamedTuple):
    """A process as torchrun started it: its rank, the number of ranks, and both on this machine."""

    rank: int
    world: int
    local: int
    local_world: int


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
    here = os.environ.get("LOCAL_WORLD_SIZE", "")
    return Launch(rank, world, local, int(here) if here.isdecimal() else local + 1)


def job() -> str | None:
    """The torchrun job of this process, which stays the same when torchrun restarts its processes; None if unknown.

    It is torchrun's `--rdzv-id`; where none is given, the launcher's log folder, new for each launcher.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if name != "none":
        return name
    logs = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", "")).parts  # .../none_x7k2/attempt_0/0/error.json
    return logs[-4] if len(logs) > 4 else None


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """A context in which the processes that torchrun started are one group: over gloo on CPUs, NCCL on GPUs.

    Does nothing outside torchrun, or if there is a group already.
    """
    if launched() is None or dist.is_initialized():
        yield
        return
    store, rank, world = next(rendezvous("env://", timeout=_TIMEOUT))
    store = meet(store, rank, world, timeout=_TIMEOUT)
    if device.type == "cuda":
        dist.init_process_group("cpu:gloo,cuda:nccl", store=store, rank=rank, world_size=world, device_id=device)
    else:
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
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


def check_same(values: Mapping[str, Any], group: Any = None, *, remedy: str) -> None:
    """Raises ArgumentError on every rank of `group` if `values` differ between them; the first that does is named."""
    every = gathered(dict(values), group)
    for rank, theirs in enumerate(every):
        for name, value in every[0].items():
            if theirs[name] != value:
                got = f"{value!r} on rank 0 and {theirs[name]!r} on rank {rank}"
                raise ArgumentError(name, "must be the same on all ranks", got=got, remedy=remedy)


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


def shard(model: torch.nn.Module, device: torch.device, *, narrow: bool = False) -> None:
    """Shards a network's parameters over all ranks, each of its children and the rest apart (FSDP2).

    Args:
        model: the network.
        device: of its parameters.
        narrow: whether gradients travel, and are summed, in bf16.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16 if narrow else None)
    for child in model.children():
        if any(True for _ in child.parameters()):
            fully_shard(child, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def room_for(value: Tensor, like: Tensor | None) -> Tensor:
    """An empty tensor of the shape and type of `value`, sharded like `like` if that has the same shape."""
    if hasattr(like, "full_tensor") and like is not None and like.shape == value.shape:
        return torch.empty_like(like, dtype=value.dtype, requires_grad=False)
    return torch.empty(value.shape, dtype=value.dtype)


def sharded_as(value: Any, like: Any) -> Any:
    """`value` sharded like `like`, if that is sharded, `value` is not and has the same shape; else `value`."""
    if not hasattr(like, "full_tensor") or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    if hasattr(value, "full_tensor"):
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


def world() -> Any:
    """The group of all ranks, as one that can be given; None outside a process group."""
    return dist.group.WORLD if is_together() else None


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


def differentiable_sum(value: Tensor, group: Any = None) -> Tensor:
    """The sum of `value` over the ranks of `group`, in the graph: its backward pass is a sum over ranks too."""
    total: Tensor = _Sum.apply(value, group)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """A sum over ranks of which every rank uses the result: the gradients of all of them add up."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return summed(value.contiguous(), group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return differentiable_sum(gradient, ctx.group), None


def ddp_buckets(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """The parameters by the buffers in which DistributedDataParallel reduces their gradients, sharded or not.

    From the last parameter to the first, by type and device; a buffer ends once it holds 1 MiB, later ones 25 MiB.
    """
    found: dict[tuple[torch.dtype, torch.device], list[list[Tensor]]] = {}
    for parameter in reversed([each for each in parameters if each.requires_grad]):
        buckets = found.setdefault((parameter.dtype, parameter.device), [[]])
        full = _FIRST_BUCKET_BYTES if len(buckets) == 1 else BUCKET_BYTES
        if sum(member.numel() for member in buckets[-1]) * parameter.element_size() >= full:
            buckets.append([])
        buckets[-1].append(parameter)
    return [bucket for buckets in found.values() for bucket in buckets]


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


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor, which shares its memory; any other tensor itself."""
    found: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return found


def layout(tensor: Tensor) -> Any:
    """How a sharded tensor lies over ranks, as a key; None for any other tensor."""
    sharded: Any = tensor
    return (sharded.device_mesh, sharded.placements) if hasattr(tensor, "to_local") else None


def norms(tensors: list[Tensor], like: Sequence[Tensor]) -> Tensor:
    """The 2-norm of each tensor, one number each.

    Args:
        tensors: of one type and device, at least one: shards where `like` is sharded.
        like: tensors that all lie alike over ranks, see `layout`.
    """
    found = torch.stack(torch._foreach_norm(tensors))  # noqa: SLF001
    if layout(like[0]) is None:
        return found
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh, placements = layout(like[0])
    parts = [Partial() if place.is_shard() else Replicate() for place in placements]
    return DTensor.from_local(found.square(), mesh, parts).full_tensor().sqrt()
