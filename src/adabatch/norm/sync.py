"""Batch norm over ranks: the statistics of a pass are those of all its samples, on whatever rank they are.

torch's SyncBatchNorm works on accelerators only, counts the repeated sample of a rank without any, and knows no ghost
batches. This one works on any device. For the samples that the ranks pass through a layer together:

- Mean and biased variance are those of one process: two sums over ranks in the forward pass, two in the backward pass.
  They are stable wherever the mean lies, since the second sum is of squared deviations from the first's result.
- With a `size` they are those of sub-batches, cut as `norm.ghost` cuts the batch on one process.
- Running statistics are those of one process, the same on every rank.
- A rank's repeated sample of weight 0, which keeps ranks in step, is normalised, but does not count.

Which samples of the batch a rank has, `accumulate` tells the layers. Without it all samples count, and sub-batches take
the samples of rank 0 first, then those of rank 1, and so on; so they do where a layer gets more samples than the batch
has on the rank, such as two views of each.

`torch.compile` leaves these layers as they are and compiles the network around them.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adabatch import _distributed
from adabatch._errors import ArgumentTypeError
from adabatch.norm._exchange import Module, exchanged, layers_of, like, remedy_for
from adabatch.norm.ghost import GhostBatchNorm, GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d


class Share(NamedTuple):
    """The samples of one rank among those that all ranks pass through the network together.

    Attributes:
        size: samples that count; 0 for the repeated sample of a rank without any.
        total: samples over all ranks.
        first: position of this rank's first sample among them.
        step: from each of its samples to the next.
    """

    size: int
    total: int
    first: int
    step: int


class SyncBatchNorm(GhostBatchNorm):
    """The base of the layers for 1, 2 and 3 dimensions; `sync` makes them.

    Attributes:
        size: samples in a sub-batch; None for all of a pass.
        group: the process group of the ranks; None for the world.
        share: this rank's samples in the coming pass; None if they are not known.
    """

    size: int | None  # type: ignore[assignment]
    group: Any
    share: Share | None

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # else each share would compile it, and what is around, anew
    def forward(self, input: Tensor) -> Tensor:
        """Normalises `[batch, channels, ...]`, in training by the statistics of all ranks' samples."""
        if not self.training or _distributed.rank_and_world(self.group)[1] == 1:
            return _BatchNorm.forward(self, input) if self.size is None else super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        own = 0 if self.share is not None and self.share.size == 0 else len(input)
        places, count = self._sub_batches(len(input), own, input.device)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        if input.ndim > 2:
            of_samples, within = torch.var_mean(x, tuple(range(2, input.ndim)), correction=0)[::-1]
        else:
            of_samples, within = x, torch.zeros_like(x)
        of_samples, within = of_samples[:own], within[:own]
        sums = self._sums(torch.cat([of_samples, torch.ones_like(of_samples[:, :1])], 1), places, count)
        means, samples = sums[:, :-1] / sums[:, -1:], sums[:, -1:].detach()
        off = of_samples - means[places]
        variances = self._sums(within + off * off, places, count) / samples
        if self.track_running_stats:
            values = samples * math.prod(input.shape[2:])
            self._follow(means.detach(), variances.detach() * values / (values - 1).clamp(min=1))
        a = (variances + self.eps).rsqrt()
        a = a if self.weight is None else a * self.weight
        b = -means * a if self.bias is None else self.bias - means * a
        if own < len(input):
            places = places.new_zeros(len(input))
        one_each = (*input.shape[:2], *(1 for _ in input.shape[2:]))
        return torch.addcmul(b[places].view(one_each), x, a[places].view(one_each)).to(input.dtype)

    def _sub_batches(self, given: int, own: int, device: torch.device) -> tuple[Tensor, int]:
        """The sub-batch of each of this rank's samples, `[own]`, and the number of sub-batches over all ranks."""
        if self.size is None:
            return torch.zeros(own, dtype=torch.int64, device=device), 1
        share = self.share
        if share is None or given != max(share.size, 1):  # a network may make other samples of the batch's
            rank, world = _distributed.rank_and_world(self.group)
            mine = torch.tensor([own if each == rank else 0 for each in range(world)], device=device)
            sizes = _distributed.summed(mine, self.group).tolist()
            share = Share(own, sum(sizes), sum(sizes[:rank]), 1)
        positions = torch.arange(own, device=device) * share.step + share.first
        count, rest = max(share.total // self.size, 1), share.total % self.size
        strided = count - 1 if rest else count
        if count == 1:
            return torch.zeros_like(positions), 1
        return torch.where(positions < strided * self.size, positions % strided, count - 1), count

    def _sums(self, values: Tensor, places: Tensor, count: int) -> Tensor:
        """The sums of `[own, numbers]` over the samples of each sub-batch on all ranks, `[count, numbers]`."""
        mine = values.new_zeros(count, values.shape[1]).index_add(0, places, values)
        return _distributed.differentiable_sum(mine, self.group)

    def _follow(self, means: Tensor, variances: Tensor) -> None:
        """Updates running statistics by those of sub-batches."""
        assert self.running_mean is not None
        self._update(means.to(self.running_mean.dtype), variances.to(self.running_mean.dtype))


class SyncBatchNorm1d(SyncBatchNorm, nn.BatchNorm1d):
    """Batch norm over ranks for `[batch, channels]` and `[batch, channels, length]`."""


class SyncBatchNorm2d(SyncBatchNorm, nn.BatchNorm2d):
    """Batch norm over ranks for `[batch, channels, height, width]`."""


class SyncBatchNorm3d(SyncBatchNorm, nn.BatchNorm3d):
    """Batch norm over ranks for `[batch, channels, depth, height, width]`."""


_KINDS: Final[dict[type[_BatchNorm], type[SyncBatchNorm]]] = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
    nn.BatchNorm3d: SyncBatchNorm3d,
    GhostBatchNorm1d: SyncBatchNorm1d,
    GhostBatchNorm2d: SyncBatchNorm2d,
    GhostBatchNorm3d: SyncBatchNorm3d,
    SyncBatchNorm1d: SyncBatchNorm1d,  # a second call changes nothing but the group
    SyncBatchNorm2d: SyncBatchNorm2d,
    SyncBatchNorm3d: SyncBatchNorm3d,
}


