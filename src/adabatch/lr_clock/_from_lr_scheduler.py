"""`from_lr_scheduler`: a torch LR scheduler turned into growth of the batch."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Final

from torch.optim import lr_scheduler as torch_lr

from adabatch import _checks, schedules, units
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.lr_clock._by_samples import Baseline
from adabatch.lr_clock._sample import check_length, check_scheduler, last_step, sample
from adabatch.units import Duration

_EPOCH: Final = units.epochs(1)
_LENGTH: Final = "must be a length such as epochs(1) or updates(1)"


def from_lr_scheduler(
    lr_scheduler: torch_lr.LRScheduler,
    *,
    counts: Duration = _EPOCH,
    dataset_size: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    maximum: int | None = None,
    round_to: int = 1,
    rule: str = "smith",
    drop_last: bool = False,
    run_on: bool = False,
) -> schedules.from_lr:
    """The batch schedule of a torch LR scheduler: it grows the batch where the LR would fall.

        B(t) = batch_size * max_{s <= t} lr(s) / lr(t),  at most `maximum`

    The LR scheduler stays in place and is stepped as before: after every epoch or, if it counts updates, by
    `ab.by_samples`. The schedule's `.coupling` does the rest. `ab.schedules.from_lr` does the same for an LR that is a
    function of samples or a table.

    With `epochs`, the length of the LR scheduler shows whether it counts in another unit than `counts`. In updates or
    samples it is refused if its last fall lies in the first hundredth of the training, or its own end (T_max,
    total_steps) is the number of epochs. A warning tells of a last fall in the first tenth, of an own end more than ten
    times too late and, without an own end, of a first fall after the training.

    Args:
        lr_scheduler: any of torch's LR schedulers at its first step; a copy is sampled, see `lr_clock.sample`.
        counts: the length of one of its steps: `epochs(1)`, or `updates(1)` of the training at the constant
            `batch_size`. Other lengths are accepted too.
        dataset_size: samples in an epoch; for a stream, samples in the whole training, with `epochs=1`. It must be that
            of the training, and so must `epochs`: after the end the last size holds.
        epochs: length of the training; None takes the length that the LR scheduler has, if it has one.
        batch_size: the first size; None for the loader's, which needs a scheduler that counts epochs.
        maximum: the largest batch size; None for a tenth of the data set, the limit of validity in the paper.
        round_to: sizes are multiples of this number.
        rule: `"smith"`, `"seesaw"` (for Adam), `"hybrid(k)"` or `"power(p)"`.
        drop_last: the loader's; matters only to an LR scheduler that counts updates.
        run_on: the same.

    Returns:
        The schedule.

    Raises:
        TypeError: if an argument is of the wrong kind, such as ReduceLROnPlateau.
        ValueError: if the length is not known, an LR is negative or not finite, numbers do not fit each other, or a
            momentum is 1 or more under `smith` or `hybrid(k)`.

    Example:
        >>> import torch, adabatch as ab
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9)
        >>> decay = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[60, 120, 160], gamma=0.2)
        >>> growth = ab.from_lr_scheduler(decay, epochs=200, maximum=5120)
        >>> growth.plan(dataset_size=50_000, epochs=200, batch_size=128).updates
        29240

    Source:
        Smith, Kindermans, Ying, Le 2017, arXiv 1711.00489.
    """
    lrs = _table(lr_scheduler, counts, dataset_size, epochs, batch_size, drop_last=drop_last, run_on=run_on)
    if maximum is None and dataset_size is not None and batch_size is not None and dataset_size // 10 >= batch_size:
        maximum = dataset_size // 10
    growth = schedules.from_lr(lrs, rule=rule, start=batch_size, maximum=maximum, round_to=round_to)
    if growth.rule == "smith" or growth.rule.startswith("hybrid"):
        _check_momentum(lr_scheduler.optimizer)
    return growth


def table(
    lr_scheduler: torch_lr.LRScheduler,
    *,
    counts: Duration = _EPOCH,
    dataset_size: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    drop_last: bool = False,
    run_on: bool = False,
) -> list[tuple[Duration | int, float]]:
    """The LRs of a torch LR scheduler, for `schedules.from_lr`; arguments and errors as in `from_lr_scheduler`.

    Returns:
        (Duration in epochs or clock in samples, LR from there on) for each change of the LR.
    """
    return _table(lr_scheduler, counts, dataset_size, epochs, batch_size, drop_last=drop_last, run_on=run_on)


def _table(
    lr_scheduler: torch_lr.LRScheduler,
    counts: Duration,
    dataset_size: int | None,
    epochs: int | None,
    batch_size: int | None,
    *,
    drop_last: bool,
    run_on: bool,
) -> list[tuple[Duration | int, float]]:
    check_scheduler(lr_scheduler)
    if not isinstance(counts, Duration):
        raise ArgumentTypeError("counts", _LENGTH, value=counts)
    if counts.count == 0 or counts.unit == "tokens":
        raise ArgumentError("counts", _LENGTH, value=counts)
    total = None if epochs is None else _checks.whole("epochs", epochs)
    starts: list[Duration | int]
    if counts.unit == "epochs":
        steps = _steps(lr_scheduler, total if total is None else math.ceil(total / counts.exact))
        # A scheduler that the user steps goes on after its end; one that counts updates is frozen there.
        lrs = sample(lr_scheduler, steps)
        starts = [Duration(_number(step * counts.exact), "epochs") for step in range(steps)]
    else:
        size = _given("batch_size", batch_size, "a scheduler that counts updates") if counts.unit == "updates" else 1
        N = None if dataset_size is None else _checks.whole("dataset_size", dataset_size)
        base = Baseline(size, N, drop_last, run_on or counts.unit == "samples")
        length = None
        if total is not None:
            _given("dataset_size", N, "a length in epochs")
            length = math.ceil(base.updates(total) / counts.exact)
        steps = _steps(lr_scheduler, length)
        lrs = sample(lr_scheduler, steps, freeze=True)
        starts = [base.clock_of(int(step * counts.exact)) for step in range(steps)]
    if total is not None:
        check_length(lr_scheduler, lrs, counts=counts, epochs=total, stacklevel=4)
    changes = list(zip(starts, lrs, strict=True))
    return [changes[0], *(after for before, after in pairwise(changes) if after[1] != before[1])]


def _check_momentum(optimizer: Any) -> None:
    """Checks that the noise scale `lr N / (B (1 - m))` has a value in every parameter group."""
    for group in optimizer.param_groups:
        for name in ("momentum", "max_momentum"):  # OneCycleLR and CyclicLR go up to the second
            if group.get(name) is not None:
                remedy = "at 1 the noise scale, by which the batch grows, has no value"
                _checks.finite(name, float(group[name]), minimum=0, below=1, remedy=remedy)


def _steps(lr_scheduler: torch_lr.LRScheduler, steps: int | None) -> int:
    if steps is not None:
        return steps
    last = last_step(lr_scheduler)
    if last is None:
        raise ArgumentError(
            "epochs", "must be given", got=f"None: {type(lr_scheduler).__name__} does not say how long it lasts"
        )
    return last + 1


def _number(count: Any) -> int | float:
    return int(count) if count.denominator == 1 else float(count)


def _given(name: str, value: int | None, what: str) -> int:
    if value is None:
        raise ArgumentError(name, f"must be given for {what}", value=None)
    return _checks.whole(name, value)
