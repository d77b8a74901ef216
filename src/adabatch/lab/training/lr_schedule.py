"""Learning-rate schedules from text: read once, then built as torch's own schedulers, written as Python, or computed.

No torch here but for building a scheduler. Computed LRs are those of torch's schedulers, to the last bit.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from adabatch import _checks, units
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.schedules import lr
from adabatch.units import Duration

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

MOST_EPOCHS: Final = 10_000_000  # seconds

_EXAMPLES: Final = (
    "write constant, step:FACTOR:EPOCHS, milestones:FACTOR:E1,E2, exponential:FACTOR, cosine, onecycle, wsd:EPOCHS, "
    "poly:POWER or slowstart, "
    "with warmup:EPOCHS+ or warmup:EPOCHS:FROM+ in front if needed"
)


def build(text: str, optimizer: Optimizer, *, epochs: int) -> LRScheduler:
    """The scheduler that `text` describes; call its `step()` after every epoch.

    | text | learning rate in epoch e, counted from 0 |
    | --- | --- |
    | `constant` | the first one |
    | `step:0.5:4` | times 0.5 after every 4 epochs |
    | `milestones:0.2:60,120,160` | times 0.2 at each of these epochs |
    | `exponential:0.95` | times 0.95 after every epoch |
    | `cosine` | half a cosine from the first one down to 0 after the last epoch |
    | `onecycle` | torch's OneCycleLR with the first one as its peak; the momentum stays as it is |
    | `wsd:10` | the first one, in the last 10 epochs times 10/11, 9/11, ... 1/11; goes with a warm-up in front |
    | `poly:2` | times (1 - e / epochs) to the power of 2 |
    | `slowstart` | times 0.5; 0.075, 0.01 and 0.001 from 40, 70 and 85 ninetieths of the training on |
    | `warmup:5+...` | times (e + 1) / 6 in the first 5 epochs, on top of the schedule after the plus sign |
    | `warmup:4:0.125+...` | times 0.125 in the first epoch, in a line up to times 1 after 4, on top of the same |

    Epochs always count from the start of training, also after a warm-up.

    Args:
        text: as above.
        optimizer: the optimizer whose LR it changes.
        epochs: length of the training.

    Raises:
        ValueError: if the text is malformed or a number out of range.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=8.0)
        >>> scheduler, seen = build("step:0.5:2", optimizer, epochs=5), []
        >>> for _ in range(5):
        ...     seen.append(scheduler.get_last_lr()[0])
        ...     optimizer.step()
        ...     scheduler.step()
        >>> seen
        [8.0, 8.0, 4.0, 4.0, 2.0]
    """
    from torch.optim import lr_scheduler

    made = [part.built(optimizer) for part in _parts(text, epochs)]
    return made[0] if len(made) == 1 else lr_scheduler.ChainedScheduler(made, optimizer=optimizer)


def python(text: str, *, epochs: int) -> str:
    """The scheduler that `text` describes as a Python expression of `torch` and an `optimizer`.

    Args:
        text: as `build` takes it.
        epochs: length of the training.

    Raises:
        ValueError: if the text is malformed or a number out of range.

    Example:
        >>> python("step:0.5:4", epochs=9)
        'torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)'
    """
    written = [part.written for part in _parts(text, epochs)]
    return written[0] if len(written) == 1 else f"{_TORCH}.ChainedScheduler([{', '.join(written)}])"


def check(text: Any, *, epochs: int = sys.maxsize) -> None:
    """Checks that `text` describes a schedule.

    Raises:
        ValueError: if the text is malformed or a number out of range.
        TypeError: if it is no text.
    """
    if not isinstance(text, str):
        raise ArgumentTypeError("lr_schedule", "must be text", value=text, remedy=_EXAMPLES)
    _parts(text, epochs)


def rises(text: str) -> bool:
    """Whether the schedule that `text` describes may take the LR above that of the optimizer."""
    return any(part.arguments.get("gamma", 1) > 1 for part in _parts(text, sys.maxsize))


def table(text: str, *, epochs: int, lr: float = 1.0) -> list[tuple[Duration | int, float]]:
    """The schedule that `text` describes as a table of (epochs, LR from there on).

    Args:
        text: as `build` takes it.
        epochs: length of the training.
        lr: the first LR.

    Raises:
        ValueError: if the text is malformed or a number out of range.

    Example:
        >>> [(str(at), lr) for at, lr in table("step:0.5:2", epochs=5)]
        [('0 epochs', 1.0), ('2 epochs', 0.5), ('4 epochs', 0.25)]
    """
    rates = _rates(text, epochs, epochs, lr)
    changes = [0, *(epoch + 1 for epoch, (before, after) in enumerate(pairwise(rates)) if after != before)]
    return [(units.epochs(epoch), rates[epoch]) for epoch in changes]


def shares(text: str, *, epochs: int, count: int | None = None) -> list[float]:
    """The learning rate in each epoch of the schedule that `text` describes, as a share of the first LR.

    Args:
        text: as `build` takes it.
        epochs: length of the training.
        count: the number of epochs to return, at most `epochs + 1`; None: all of the training.

    Raises:
        ValueError: if the text is malformed or a number out of range.

    Example:
        >>> shares("step:0.5:2", epochs=5)
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    return _rates(text, epochs, epochs if count is None else count, 1.0)


