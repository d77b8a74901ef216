"""Ghost batch norm: batch statistics over sub-batches of a fixed size, whatever the batch size is.

Batch norm's noise falls as the batch grows, so a growing batch changes the regularisation too. Ghost batch norm takes
the statistics of sub-batches ("ghost batches") of `size` samples, which keeps that noise. For a batch of `B` samples:

- There are `K = B // size` sub-batches, at least one. If `size` divides `B`, sub-batch `k` holds the samples
  `k, k + K, k + 2K, ...`, so that the sub-batches of `[B, C, H, W]` are the channels of a view `[size, K * C, H, W]`
  and one ordinary call normalises all of them. If it does not divide, the last sub-batch takes the `B % size` samples
  left over, so that none is smaller than `size`: the first `(K - 1) * size` samples are cut as above into `K - 1`, the
  last `size + B % size` are one, and there is a second call. Below `2 * size` samples it is ordinary batch norm.
- In the `channels_last` memory format no view makes sub-batches channels. On a CPU one call takes the statistics and
  another does the element-wise work; elsewhere the batch is copied twice. Where torch compiles the model, in any memory
  format, the compiler gets elementary operations, which it fuses; transforms of `torch.func` get them too.
- Running statistics are those of an ordinary layer that sees the sub-batches one after the other, in closed form:
  `(1 - m)^K old + sum_k m (1 - m)^(K - 1 - k) new_k` with momentum `m`. `num_batches_tracked` counts sub-batches.
- In evaluation it is ordinary batch norm, with the running statistics or, where a layer keeps none, the batch's.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active
from torch.nn.modules.batchnorm import _BatchNorm

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.norm._channels_last import GhostInChannelsLast
from adabatch.norm._exchange import Module, exchanged, layers_of, like


class GhostBatchNorm(_BatchNorm):
    """The base of the layers for 1, 2 and 3 dimensions; `ghost` makes them.

    Attributes:
        size: samples in a sub-batch; may be set at any time.
    """

    size: int

    def forward(self, input: Tensor) -> Tensor:
        """Normalises `[batch, channels, ...]`, in training by the statistics of sub-batches."""
        batch = len(input)
        count, rest = batch // self.size, batch % self.size
        if not self.training or count < 2:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        counts = [count - 1, 1] if rest else [count]
        sizes = [each * self.size for each in counts[:-1]]
        # A split into one would copy the gradient.
        pieces = input.split_with_sizes([*sizes, batch - sum(sizes)]) if sizes else [input]
        parts = [self._normalise(piece, each) for piece, each in zip(pieces, counts, strict=True)]
        output, means, variances = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        if self.track_running_stats:
            self._update(means, variances)
        return output

    def _normalise(self, input: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """One call for `count` sub-batches: output, means and unbiased variances, both `[count, channels]`."""
        batch, channels, *rest = input.shape
        # Statistics have the precision of ordinary batch norm's.
        kind = next(tensor for tensor in (self.running_mean, self.weight, input) if tensor is not None)
        memory_format = _memory_format(input)
        last_on_cpu = memory_format != torch.contiguous_format and input.device.type == "cpu"
        in_parts = torch.compiler.is_compiling() or (last_on_cpu and _are_functorch_transforms_active())
        numbers = input.numel() // (count * channels)
        fits = self.weight is None or len(self.weight) == channels
        if (in_parts or last_on_cpu) and fits and numbers > 1:  # else torch's call raises its own error
            normalised = _in_parts if in_parts else GhostInChannelsLast.apply
            output, means, variances = normalised(input, self.weight, self.bias, count, self.eps)
            variances = variances * (numbers / (numbers - 1))
            return output, means.view(count, channels).to(kind.dtype), variances.view(count, channels).to(kind.dtype)
        wide = input.reshape(batch // count, count * channels, *rest).contiguous()
        statistics = torch.zeros(2, count * channels, dtype=kind.dtype, device=input.device)
        output = nn.functional.batch_norm(
            wide,
            statistics[0],
            statistics[1],
            _repeated(self.weight, count),
            _repeated(self.bias, count),
            training=True,
            momentum=1.0,
            eps=self.eps,
        ).view(input.shape)
        means, variances = statistics.view(2, count, channels).unbind()
        return output.contiguous(memory_format=memory_format), means, variances

    @torch.no_grad()
    def _update(self, means: Tensor, variances: Tensor) -> None:
        """Running statistics after the sub-batches, as if they had come one after the other."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        count = len(means)
        keep: Tensor | float
        if self.momentum is None:  # the plain average of all sub-batches so far
            before = self.num_batches_tracked
            share = 1.0 / (before + count).to(means.dtype)
            keep, weights, factor = before * share, share.expand(count), 1.0
        else:
            keep, factor = (1 - self.momentum) ** count, self.momentum
            base = 1 - self.momentum
            weights = torch.logspace(count - 1, 0, count, base=base, dtype=means.dtype, device=means.device)
        weights = weights[:, None]
        self.running_mean.mul_(keep).add_((weights * means).sum(0), alpha=factor)
        self.running_var.mul_(keep).add_((weights * variances).sum(0), alpha=factor)
        self.num_batches_tracked.add_(count)

    def extra_repr(self) -> str:
        """The settings as torch prints them, and the size of a sub-batch."""
        return f"{super().extra_repr()}, size={self.size}"  # type: ignore[no-untyped-call]


