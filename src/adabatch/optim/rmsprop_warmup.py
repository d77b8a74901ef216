"""RMSprop that turns into momentum SGD during the first epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.optim._foreach import (
    ForeachOptimizer,
    Tensors,
    descend,
    fraction,
    momentum_step,
    pieces,
    with_decay,
)


class HasClock(Protocol):
    """A loader that knows where it stands in the data."""

    @property
    def clock(self) -> int:
        """Samples passed."""

    @property
    def dataset_size(self) -> int | None:
        """Samples in an epoch."""


def sgd_share(epoch: float, *, center: float = 10.0, period: float = 5.0) -> float:
    """The share of SGD in the step of `RMSpropWarmup` after so many epochs: 1/2 at `center`, 1 from `period / 2` later.

        exp(2 (epoch - center) / period) / 2    before the centre
        1/2 + (epoch - center) / period         then, up to 1

    Example:
        >>> [round(sgd_share(epoch), 4) for epoch in (0, 5, 10, 11.25, 12.5, 90)]
        [0.0092, 0.0677, 0.5, 0.75, 1.0, 1.0]
    """
    if epoch < center:
        return math.exp(2 * (epoch - center) / period) / 2
    return min(1.0, 0.5 + (epoch - center) / period) if period else 1.0


class RMSpropWarmup(ForeachOptimizer):
    """RMSprop at first, momentum SGD in the end, for very large batches, whose first updates SGD cannot take.

        m <- alpha m + (1 - alpha) g^2
        v <- momentum v + (a + r / (sqrt(m) + eps)) g,   r = (1 - a) rms_lr / lr
        theta <- theta - lr v

    The share a of SGD follows the epoch, see `sgd_share`. From the end of the transition on it is 1, and the step is
    that of `torch.optim.SGD` with momentum, bit for bit.

    Args:
        params: parameters or parameter groups, as torch takes them.
        lr: learning rate of SGD; a schedule may change it at any time.
        epochs: says how many epochs have passed, with their fraction: an `ab.DataLoader`, or a function without
            arguments that returns the number. Without a `BatchSizeScheduler`, which says when a batch is trained on, a
            loader counts the batch in hand as passed, and each pass over it as an epoch: evaluate with another one. A
            copy of the optimizer, also a pickled one, comes without the loader.
        momentum: of the velocity v, in [0, 1).
        alpha: decay of the mean square m, in [0, 1).
        eps: added to the root of m, above 0.
        rms_lr: learning rate of RMSprop while `lr` stays. The velocity is in units of 1 / lr, so where `lr` changes
            by a factor, the steps that it remembers, about 1 / (1 - momentum) of them, change with it, and growth
            coupled to the LR is felt within the transition; then the steps are those of `rms_lr` again.
        center: epochs until both have equal shares, at least 0.
        period: epochs of the transition, at least 0.
        weight_decay: added to the gradient as `weight_decay` times the parameter.
        capturable: the share of SGD is kept in a tensor, so that a step can be captured in a CUDA graph; call
            `read_epoch()` before each replay.

    The share in force is `param_groups[0]["sgd_share"]`, for logs.

    Attributes:
        epochs: see above; may be set at any time.

    Raises:
        ValueError: if a number is out of range.
        TypeError: if `epochs` cannot be called and is not a loader with a clock.
        RuntimeError: in a step of a copy whose loader is not set, or with a sparse or complex gradient.

    Source:
        Akiba, Suzuki, Fukuda 2017, arXiv 1711.04325 (RMSprop warm-up).

    Departures:
        With the slope printed there, 2 / period, the share would overshoot 1 and jump back. The text beside it says
        that it reaches 1 half a period after the centre. That is slope 1 / period, also smooth at the centre.
    """

    def __init__(
        self,
        params: Any,
        lr: Any,
        *,
        epochs: Callable[[], float] | HasClock,
        momentum: float = 0.9,
        alpha: float = 0.99,
        eps: float = 1e-8,
        rms_lr: float = 3e-4,
        center: float = 10.0,
        period: float = 5.0,
        weight_decay: float = 0.0,
        capturable: bool = False,
    ) -> None:
        self.epochs = epochs
        defaults = {
            "lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "rms_lr": rms_lr, "center": center,
            "period": period, "weight_decay": weight_decay, "capturable": capturable,
        }  # fmt: skip
        super().__init__(params, defaults)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """See `ForeachOptimizer.check_group`."""
        super().check_group(group)
        fraction("momentum", group["momentum"])
        fraction("alpha", group["alpha"])
        _checks.finite("eps", group["eps"], above=0)
        for name in ("rms_lr", "center", "period"):
            _checks.finite(name, group[name], minimum=0)

    @property
    def epochs(self) -> Any:
        """The loader, or the function, that says how many epochs have passed; None in a copy that lacks its loader."""
        return self._epochs

    @epochs.setter
    def epochs(self, epochs: Callable[[], float] | HasClock) -> None:
        self._epochs: Any = _checked(epochs)

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the loader would be one of its data, whose clock nobody moves.
        return {**super().__getstate__(), "_epochs": None if hasattr(self._epochs, "clock") else self._epochs}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """See `ForeachOptimizer.step`."""
        if not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
            self.read_epoch()
        return super().step(closure)

    def read_epoch(self) -> None:
        """Sets the share of SGD to that of the present epoch; `step` does so except while a graph is captured."""
        epoch = float(_checks.finite("epochs", self._epoch(), minimum=0))
        for group in self.param_groups:
            share = sgd_share(epoch, center=group["center"], period=group["period"])
            if not group["capturable"]:
                group["sgd_share"] = share
            elif isinstance(group.get("sgd_share"), Tensor):
                group["sgd_share"].fill_(share)
            else:
                first = group["params"][0]
                wide = torch.promote_types(first.dtype, torch.float32)
                group["sgd_share"] = torch.tensor(share, device=first.device, dtype=wide)

    def _epoch(self) -> Any:
        if self._epochs is None:
            rule, remedy = "needs its loader, which a copy comes without", "write `optimizer.epochs = loader`"
            raise UsageError("RMSpropWarmup", rule, remedy=remedy)
        if hasattr(self._epochs, "clock"):
            return self._epochs.clock / self._epochs.dataset_size
        return self._epochs()

    def update(self, group: Mapping[str, Any], tensors: Tensors) -> None:
        """See `ForeachOptimizer.update`."""
        moments = tensors.moments("momentum_buffer"), tensors.moments("square_avg")
        is_sgd = not group["capturable"] and group["sgd_share"] == 1
        for values, grads, velocities, squares in pieces(tensors.values, tensors.grads, *moments):
            decayed = with_decay(group, values, grads)
            if is_sgd:
                momentum_step(group, values, velocities, decayed)
            else:
                self._step(group, values, decayed, velocities, squares)

    def _step(
        self,
        group: Mapping[str, Any],
        values: list[Tensor],
        grads: list[Tensor],
        velocities: list[Tensor],
        squares: list[Tensor],
    ) -> None:
        share, lr = group["sgd_share"], group["lr"]
        torch._foreach_mul_(squares, group["alpha"])
        torch._foreach_addcmul_(squares, grads, grads, 1 - group["alpha"])
        scaled = torch._foreach_sqrt(squares)
        torch._foreach_add_(scaled, group["eps"])
        torch._foreach_mul_(velocities, group["momentum"])
        if group["capturable"]:
            share = share.to(values[0].device)
            torch._foreach_reciprocal_(scaled)
            torch._foreach_mul_(scaled, _rms_share(share, group["rms_lr"], lr))
            torch._foreach_mul_(scaled, grads)
            torch._foreach_add_(velocities, scaled)
            torch._foreach_add_(velocities, torch._foreach_mul(grads, share))  # an addition reads a tensor it adds
        else:
            torch._foreach_add_(velocities, grads, alpha=share)
            torch._foreach_addcdiv_(velocities, grads, scaled, (1 - share) * group["rms_lr"] / float(lr) if lr else 0.0)
        descend(values, velocities, lr)


def _rms_share(share: Tensor, rms_lr: float, lr: Any) -> Tensor:
    """The factor of RMSprop's part as a tensor, 0 for an LR of 0; a capture allows no copy from the CPU."""
    if not isinstance(lr, Tensor) or lr.device.type == "cpu":
        return (1 - share) * (rms_lr / float(lr) if lr else 0.0)
    factor = (1 - share) * rms_lr / lr
    return torch.where(lr != 0, factor, torch.zeros_like(factor))


def _checked(epochs: Any) -> Any:
    """`epochs`; raises if it cannot tell how many have passed."""
    if hasattr(epochs, "clock"):
        if epochs.dataset_size is None:
            remedy = "pass a function that returns epochs, for example `lambda: loader.clock / 1_281_167`"
            raise ArgumentError("epochs", "must be a loader whose data set has a size", got="a stream", remedy=remedy)
    elif not callable(epochs):
        remedy = "pass the `ab.DataLoader`, or a function that returns epochs"
        raise ArgumentTypeError("epochs", "must be a loader with a clock, or a function", value=epochs, remedy=remedy)
    return epochs
