"""Learning-rate schedules in closed form: the factor on the base LR after so many epochs. No torch here.

Each function returns a function of the epochs passed, which may be fractional. It serves torch's `LambdaLR` as it is if
that is stepped once an epoch, and through `per_update` if it is stepped after every update. On the samples clock it is
`factor(loader.clock / len(train_set))`. Stepped once an epoch, an epoch keeps the factor at its start, so a warm-up
must begin above 0: `warmup(5, start=1 / 6)` is then `--lr-schedule warmup:5` of the command.

Example:
    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=12.8)
    >>> scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, slow_start(90))
    >>> scheduler.get_last_lr()
    [6.4]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError

Factor = Callable[[float], float]
SLOW_START = ((40, 0.5), (70, 0.075), (85, 0.01), (90, 0.001))
"""Ends in epochs of 90, and the factor up to there."""


def warmup(epochs: float = 5, *, start: float = 0.0, then: Factor | None = None) -> Factor:
    """Gradual warm-up: a line from `start` to 1 over the first epochs, times `then`.

        start + (1 - start) epoch / epochs

    Args:
        epochs: length of the warm-up, at least 0.
        start: the first factor, in [0, 1]. Goyal et al. start from the LR of the small batch: 1 / k for a batch k times
            as large. At 0 a scheduler that is stepped once an epoch trains nothing in the first; `1 / (epochs + 1)`
            rises by equal parts from its first epoch on.
        then: the schedule that the line multiplies; its epochs count from the start of the training too.

    Raises:
        ValueError: if a number is out of range.
        TypeError: if `then` is no function.

    Example:
        >>> factor = warmup(4, start=0.5, then=poly_decay(8))
        >>> [factor(epoch) for epoch in (0, 2, 4, 8)]
        [0.5, 0.421875, 0.25, 0.0]
        >>> by_epoch = warmup(5, start=1 / 6)
        >>> [round(6 * by_epoch(epoch), 9) for epoch in range(7)]
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 6.0]

    Source:
        Goyal et al. 2017, arXiv 1706.02677 (gradual warm-up).
    """
    length = float(_checks.finite("epochs", epochs, minimum=0))
    first = float(_checks.finite("start", start, minimum=0))
    if first > 1:
        raise ArgumentError("start", "must be at most 1", value=start, remedy="a warm-up rises")
    if then is not None and not callable(then):
        raise ArgumentTypeError("then", "must be a function of the epochs passed", value=then)

    def factor(epoch: float) -> float:
        line = first + (1 - first) * epoch / length if epoch < length else 1.0
        return line if then is None else line * then(epoch)

    return factor


def slow_start(epochs: float = 90) -> Factor:
    """Half the LR at first, then steps down: times 0.5, 0.075, 0.01 and 0.001, from 0, 40, 70 and 85 of 90 epochs on.

    Args:
        epochs: length of the training, above 0; the steps are scaled to it.

    Raises:
        ValueError: if it is not above 0.

    Example:
        >>> factor = slow_start(90)
        >>> [factor(epoch) for epoch in (0, 39.9, 40, 70, 85, 90)]
        [0.5, 0.5, 0.075, 0.01, 0.001, 0.001]

    Source:
        Akiba, Suzuki, Fukuda 2017, arXiv 1711.04325 (slow-start learning rate).
    """
    length = _checks.finite("epochs", epochs, above=0)

    def factor(epoch: float) -> float:
        return next((value for end, value in SLOW_START if epoch * 90 < end * length), SLOW_START[-1][1])

    return factor


def poly_decay(epochs: float, *, power: float = 2.0, end: float = 0.0) -> Factor:
    """Polynomial decay from 1 to `end` at the end of the training.

        end + (1 - end) (1 - epoch / epochs) ** power

    Args:
        epochs: length of the training, above 0; the factor is `end` from there on.
        power: above 0; 1 is a line.
        end: the last factor, at least 0.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> [poly_decay(90)(epoch) for epoch in (0, 45, 90, 100)]
        [1.0, 0.25, 0.0, 0.0]

    Source:
        You, Gitman, Ginsburg 2017, arXiv 1708.03888 (power 2, with LARS).
    """
    length = _checks.finite("epochs", epochs, above=0)
    exponent = _checks.finite("power", power, above=0)
    last = float(_checks.finite("end", end, minimum=0))

    def factor(epoch: float) -> float:
        left: float = (1 - min(1.0, epoch / length)) ** exponent
        return last + (1 - last) * left

    return factor


def per_update(factor: Factor, updates_per_epoch: int) -> Callable[[int], float]:
    """The same schedule for an LR scheduler that is stepped after every update, as with `ab.by_samples`.

    Args:
        factor: a function of the epochs passed.
        updates_per_epoch: updates in an epoch at the base batch size, at least 1.

    Raises:
        ValueError: if `updates_per_epoch` is below 1.
        TypeError: if it is not a whole number.

    Example:
        >>> per_update(poly_decay(10), 100)(500)
        0.25
    """
    count = _checks.whole("updates_per_epoch", updates_per_epoch)

    def at(update: Any) -> float:
        return factor(update / count)

    return at