class GhostBatchNorm1d(GhostBatchNorm, nn.BatchNorm1d):
    """Ghost batch norm for `[batch, channels]` and `[batch, channels, length]`."""


class GhostBatchNorm2d(GhostBatchNorm, nn.BatchNorm2d):
    """Ghost batch norm for `[batch, channels, height, width]`."""


class GhostBatchNorm3d(GhostBatchNorm, nn.BatchNorm3d):
    """Ghost batch norm for `[batch, channels, depth, height, width]`."""


_KINDS: Final[dict[type[_BatchNorm], type[GhostBatchNorm]]] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
    nn.BatchNorm3d: GhostBatchNorm3d,
}
_REMEDIES: Final[dict[type, str]] = {
    nn.SyncBatchNorm: "leave out `convert_sync_batchnorm`: sub-batches lie within a rank",
    nn.modules.lazy.LazyModuleMixin: "run one batch through the model first",
}


def ghost(model: Module, size: int = 128) -> Module:
    """Makes every batch norm layer take its statistics over sub-batches of `size` samples.

    Parameters, buffers and hooks stay the same objects, so an optimizer made before still holds them, and a state dict
    fits both ways. Layers are exchanged in `model` itself. Where a batch is trained in micro-batches, a sub-batch lies
    within one; on several ranks within one rank, unless `sync` follows. The output keeps the memory format.

    Args:
        model: its layers `BatchNorm1d`, `BatchNorm2d` and `BatchNorm3d` are exchanged.
        size: samples in a sub-batch, at least 1, with BatchNorm1d 2. The module says how it cuts other batches than its
            multiples.

    Returns:
        `model`; or the new layer if `model` is a batch norm layer itself.

    Raises:
        ValueError: if there is no batch norm layer in `model`, ghost batch norm is there already, or `size` is too
            small.
        TypeError: if a batch norm layer is of another kind, or `size` is no whole number.

    Example:
        >>> ghost(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), size=32)[1].size
        32

    Source: Hoffer, Hubara and Soudry, 2017, 1705.08741, section 4.
    Departures: running statistics in closed form instead of one by one; for speed a sub-batch is every `K`-th sample
    instead of `size` in a row, which makes no difference to shuffled data.
    """
    _checks.whole("size", size)
    layers = layers_of(model)
    for name, module in layers:
        _check_kind(name, module)
        if size == 1 and isinstance(module, nn.BatchNorm1d):
            raise ArgumentError(
                "size",
                "must be at least 2 for BatchNorm1d, which has one number per sample and channel",
                got=f"1 for the layer {name}",
                remedy="take 128",
            )
    return exchanged(model, {id(module): like(module, _KINDS[type(module)], size=size) for _, module in layers})


def _check_kind(name: str, module: _BatchNorm) -> None:
    """Raises unless the layer is one of torch's three, not yet exchanged."""
    if isinstance(module, GhostBatchNorm):
        raise ArgumentError(
            "model",
            "must not have ghost batch norm already",
            got=f"a layer with it: {name}",
            remedy="to change the size set the layers' `size`",
        )
    if type(module) in _KINDS:
        return
    remedy = next((text for kind, text in _REMEDIES.items() if isinstance(module, kind)), "exchange it yourself")
    raise ArgumentTypeError(
        "model",
        "must have batch norm layers of the kinds BatchNorm1d, 2d and 3d only",
        got=f"{type(module).__name__}: {name}",
        remedy=remedy,
    )


def _in_parts(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, count: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, means and biased variances by elementary operations, which the compiler fuses."""
    x = input.view(-1, count, *input.shape[1:]).to(torch.promote_types(input.dtype, torch.float32))
    variances, means = torch.var_mean(x, (0, *range(3, x.ndim)), correction=0, keepdim=True)
    z = (x - means) * (variances + eps).rsqrt()
    each_channel = (-1, *(1 for _ in input.shape[2:]))
    z = z if weight is None else z * weight.view(each_channel)
    z = z if bias is None else z + bias.view(each_channel)
    return z.flatten(0, 1).to(input.dtype), means.detach(), variances.detach()


def _repeated(parameter: Tensor | None, count: int) -> Tensor | None:
    """The parameter for the channels of `count` sub-batches."""
    return parameter if parameter is None or count == 1 else parameter.repeat(count)


def _memory_format(input: Tensor) -> torch.memory_format:
    """The memory format of `input`."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if input.ndim in formats and not input.is_contiguous():
        wanted: torch.memory_format = formats[input.ndim]
        if input.is_contiguous(memory_format=wanted):
            return wanted
    return torch.contiguous_format
