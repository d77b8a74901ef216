"""Batch norm without running averages: evaluation takes the statistics of the last batch, or of a pass over data.

With very large batches running averages lag: they are of few updates, between which the weights change much. Here a
layer keeps mean and variance of the batch that was trained on last, over its micro-batches and ranks, and forgets the
batches before. Each pass sets the statistics of evaluation from what this rank has of the batch, so that a state dict
and a copy have them at any time; `LastBatch.settle` puts the ranks' together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from adabatch import _checks, _devices, _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.norm._exchange import exchanged, layers_of, like, remedy_for
from adabatch.types import DrivenLoader


@dataclass
class Watch:
    """What the layers of a model share.

    Attributes:
        trained: whether there was a pass in training since ranks put their statistics together.
        off: whether passes through the model are of no concern, since others stand in for the layers.
    """

    trained: bool = False
    off: bool = False


class LastBatchNorm(_BatchNorm):
    """The base of the layers for 1, 2 and 3 dimensions; `last_batch` makes them.

    Attributes:
        gathers: whether the coming passes are of the batch before; else each is a batch.
        watch: shared by the layers of a model.
        batch_so_far: of this rank's values in it, for each channel: their number, their mean and the sum of their
            squared deviations from that; None without any.
    """

    gathers: bool
    watch: Watch
    batch_so_far: tuple[int, Tensor, Tensor] | None

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
        mean, squares, total = _wide(mean), _wide(variance) * (count - 1), count
        if self.gathers and self.batch_so_far is not None:
            seen, before, squares_before = self.batch_so_far
            off, total = mean - before, seen + count
            squares = squares_before + squares + off * off * (seen * count / total)
            mean = before + off * (count / total)
        self.batch_so_far = total, mean, squares
        self.evaluates_by(mean, squares / total)

    def forget(self) -> None:
        """Forgets the batch so far; the statistics of evaluation stay."""
        self.batch_so_far = None

    def first_sums(self) -> Tensor:
        """The count of values and their sums, `[1 + channels]`, which add up over ranks."""
        assert self.running_mean is not None
        if self.batch_so_far is None:
            return _wide(self.running_mean.new_zeros(1 + len(self.running_mean)))
        count, mean, _ = self.batch_so_far
        return torch.cat([mean.new_tensor([count]), count * mean])

    def second_sums(self, mean: Tensor) -> Tensor:
        """The sums of squared deviations from the mean over ranks, `[channels]`, which add up too."""
        if self.batch_so_far is None:
            return torch.zeros_like(mean)
        count, own, squares = self.batch_so_far
        off = own - mean
        return squares + count * off * off

    def evaluates_by(self, mean: Tensor, variance: Tensor) -> None:
        """Sets the statistics of evaluation."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance)
        self.num_batches_tracked.fill_(1)  # that is all they are of


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
    LastBatchNorm1d: LastBatchNorm1d,
    LastBatchNorm2d: LastBatchNorm2d,
    LastBatchNorm3d: LastBatchNorm3d,
}