def falls_after(text: str, *, epochs: int) -> int | None:
    """The epoch of the first fall of the schedule that `text` describes, if that is after the training; else None.

    Example:
        >>> falls_after("warmup:5+step:0.5:30", epochs=20), falls_after("step:0.5:30", epochs=40)
        (30, None)
    """
    for part in _parts(text, epochs):
        first = part.arguments.get("step_size") or min(part.arguments.get("milestones", [0]))
        if first >= epochs and part.arguments["gamma"] < 1:
            return int(first)
    return None


def _rates(text: str, epochs: int, count: int, first: float) -> list[float]:
    """The LR in each of `count` epochs, from the LR `first` of the optimizer."""
    remedy = "give a function of samples, or a table of its changes"
    _checks.whole("epochs", count, maximum=MOST_EPOCHS, remedy=remedy)
    steps, rate, rates = [], first, []
    for part in _parts(text, epochs):
        steps.append(part.steps(rate))
        rate = steps[-1](rate, 0)
    for epoch in range(count):
        if epoch:
            for step in steps:
                rate = step(rate, epoch)
        if not 0 <= rate < math.inf:
            got = f"{rate} after {epoch:,} epochs of {text!r}"
            remedy = f"choose a factor of at most 1, or at most {epoch:,} epochs"
            raise ArgumentError("lr_schedule", "must give finite LRs of at least 0", got=got, remedy=remedy)
        rates.append(rate)
    return rates


# The grammar.

FOR_EVER: Final = sys.maxsize
_TORCH: Final = "torch.optim.lr_scheduler"


Step = Callable[[float, int], float]  # the LR from the one before it and the number of the step, from 0


@dataclass(frozen=True)
class _Expression:
    """An argument that is more than a number: as Python, and as the value for the LRs that an optimizer has."""

    text: str
    value: Callable[[Sequence[float]], Any]

    def __repr__(self) -> str:
        return self.text


class _Part(NamedTuple):
    """A call of one of torch's schedulers, without the optimizer."""

    kind: str
    arguments: dict[str, Any]

    @property
    def written(self) -> str:
        return f"{_TORCH}.{self.kind}(optimizer, {', '.join(f'{k}={v!r}' for k, v in self.arguments.items())})"

    def built(self, optimizer: Optimizer) -> LRScheduler:
        from torch.optim import lr_scheduler

        values = self.values([float(group["lr"]) for group in optimizer.param_groups])
        made: LRScheduler = getattr(lr_scheduler, self.kind)(optimizer, **values)
        return made

    def values(self, rates: Sequence[float]) -> dict[str, Any]:
        """The arguments for an optimizer that has these LRs."""
        return {k: v.value(rates) if isinstance(v, _Expression) else v for k, v in self.arguments.items()}

    def steps(self, rate: float) -> Step:
        """The steps of torch's scheduler, made over an optimizer with the LR `rate`: the same operations."""
        match self.kind, self.values([rate]):
            case "ConstantLR", {"factor": factor, **more}:
                end = more.get("total_iters")
                return lambda lr, n: lr * factor if n == 0 else lr * (1.0 / factor) if n == end else lr
            case "StepLR", {"step_size": size, "gamma": factor}:
                return lambda lr, n: lr if n % size or n == 0 else lr * factor
            case "MultiStepLR", {"milestones": points, "gamma": factor}:
                return lambda lr, n: lr * factor if n in points else lr
            case "ExponentialLR", {"gamma": factor}:
                return lambda lr, n: lr * factor if n else lr
            case "MultiplicativeLR", {"lr_lambda": factor_at}:
                return lambda lr, n: lr * factor_at(n) if n else lr
            case "LinearLR", {"start_factor": start, "total_iters": end}:
                return _line(start, end)
            case "PolynomialLR", {"total_iters": end, "power": power}:
                return _power(end, power)
            case "CosineAnnealingLR", {"T_max": end}:
                return _cosine(end)
            case "OneCycleLR", {"max_lr": [peak], "total_steps": total}:
                return _one_cycle(peak, total)
        raise NotImplementedError(self.kind)


def _parts(text: str, epochs: int) -> list[_Part]:
    warmup, plus, body = text.rpartition("+")
    parts = [_body(body, text, epochs)]
    if body == "slowstart":
        parts.insert(0, _Part("ConstantLR", {"factor": lr.SLOW_START[0][1], "total_iters": FOR_EVER}))
    if plus:
        kind, *numbers = warmup.split(":")
        if kind != "warmup" or len(numbers) not in (1, 2):
            raise _malformed(text)
        length = _epochs(numbers[0], text)
        first = _Expression(f"1 / {length + 1}", lambda _: 1 / (length + 1))
        start = first if len(numbers) == 1 else _share(numbers[1], text)
        parts.insert(0, _Part("LinearLR", {"start_factor": start, "total_iters": length}))
    return parts


