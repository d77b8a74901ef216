"""Norms of a rank's own gradient under `fully_shard`, seen where it is about to be scattered and averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from adabatch._errors import ArgumentError

_reduce_scatter: Final[Any] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor  # older name
_TYPES: Final = (torch.float32, torch.bfloat16)  # gradients of others are divided before they are scattered


class OwnNorm:
    """The reduce-scatter of one `fully_shard` module, as torch does it, which squares what goes in while it is open.

    Attributes:
        is_open: whether it looks.
        squares: the squared norms of what went in since then: one, unless there were several backward passes.
        weights: if not None, squares are scattered too: what those of this rank weigh, and all ranks together. Then
            `squares` has, for this rank's coordinates, the sum of sqrt(sum over ranks of weight * square, less the
            weight of all times the mean's square).
    """

    def __init__(self) -> None:
        self.is_open = False
        self.squares: list[Tensor] = []
        self.weights: tuple[float, float] | None = None

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Room for a buffer."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False) -> Any:
        """Scatters the mean of all inputs."""
        if self.is_open:
            if input_tensor.dtype not in _TYPES or op not in (dist.ReduceOp.AVG, dist.ReduceOp.SUM):
                raise ArgumentError(
                    "model",
                    "must average gradients in float32 or bfloat16, undivided, where their noise is measured",
                    got=f"{input_tensor.dtype} with {op}",
                    remedy="write `MixedPrecisionPolicy(reduce_dtype=torch.float32)`, and set no divide factor",
                )
            if self.weights is not None:
                return self._scatter_squares(output_tensor, input_tensor, group, op, self.weights)
            self._tell(torch.linalg.vector_norm(input_tensor, dtype=torch.float32).double().square())
        return _reduce_scatter(output_tensor, input_tensor, group=group, op=op, async_op=async_op)

    def _tell(self, square: Tensor) -> None:
        if square.is_cuda:
            square.record_stream(torch.cuda.default_stream(square.device))
        self.squares.append(square)

    def _scatter_squares(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, weights: tuple[float, float]
    ) -> Any:
        weight, all_weights = weights
        squares = input_tensor.float().square().mul_(weight) if weight else torch.zeros_like(input_tensor).float()
        work = _reduce_scatter(output_tensor, input_tensor, group=group, op=op, async_op=False)
        spread = torch.empty_like(output_tensor, dtype=torch.float32)
        _reduce_scatter(spread, squares, group=group, op=dist.ReduceOp.SUM, async_op=False)
        mean = output_tensor.float() / (dist.get_world_size(group) if op == dist.ReduceOp.SUM else 1)
        spread -= mean.square_() * all_weights
        self._tell(spread.clamp_(min=0).sqrt_().sum(dtype=torch.float64))
        return work


def own_norms(model: torch.nn.Module) -> list[OwnNorm]:
    """Puts an `OwnNorm` into each module of a model that `fully_shard` was called on; they stay.

    Raises:
        ValueError: if torch offers no way, a module has a reduce-scatter of another make, or several groups of
            parameters; or parameters lie over a mesh of several dimensions.
    """
    sharded: list[Any] = [each for each in model.modules() if hasattr(each, "set_requires_gradient_sync")]
    remedy = "measure under DistributedDataParallel, or leave the tap out"
    for module in sharded:
        if not hasattr(module, "set_custom_reduce_scatter"):
            raise ArgumentError("model", "must be sharded by `fully_shard`, of a torch that lets others scatter",
                                got=f"a {type(module).__name__} of torch {torch.__version__}",
                                remedy=remedy)  # fmt: skip
        state = module._get_fsdp_state()  # noqa: SLF001 - torch has no public way
        groups = getattr(state, "_fsdp_param_groups", None)  # before torch 2.13 one at most
        groups = [getattr(state, "_fsdp_param_group", None)] if groups is None else groups
        held = [getattr(each, "_reduce_scatter_comm", None) for each in groups if each is not None]
        if len(held) > 1 or not all(_is_own(each) for each in held):
            raise ArgumentError("model", "must scatter the gradients of each module at once, as torch does",
                                got=f"a {type(module).__name__} that does it otherwise", remedy=remedy)  # fmt: skip
    meshes = {each.device_mesh for each in model.parameters() if hasattr(each, "device_mesh")}
    if len(meshes) != 1 or next(iter(meshes)).ndim != 1:
        raise ArgumentError("model", "must be sharded over one mesh of one dimension",
                            got=f"{len(meshes)} meshes", remedy=remedy)  # fmt: skip
    found = []
    for module in sharded:
        found.append(OwnNorm())
        module.set_custom_reduce_scatter(found[-1])
    return found


def _is_own(held: Any) -> bool:
    """Whether a reduce-scatter is torch's, or one that was put here before."""
    return held is None or isinstance(held, OwnNorm) or type(held).__name__ == "DefaultReduceScatter"