class LastBatch:
    """Batch norm of the last batch in a model; made by `last_batch`. As a context manager it ends with the context.

    Attributes:
        layers: the new layers.
    """

    def __init__(self, model: nn.Module, group: Any, *, watches: bool = True) -> None:
        self._model, self._group, self._watch = model, group, Watch()
        self._before = [layer for _, layer in _checked(model, again=not watches)]
        more = {"gathers": False, "batch_so_far": None, "watch": self._watch}
        new = [like(layer, _KINDS[type(layer)], **more) for layer in self._before]
        self.layers: list[LastBatchNorm] = new
        exchanged(model, {id(old): layer for old, layer in zip(self._before, new, strict=True)})
        self._hooks: list[RemovableHandle] = []
        if watches:
            self._hooks = [
                *(layer.register_load_state_dict_post_hook(_forget) for layer in new),  # type: ignore[no-untyped-call]
                model.register_forward_pre_hook(self._look),
                model.register_state_dict_pre_hook(self._look_at_save),  # type: ignore[no-untyped-call]
            ]
        self._closed = False

    @property
    def _pending(self) -> bool:
        """Whether ranks have statistics to put together."""
        return self._watch.trained and _distributed.rank_and_world(self._group)[1] > 1

    def _look(self, model: nn.Module, _: Any) -> None:
        """Before each pass through the model: notes a training pass, and settles before the first evaluation."""
        if self._watch.off:
            return
        if model.training:
            self._watch.trained = True
            return
        if self._pending:
            self.settle()
        if not any(layer.num_batches_tracked for layer in self.layers):
            remedy = "train a batch first, or use `norm.recompute(model, loader)`"
            raise UsageError("last_batch", "needs a batch before the first evaluation", got="none", remedy=remedy)

    def _look_at_save(self, *_: Any) -> None:
        """Before a state dict is taken; perhaps not on all ranks, so they cannot settle here."""
        if self._pending:
            warnings.warn(
                "the state dict has batch norm's statistics of this rank's part of the last batch; call `settle()` of "
                "the handle that `norm.last_batch` returned on all ranks first",
                UserWarning,
                stacklevel=3,
            )

    @torch.no_grad()
    def settle(self) -> None:
        """Sets the statistics of evaluation to those of the last batch on all ranks; each of them must call it.

        The first evaluation after training does so itself, and so does `close`. On several ranks call it before you
        save the model. On one process they are always set.
        """
        self._watch.trained = False
        if _distributed.rank_and_world(self._group)[1] == 1:
            return
        sums = _summed([layer.first_sums() for layer in self.layers], self._group)
        means = [each[1:] / each[0] for each in sums]
        squares = _summed(
            [layer.second_sums(mean) for layer, mean in zip(self.layers, means, strict=True)], self._group
        )
        for layer, first, mean, second in zip(self.layers, sums, means, squares, strict=True):
            if first[0] > 0:  # else no rank passed it
                layer.evaluates_by(mean, second / first[0])

    def close(self) -> None:
        """Puts the former layers back, with the statistics of the last batch; all ranks must call it.

        A second call does nothing.
        """
        if self._pending and not self._closed:
            self.settle()
        self._put_back()

    def _put_back(self) -> None:
        if self._closed:
            return
        self._closed = True
        for hook in self._hooks:
            hook.remove()
        for before, layer in zip(self._before, self.layers, strict=True):
            before.training = layer.training
        exchanged(self._model, {id(layer): old for layer, old in zip(self.layers, self._before, strict=True)})

    def __enter__(self) -> LastBatch:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self.close()
        else:
            self._put_back()


def last_batch(model: nn.Module, *, group: Any = None) -> LastBatch:
    """Gives the batch norm layers of `model` no running averages: evaluation takes the statistics of the last batch.

    In training each micro-batch on a rank is normalised by its own statistics, as usual. Before an evaluation after
    training, mean and variance of the whole last batch are put together over micro-batches and ranks, by the law of
    total variance. In `accumulate(loader, model)` the micro-batches of a batch belong together; elsewhere each pass in
    training is a batch. A repeated sample, which keeps ranks in step, does not count.

    It acts at once. Parameters, buffers and hooks stay the same objects, and a state dict fits both ways; one that is
    loaded wins over the batch trained on before. Call it before the model is wrapped. Ranks sum up before the first
    evaluation after training, so all of them must evaluate: `if rank == 0: evaluate(model)` waits for the others until
    the process group's timeout. To evaluate on one rank, call `settle()` on all before.

    A copy in `torch.optim.swa_utils.AveragedModel` takes over the statistics at each `update_parameters`, as with
    ordinary batch norm: those of the model's own weights, on several ranks of this rank's part of the batch.
    `recompute(average.module, loader)` gives it its own.

    Args:
        model: its layers `BatchNorm1d`, `BatchNorm2d` and `BatchNorm3d` are exchanged.
        group: the process group over which batches are shared; None for the world.

    Returns:
        A handle: `settle()` puts the ranks' statistics together now, for example before the model is saved; `close()`
        puts the former layers back, and so does the end of a `with` block.

    Raises:
        ValueError: if there is no batch norm layer in `model`, one keeps no statistics, or it is the second call.
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
        model: with layers `BatchNorm1d`, `BatchNorm2d` and `BatchNorm3d`, or those of `last_batch`.
        loader: gives batches. A pass over an `ab.DataLoader` counts as an epoch of it, unless a `BatchSizeScheduler`
            says what is trained. Shares of a batch over ranks may be uneven.
        samples: samples after which it ends, on this rank; None for all.
        forward: passes a batch of the loader through the model; None: `model(batch[0])`, or `model(batch)` of a tensor.
            The samples of a batch are counted along its first tensor.
        group: the process group whose ranks put their statistics together; None for the world.

    Returns:
        Samples that this rank passed.

    Raises:
        ValueError: if no batch has two samples or more, there is no batch norm layer, or `samples` is below 1.
        TypeError: if a layer is of another kind, or a batch has no tensor, or none to pass without `forward`.

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
    mine = [module for module in modes if isinstance(module, LastBatchNorm)]
    passed = 0
    try:
        with LastBatch(model, group, watches=False) as handle:
            for layer in mine:
                layer.watch.off = True
            model.eval()
            for layer in handle.layers:
                layer.training = layer.gathers = True
            for batch in _batches(loader):
                count = _samples(batch)
                if count == 1:
                    continue
                model(_inputs(batch)) if forward is None else forward(batch)
                passed += count
                if samples is not None and passed >= samples:
                    break
            if not any(_summed([layer.first_sums()[:1] for layer in handle.layers], group)):
                raise ArgumentError("loader", "must give a batch of two samples or more", got="none")
            handle.settle()
            for layer in mine:  # what they saw before counts no more
                layer.forget()
    finally:
        for layer in mine:
            layer.watch.off = False
        for module, training in modes.items():
            module.training = training
    return passed


def _batches(loader: Iterable[Any]) -> Iterable[Any]:
    """The batches of a loader; where ranks share them, this rank's samples, without those repeated to keep in step."""
    if isinstance(loader, DrivenLoader) and loader.sharing()[2] > 1:
        return (batch for batch, part in loader.parts() if part.size)
    return loader