def sync(model: Module, *, group: Any = None) -> Module:
    """Makes every batch norm layer take its statistics over the samples of all ranks, as on one process.

    Call it before the model is wrapped. Parameters, buffers and hooks stay the same objects, and a state dict fits both
    ways. Layers of `norm.ghost` keep their size: a sub-batch then has samples of several ranks. On one process, and in
    evaluation, nothing changes. Every rank must pass the same layers in the same order.

    Args:
        model: its layers `BatchNorm1d`, `BatchNorm2d` and `BatchNorm3d`, or those of `ghost`, are exchanged.
        group: the process group over which batches are shared, as the loader's; None for the world.

    Returns:
        `model`; or the new layer if `model` is a batch norm layer itself.

    Raises:
        ValueError: if there is no batch norm layer in `model`.
        TypeError: if a batch norm layer is of another kind.

    Example:
        >>> type(sync(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))[1]).__name__
        'SyncBatchNorm2d'

    Source: Peng et al., 2018, 1711.07240, section 3.2 (cross-GPU batch normalization).
    """
    layers = layers_of(model)
    for name, module in layers:
        if type(module) not in _KINDS:
            raise ArgumentTypeError(
                "model",
                "must have batch norm layers of the kinds BatchNorm1d, 2d and 3d, or of `norm.ghost`, only",
                got=f"{type(module).__name__}: {name}",
                remedy=remedy_for(module),
            )
    new = {}
    for _, module in layers:
        size = module.size if isinstance(module, GhostBatchNorm) else None
        new[id(module)] = like(module, _KINDS[type(module)], size=size, group=group, share=None)
    return exchanged(model, new)