def _body(body: str, text: str, epochs: int) -> _Part:
    kind, *values = body.split(":")
    match kind, values:
        case "constant", []:
            return _Part("ConstantLR", {"factor": 1.0})
        case "step", [factor, every]:
            return _Part("StepLR", {"step_size": _epochs(every, text), "gamma": _factor(factor, text)})
        case "milestones", [factor, listed]:
            gamma, points = _factor(factor, text), [_epochs(item, text) for item in listed.split(",")]
            if sorted(set(points)) != points:
                raise ArgumentError("lr_schedule", "must have milestones in increasing order", value=text)
            return _Part("MultiStepLR", {"milestones": points, "gamma": gamma})
        case "exponential", [factor]:
            return _Part("ExponentialLR", {"gamma": _factor(factor, text)})
        case "cosine", []:
            return _Part("CosineAnnealingLR", {"T_max": epochs})
        case "onecycle", []:
            peaks = _Expression('[group["lr"] for group in optimizer.param_groups]', list)
            return _Part("OneCycleLR", {"max_lr": peaks, "total_steps": max(2, epochs), "cycle_momentum": False})
        case "wsd", [decay]:
            return _Part("MultiplicativeLR", {"lr_lambda": _down_at_the_end(_epochs(decay, text), epochs, text)})
        case "poly", [power]:
            return _Part("PolynomialLR", {"total_iters": epochs, "power": _factor(power, text)})
        case "slowstart", []:
            return _Part("MultiplicativeLR", {"lr_lambda": _slow_start(epochs)})
        case _:
            raise _malformed(text)


def _slow_start(epochs: int) -> _Expression:
    """The factors from an epoch to the next, after half the LR at first."""
    factor = lr.slow_start(epochs)
    ends = [-(-end * epochs // 90) for end, _ in lr.SLOW_START[:-1]]
    falls = {e: factor(e) / factor(e - 1) for e in ends if e < epochs}
    return _Expression(f"lambda e: {falls}.get(e, 1.0)", lambda _: lambda e: falls.get(e, 1.0))


def _down_at_the_end(length: int, epochs: int, text: str) -> _Expression:
    if length >= epochs:
        raise ArgumentError("lr_schedule", f"must decay in less than the {epochs} epochs of the training", value=text)
    return _Expression(
        f"lambda e: ({epochs} - e) / ({epochs + 1} - e) if e >= {epochs - length} else 1.0",
        lambda _: lambda e: (epochs - e) / (epochs + 1 - e) if e >= epochs - length else 1.0,
    )


def _factor(value: str, text: str) -> float:
    return float(_checks.finite("lr_schedule", _number(float, value, text), above=0, remedy=f"the factor in {text!r}"))


def _share(value: str, text: str) -> float:
    share = _factor(value, text)
    if share > 1:
        raise ArgumentError("lr_schedule", "must start a warm-up from a share of at most 1", got=f"{value} in {text!r}")
    return share


def _epochs(value: str, text: str) -> int:
    return _checks.whole("lr_schedule", _number(int, value, text), remedy=f"the epochs in {text!r}")


def _number(kind: Callable[[str], Any], value: str, text: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise _malformed(text) from None


def _malformed(text: str) -> ArgumentError:
    return ArgumentError("lr_schedule", "must be a schedule", value=text, remedy=_EXAMPLES)


# The steps of torch's schedulers of more than a factor.


def _line(start: float, end: int) -> Step:
    rise = 1.0 - start

    def step(lr: float, n: int) -> float:
        if n == 0:
            return lr * start
        return lr * (1.0 + rise / (end * start + (n - 1) * rise)) if n <= end else lr

    return step


def _power(end: int, power: float) -> Step:
    def step(lr: float, n: int) -> float:
        if n == 0 or n > end:
            return lr
        factor: float = ((1.0 - n / end) / (1.0 - (n - 1) / end)) ** power
        return lr * factor

    return step


def _cosine(end: int) -> Step:
    def step(lr: float, n: int) -> float:
        return (1 + math.cos(math.pi * n / end)) / (1 + math.cos(math.pi * (n - 1) / end)) * lr if n else lr

    return step


def _one_cycle(peak: float, total: int) -> Step:
    low, turn = peak / 25.0, 0.3 * total - 1

    def step(_: float, n: int) -> float:
        before, after, start, stop = (low, peak, 0.0, turn) if n <= turn else (peak, low / 1e4, turn, total - 1)
        return after + (before - after) / 2.0 * (math.cos(math.pi * ((n - start) / (stop - start))) + 1)

    return step
