"""Batch norm without running averages: evaluation takes the statistics of the last batch, or of a pass over data.

With very large batches running averages lag: they are of few updates, between which the weights change much. Here a
layer keeps mean and variance of the batch that was trained on last, over its micro-batches and ranks, and forgets the
batches before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adabatch import _checks, _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.norm._exchange import exchanged, layers_of, like


class LastBatchNorm(_BatchNorm):
    """The base of the layers for 1, 2 and 3 dimensions; `last_batch` makes them.

    Attributes:
        gathers: whether the coming passes are of the batch before; else each is a batch.
    """

    gathers: bool
    _seen: int  # values of each channel in the batch so far
    _mean: Tensor  # of these
    _squares: Tensor  # the sum of their squared deviations from the mean

    def forward(self, input: Tensor) -> Tensor:
        """Normalises `[batch, channels, ...]`: in training by its own statistics, else by those of the last batch."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        assert self.running_mean is not None
        mean, variance = self.running_mean.new_zeros(2, len(self.running_mean)).unbind()
        output = nn.functional.batch_norm(
            input, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps
        )
        self._add(mean, variance, input.numel() // len(mean))
        return output

    @torch.no_grad()
    def _add(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Adds `count` values of each channel with their mean and unbiased variance."""
        mean, squares = _wide(mean), _wide(variance) * (count - 1)
        if not self.gathers or not self._seen:
            self._seen, self._mean, self._squares = count, mean, squares
            return
        off, total = mean - self._mean, self._seen + count
        self._squares = self._squares + squares + off * off * (self._seen * count / total)
        self._mean = self._mean + off * (count / total)
        self._seen = total

    def forget(self) -> None:
        """Forgets the batch so far."""
        self._seen = 0

    def first_sums(self) -> Tensor:
        """The count of values and their sums, `[1 + channels]`, which add up over ranks."""
        assert self.running_mean is not None
        if not self._seen:
            return _wide(self.running_mean.new_zeros(1 + len(self.running_mean)))
        return torch.cat([self._mean.new_tensor([self._seen]), self._seen * self._mean])

    def second_sums(self, mean: Tensor) -> Tensor:
        """The sums of squared deviations from the mean over ranks, `[channels]`, which add up too."""
        if not self._seen:
            return torch.zeros_like(mean)
        off = self._mean - mean
        return self._squares + self._seen * off * off

    def settle(self, mean: Tensor, variance: Tensor) -> None:
        """Sets the statistics of evaluation."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance)
        self.num_batches_tracked.fill_(1)  # that is all they are of
        self.forget()


class LastBatchNorm1d(LastBatchNorm, nn.BatchNorm1d):
    """Batch norm of the last batch for `[batch, channels]` and `[batch, channels, length]`."""


class LastBatchNorm2d(LastBatchNorm, nn.BatchNorm2d):
    """Batch norm of the last batch for `[batch, channels, height, width]`."""


class LastBatchNorm3d(LastBatchNorm, nn.BatchNorm3d):
    """Batch norm of the last batch for `[batch, channels, depth, height, width]`."""


_KINDS: Final[dict[type[_BatchNorm], type[LastBatchNorm]]] = {
    nn.BatchNorm1d: LastBatchNorm1d,
    nn.BatchNorm2d: LastBatchNorm2d,
    nn.BatchNorm3d: LastBatchNorm3d,
}


class LastBatch:
    """Batch norm of the last batch in a model; made by `last_batch`. As a context manager it ends with the context.

    Attributes:
        layers: the new layers.
    """

    def __init__(self, model: nn.Module, group: Any, *, watches: bool = True) -> None:
        self._model, self._group = model, group
        self._before = [layer for _, layer in _checked(model)]
        new = [like(layer, _KINDS[type(layer)], gathers=False, _seen=0) for layer in self._before]
        self.layers: list[LastBatchNorm] = new
        exchanged(model, {id(old): layer for old, layer in zip(self._before, new, strict=True)})
        self._trained = False  # since the statistics of evaluation were set
        self._hook = model.register_forward_pre_hook(self._look) if watches else None

    def _look(self, model: nn.Module, _: Any) -> None:
        """Before each pass through the model: notes a training pass, and settles before the first evaluation."""
        if model.training:
            self._trained = True
        elif self._trained:
            self.settle()
        elif not all(layer.num_batches_tracked for layer in self.layers):
            remedy = "train a batch first, or use `norm.recompute(model, loader)`"
            raise UsageError("last_batch", "needs a batch before the first evaluation", got="none", remedy=remedy)

    @torch.no_grad()
    def settle(self) -> None:
        """Sets the statistics of evaluation to those of the last batch; all ranks must call it, as they must evaluate.

        The first evaluation after training does so itself. Call it before you save the model.
        """
        self._trained = False
        sums = _summed([layer.first_sums() for layer in self.layers], self._group)
        means = [each[1:] / each[0] for each in sums]
        squares = _summed(
            [layer.second_sums(mean) for layer, mean in zip(self.layers, means, strict=True)], self._group
        )
        for layer, first, mean, second in zip(self.layers, sums, means, squares, strict=True):
            if first[0] > 0:  # else no rank passed it
                layer.settle(mean, second / first[0])

    def close(self) -> None:
        """Puts the former layers back; they keep the statistics as last set."""
        if self._hook is not None:
            self._hook.remove()
        for before, layer in zip(self._before, self.layers, strict=True):
            before.training = layer.training
        exchanged(self._model, {id(layer): old for layer, old in zip(self.layers, self._before, strict=True)})

    def __enter__(self) -> LastBatch:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None and self._trained:
            self.settle()
        self.close()


def last_batch(model: nn.Module, *, group: Any = None) -> LastBatch:
    """Gives the batch norm layers of `model` no running averages: evaluation takes the statistics of the last batch.

    In training each micro-batch on a rank is normalised by its own statistics, as usual. Before an evaluation after
    training, mean and variance of the whole last batch are put together over micro-batches and ranks, by the law of
    total variance. In `accumulate(loader, model)` the micro-batches of a batch belong together; elsewhere each pass in
    training is a batch. A repeated sample, which keeps ranks in step, does not count.

    It acts at once. Parameters, buffers and hooks stay the same objects, and a state dict fits both ways. Call it
    before the model is wrapped. Ranks sum up before the first evaluation after training, so all of them must evaluate.

    Args:
        model: its layers `BatchNorm1d`, `BatchNorm2d` and `BatchNorm3d` are exchanged.
        group: the process group over which batches are shared; None for the world.

    Returns:
        A handle: `settle()` sets the statistics now, for example before the model is saved; `close()` puts the former
        layers back, and so does the end of a `with` block.

    Raises:
        ValueError: if there is no batch norm layer in `model`, or one keeps no statistics.
        TypeError: if the model is a batch norm layer itself, or a layer is of another kind.
        RuntimeError: at an evaluation before any training, if the layers have no statistics.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False))
        >>> handle = last_batch(model)
        >>> outputs = model(torch.tensor([[1.0], [3.0]])), model(torch.tensor([[2.0], [6.0]]))
        >>> handle.settle()
        >>> torch.allclose(model[1].running_mean, 4 * model[0].weight[0])
        True

    Source: Akiba, Suzuki, Fukuda 2017, 1711.04325 (batch normalization without moving averages).

    Departures: the paper averages over workers; whether the variance is that of the whole batch is not said. Here it
    is, the biased one, by which training normalises.
    """
    return LastBatch(model, group)


@torch.no_grad()
def recompute(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    samples: int | None = None,
    forward: Callable[[Any], Any] | None = None,
    group: Any = None,
) -> int:
    """Sets the statistics of batch norm to those of data passed through the present weights.

    The other remedy for running averages that lag. Layers normalise each batch by its own statistics; mean and variance
    over all batches and ranks follow by the law of total variance. Other layers act as in evaluation. A batch of one
    sample is left out, since it has no spread. Nothing is trained.

    Args:
        model: with layers `BatchNorm1d`, `BatchNorm2d` and `BatchNorm3d`.
        loader: gives batches; a pass over an `ab.DataLoader` in which nothing is trained does not move it.
        samples: samples after which it ends, on this rank; None for all.
        forward: passes a batch of the loader through the model; None: `model(batch[0])`, or `model(batch)` of a tensor.
        group: the process group whose ranks put their statistics together; None for the world.

    Returns:
        Samples that this rank passed.

    Raises:
        ValueError: if no batch has two samples or more, there is no batch norm layer, or `samples` is below 1.
        TypeError: if a layer is of another kind.

    Example:
        >>> model = nn.BatchNorm1d(1)
        >>> recompute(nn.Sequential(model), [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
        4
        >>> model.running_mean.item(), model.running_var.item()
        (4.0, 5.0)

    Source: Wu and Johnson 2021, 2105.07576 (precise batch norm).
    """
    if samples is not None:
        _checks.whole("samples", samples)
    modes = {module: module.training for module in model.modules()}
    passed = 0
    try:
        with LastBatch(model, group, watches=False) as handle:
            model.eval()
            for layer in handle.layers:
                layer.training = layer.gathers = True
            for batch in loader:
                inputs = batch if isinstance(batch, Tensor) else batch[0]
                if len(inputs) == 1:
                    continue
                model(inputs) if forward is None else forward(batch)
                passed += len(inputs)
                if samples is not None and passed >= samples:
                    break
            if not passed:
                raise ArgumentError("loader", "must give a batch of two samples or more", got="none")
            handle.settle()
    finally:
        for module, training in modes.items():
            module.training = training
    return passed


def _checked(model: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """The batch norm layers of `model` by name; raises unless all can be exchanged."""
    layers = layers_of(model)
    if isinstance(model, _BatchNorm):
        raise ArgumentTypeError("model", "must be a network", got="a batch norm layer", remedy="wrap it in a module")
    for name, layer in layers:
        if type(layer) not in _KINDS:
            raise ArgumentTypeError(
                "model",
                "must have batch norm layers of the kinds BatchNorm1d, 2d and 3d only",
                got=f"{type(layer).__name__}: {name}",
                remedy="leave out `norm.ghost` and `norm.sync`, or exchange it yourself",
            )
        if layer.running_mean is None:
            rule = "must have batch norm layers that keep statistics"
            raise ArgumentError("model", rule, got=f"`track_running_stats=False`: {name}")
    return layers


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in float64, where the device has it."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def _summed(tensors: list[Tensor], group: Any) -> list[Tensor]:
    """The sums over ranks of tensors of one dimension, by one collective."""
    if _distributed.rank_and_world(group)[1] == 1:
        return tensors
    flat = _distributed.summed(torch.cat(tensors), group)
    return list(torch.split(flat, [len(each) for each in tensors]))
