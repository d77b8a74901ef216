"""Learning-rate schedules from text, built from torch's own schedulers and stepped once per epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch.optim import lr_scheduler

from adabatch import _checks, lr_clock, units
from adabatch._errors import ArgumentError, ArgumentTypeError

_EXAMPLES: Final = (
    "write constant, step:FACTOR:EPOCHS, milestones:FACTOR:E1,E2, exponential:FACTOR, cosine, onecycle or wsd:EPOCHS, "
    "with warmup:EPOCHS+ or warmup:EPOCHS:FROM+ in front if needed"
)
_Maker = Callable[[torch.optim.Optimizer, int], lr_scheduler.LRScheduler]


def build(text: str, optimizer: torch.optim.Optimizer, *, epochs: int) -> lr_scheduler.LRScheduler:
    """The scheduler that `text` describes; call its `step()` after every epoch.

    | text | learning rate in epoch e, counted from 0 |
    | --- | --- |
    | `constant` | the first one |
    | `step:0.5:4` | times 0.5 after every 4 epochs |
    | `milestones:0.2:60,120,160` | times 0.2 at each of these epochs |
    | `exponential:0.95` | times 0.95 after every epoch |
    | `cosine` | half a cosine from the first one down to 0 behind the last epoch |
    | `onecycle` | torch's OneCycleLR with the first one as its peak; the momentum stays as it is |
    | `wsd:10` | the first one, in the last 10 epochs times 10/11, 9/11, ... 1/11; a warm-up in front makes it whole |
    | `warmup:5+...` | times (e + 1) / 6 in the first 5 epochs, on top of what follows the plus sign |
    | `warmup:4:0.125+...` | times 0.125 in the first epoch, in a line up to times 1 after 4, on top of the same |

    Epochs count from the start of training everywhere, also behind a warm-up.

    Args:
        text: as above.
        optimizer: whose LR it changes.
        epochs: length of the training.

    Raises:
        ValueError: if the text is malformed or a number out of range.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=8.0)
        >>> scheduler, seen = build("step:0.5:2", optimizer, epochs=5), []
        >>> for _ in range(5):
        ...     seen.append(scheduler.get_last_lr()[0])
        ...     optimizer.step()
        ...     scheduler.step()
        >>> seen
        [8.0, 8.0, 4.0, 4.0, 2.0]
    """
    made = [make(optimizer, epochs) for make in _makers(text)]
    return made[0] if len(made) == 1 else lr_scheduler.ChainedScheduler(made, optimizer=optimizer)


def curve(text: str, *, epochs: int) -> list[tuple[units.Duration | int, float]]:
    """The schedule that `text` describes as a table: the epochs from which each LR holds, as shares of the first LR.

    Args:
        text: as `build` takes it.
        epochs: length of the training.

    Raises:
        ValueError: if the text is malformed or a number out of range.

    Example:
        >>> [(str(at), lr) for at, lr in curve("step:0.5:2", epochs=5)]
        [('0 epochs', 1.0), ('2 epochs', 0.5), ('4 epochs', 0.25)]
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return lr_clock.table(build(text, optimizer, epochs=epochs), epochs=epochs)


def shares(text: str, *, epochs: int, count: int | None = None) -> list[float]:
    """The learning rate in each epoch of the schedule that `text` describes, as shares of the first LR.

    Args:
        text: as `build` takes it.
        epochs: length of the training.
        count: how many epochs to tell of, one more than the training has at most; None: all of the training.

    Raises:
        ValueError: if the text is malformed or a number out of range.

    Example:
        >>> shares("step:0.5:2", epochs=5)
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return lr_clock.sample(build(text, optimizer, epochs=epochs), epochs if count is None else count)


def check(text: str) -> None:
    """Raises if `text` describes no schedule.

    Raises:
        ValueError: if the text is malformed or a number out of range.
        TypeError: if it is no text.
    """
    if not isinstance(text, str):
        raise ArgumentTypeError("lr_schedule", "must be text", value=text, remedy=_EXAMPLES)
    _makers(text)


def _makers(text: str) -> list[_Maker]:
    """What makes each part, the parts checked."""
    warmup, plus, body = text.rpartition("+")
    makers = [_body(body, text)]
    if plus:
        kind, *numbers = warmup.split(":")
        if kind != "warmup" or len(numbers) not in (1, 2):
            raise _malformed(text)
        length = _epochs(numbers[0], text)
        first = 1 / (length + 1) if len(numbers) == 1 else _share(numbers[1], text)
        makers.insert(0, lambda o, _: lr_scheduler.LinearLR(o, start_factor=first, total_iters=length))
    return makers


def _body(body: str, text: str) -> _Maker:
    kind, *values = body.split(":")
    match kind, values:
        case "constant", []:
            return lambda o, _: lr_scheduler.ConstantLR(o, factor=1.0)
        case "step", [factor, every]:
            gamma, size = _factor(factor, text), _epochs(every, text)
            return lambda o, _: lr_scheduler.StepLR(o, step_size=size, gamma=gamma)
        case "milestones", [factor, listed]:
            gamma, points = _factor(factor, text), [_epochs(item, text) for item in listed.split(",")]
            if sorted(set(points)) != points:
                raise ArgumentError("lr_schedule", "must have milestones in increasing order", value=text)
            return lambda o, _: lr_scheduler.MultiStepLR(o, milestones=points, gamma=gamma)
        case "exponential", [factor]:
            gamma = _factor(factor, text)
            return lambda o, _: lr_scheduler.ExponentialLR(o, gamma=gamma)
        case "cosine", []:
            return lambda o, epochs: lr_scheduler.CosineAnnealingLR(o, T_max=epochs)
        case "onecycle", []:
            return _one_cycle
        case "wsd", [decay]:
            length = _epochs(decay, text)
            return lambda o, epochs: lr_scheduler.MultiplicativeLR(o, _stable_then_down(length, epochs, text))
        case _:
            raise _malformed(text)


def _one_cycle(optimizer: torch.optim.Optimizer, epochs: int) -> lr_scheduler.LRScheduler:
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    return lr_scheduler.OneCycleLR(optimizer, max_lr=peaks, total_steps=max(2, epochs), cycle_momentum=False)


def _stable_then_down(length: int, epochs: int, text: str) -> Callable[[int], float]:
    if length >= epochs:
        raise ArgumentError("lr_schedule", f"must decay in less than the {epochs} epochs of the training", value=text)
    return lambda epoch: (epochs - epoch) / (epochs + 1 - epoch) if epoch >= epochs - length else 1.0


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


def _malformed(text: str) -> ValueError:
    return ArgumentError("lr_schedule", "must be a schedule", value=text, remedy=_EXAMPLES)