def _inputs(batch: Any) -> Any:
    """What goes through a model that is given no `forward`."""
    if isinstance(batch, Tensor):
        return batch
    if not isinstance(batch, list | tuple):
        remedy = "pass `forward`, for example `lambda batch: model(batch['x'])`"
        raise ArgumentTypeError("loader", "must give tensors or tuples", got=type(batch).__name__, remedy=remedy)
    return batch[0]


def _samples(batch: Any) -> int:
    """The samples of a batch of any kind, along its first tensor."""
    for leaf in pytree.tree_leaves(dict(batch) if isinstance(batch, Mapping) else batch):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    got = f"{type(batch).__name__} without any"
    raise ArgumentTypeError("loader", "must give batches with tensors", got=got, remedy="add one, as long as the batch")


def _forget(layer: nn.Module, _: Any) -> None:
    """After a state dict was loaded: its statistics are not those of a batch trained on before."""
    assert isinstance(layer, LastBatchNorm)
    layer.forget()


def _checked(model: nn.Module, *, again: bool) -> list[tuple[str, _BatchNorm]]:
    """The batch norm layers of `model` by name; raises unless all can be exchanged, `again` if they were before."""
    layers = layers_of(model)
    if isinstance(model, _BatchNorm):
        raise ArgumentTypeError("model", "must be a network", got="a batch norm layer", remedy="wrap it in a module")
    for name, layer in layers:
        if isinstance(layer, LastBatchNorm) and not again:
            raise ArgumentError(
                "model",
                "must not have batch norm of the last batch already",
                got=f"a layer with it: {name}",
                remedy="go on with the handle of the first call, or `close()` it before",
            )
        if type(layer) not in _KINDS:
            raise ArgumentTypeError(
                "model",
                "must have batch norm layers of the kinds BatchNorm1d, 2d and 3d only",
                got=f"{type(layer).__name__}: {name}",
                remedy=remedy_for(layer),
            )
        if layer.running_mean is None:
            rule = "must have batch norm layers that keep statistics"
            raise ArgumentError("model", rule, got=f"`track_running_stats=False`: {name}")
    return layers


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in float64, where the device has it."""
    return tensor.to(_devices.longest_float(tensor.device))


def _summed(tensors: list[Tensor], group: Any) -> list[Tensor]:
    """The sums over ranks of tensors of one dimension, by one collective."""
    if _distributed.rank_and_world(group)[1] == 1:
        return tensors
    flat = _distributed.summed(torch.cat(tensors), group)
    return list(torch.split(flat, [len(each) for each in tensors]))
