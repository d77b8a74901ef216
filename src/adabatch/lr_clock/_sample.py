"""The LRs of a torch LR scheduler, from a copy, and whether it is about as long as the training."""

from __future__ import annotations

import copy
import functools
import math
import types
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Final

import torch
from torch.optim import lr_scheduler as torch_lr

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.units import Duration

# Tolerances: of the spread between parameter groups, and of 0.
_EXACT: Final = (1e-9, 1e-12)  # for LRs that are numbers
_ROUNDED: Final = (1e-3, 1e-6)  # for LRs that are tensors, mostly in single precision: errors add up over the steps
MOST_STEPS: Final = 10_000_000  # a minute or two

FAR: Final = 10  # times too short or too long: a warning, since a trial run may be as short
HOPELESS: Final = 100  # times too short: an error
_LEVEL: Final = 1e-3  # share of the highest LR so far: smaller changes do not count, and an LR up to twice that is 0
_FALL: Final = 1e-2  # share of the highest LR: a smaller fall after the training does not count
_AHEAD: Final = 20_000  # steps after the training in which a fall is looked for; a fifth of a second


def sample(lr_scheduler: torch_lr.LRScheduler, steps: int, *, freeze: bool = False) -> list[float]:
    """The LR before each of the first `steps` steps of a scheduler, from a copy; the scheduler itself is not touched.

    The copy has an optimizer of its own with one number for each parameter group. So no parameter of the model is
    copied, even where the scheduler or one of its functions holds the model. LRs of several groups must keep their
    proportions, to 1e-9 or, for tensors, which round, to 1e-3; those of the first group are returned. An LR that
    rounding takes below 0 is 0.

    Args:
        lr_scheduler: any scheduler of `torch.optim.lr_scheduler` that needs no measurement, at its first step.
        steps: how many LRs, at least 1.
        freeze: keep the LR of `last_step` after it.

    Returns:
        `steps` LRs.

    Raises:
        TypeError: if it is no LR scheduler, or ReduceLROnPlateau.
        ValueError: if it has been stepped, ends before `steps`, gives an LR that is negative or not finite, or gives
            parameter groups courses of their own.
        RuntimeError: if the parts of a `ChainedScheduler` have not taken as many steps each.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=8.0)
        >>> sample(torch_lr.StepLR(optimizer, step_size=2, gamma=0.5), 5)
        [8.0, 8.0, 4.0, 4.0, 2.0]
        >>> optimizer.param_groups[0]["lr"]
        8.0
    """
    _checks.whole("steps", steps, maximum=MOST_STEPS, remedy="give a function of samples, or a table of its changes")
    check_scheduler(lr_scheduler)
    if steps_taken(lr_scheduler) != 0:
        raise ArgumentError(
            "lr_scheduler",
            "must stand at its first step to be sampled",
            got=f"one that took {steps_taken(lr_scheduler)}",
            remedy="sample it before training, and when resuming before its state is loaded",
        )
    last = last_step(lr_scheduler) if freeze else None
    twin = _copy(lr_scheduler)
    rows = [_row(twin, 0)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the optimizer made no step
        for step in range(1, steps):
            if last is not None and step > last:
                rows += [rows[-1]] * (steps - step)
                break
            _advance(twin, step, steps)
            rows.append(_row(twin, step))
    return _in_proportion(rows, max(_tolerances(group["lr"]) for group in twin.optimizer.param_groups))


def last_step(lr_scheduler: torch_lr.LRScheduler) -> int | None:
    """The last step that a scheduler was meant to take: at the next OneCycleLR raises and a cosine climbs again.

    Args:
        lr_scheduler: the scheduler; of a `SequentialLR` the last part counts, of a `ChainedScheduler` the first to end.

    Returns:
        The number of the step; None for schedulers without an end, such as StepLR.
    """
    if isinstance(lr_scheduler, torch_lr.OneCycleLR):
        return int(lr_scheduler.total_steps) - 1
    if isinstance(lr_scheduler, torch_lr.CosineAnnealingLR):
        return int(lr_scheduler.T_max)
    if isinstance(lr_scheduler, torch_lr.SequentialLR):
        last = last_step(_within(lr_scheduler)[-1])
        return None if last is None else [0, *getattr(lr_scheduler, "_milestones", ())][-1] + last
    if isinstance(lr_scheduler, torch_lr.ChainedScheduler):
        return min((end for part in _within(lr_scheduler) if (end := last_step(part)) is not None), default=None)
    return None


def steps_taken(lr_scheduler: torch_lr.LRScheduler) -> int:
    """How many steps a scheduler has taken, not counting the one in its constructor.

    Raises:
        RuntimeError: if the parts of a `ChainedScheduler` have not taken as many steps each.
    """
    if not isinstance(lr_scheduler, torch_lr.ChainedScheduler):
        return int(lr_scheduler.last_epoch)
    counts = [steps_taken(part) for part in _within(lr_scheduler)]  # it has no count of its own
    if len(set(counts)) > 1:
        got, remedy = ", ".join(f"{count:,}" for count in counts), "take the `step()` of single parts out of the loop"
        rule = "must be a ChainedScheduler whose parts have taken as many steps each"
        raise UsageError("lr_scheduler", rule, got=got, remedy=remedy)
    return counts[0]


def places(lr_scheduler: torch_lr.LRScheduler) -> list[int]:
    """The steps of a scheduler and of each of its parts."""
    return [int(getattr(part, "last_epoch", 0)) for part in parts_of(lr_scheduler)]  # a ChainedScheduler has none


def check_scheduler(lr_scheduler: Any) -> None:
    """Checks that the LR is a function of progress.

    Raises:
        TypeError: if it is none of torch's LR schedulers, or follows a measurement.
    """
    if isinstance(lr_scheduler, torch_lr.ReduceLROnPlateau):
        raise ArgumentTypeError(
            "lr_scheduler",
            "must be a function of progress",
            got="ReduceLROnPlateau, which waits for a measurement",
            remedy="step that one yourself, and grow the batch by a schedule such as `ab.schedules.geometric`, or "
            "choose the falls ahead with MultiStepLR",
        )
    if not isinstance(lr_scheduler, torch_lr.LRScheduler):
        is_class = isinstance(lr_scheduler, type)
        remedy = "make one of it" if is_class else "a function of samples or a table goes to `ab.schedules.from_lr`"
        if isinstance(getattr(lr_scheduler, "scheduler", None), torch_lr.LRScheduler):
            remedy = "give the one inside, `lr_scheduler.scheduler`"  # Accelerate's wrapper
        raise ArgumentTypeError(
            "lr_scheduler",
            "must be one of torch.optim.lr_scheduler",
            got=f"the class {lr_scheduler.__name__}" if is_class else type(lr_scheduler).__name__,
            remedy=remedy,
        )


def _copy(lr_scheduler: torch_lr.LRScheduler) -> torch_lr.LRScheduler:
    optimizer: torch.optim.Optimizer = lr_scheduler.optimizer
    memo: dict[int, Any] = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    parts = list(parts_of(lr_scheduler))
    seen = {id(part) for part in parts} | {id(optimizer), *memo}
    for part in parts:
        for value in vars(part).values():
            memo |= {id(held): held for held in _shared(value, seen)}
    twin = torch.optim.SGD([{"params": [torch.zeros(())]} for _ in optimizer.param_groups], lr=1.0)
    for mine, theirs in zip(twin.param_groups, optimizer.param_groups, strict=True):
        mine.update({key: copy.deepcopy(value, memo) for key, value in theirs.items() if key != "params"})
    twin.defaults.update({key: value for key, value in optimizer.defaults.items() if key in ("momentum", "betas")})
    memo[id(optimizer)] = twin
    return copy.deepcopy(lr_scheduler, memo)


def _within(lr_scheduler: torch_lr.LRScheduler) -> list[torch_lr.LRScheduler]:
    """The LR schedulers inside a sequential or chained one."""
    return list(getattr(lr_scheduler, "_schedulers", ()))


def parts_of(lr_scheduler: torch_lr.LRScheduler) -> Iterator[torch_lr.LRScheduler]:
    """The scheduler, and those inside it if it is sequential or chained."""
    yield lr_scheduler
    for part in _within(lr_scheduler):
        yield from parts_of(part)


def _shared(value: Any, seen: set[int], *, called: bool = False) -> Iterator[Any]:
    """Objects that the copy must share, not duplicate: modules, parameters, and what functions use.

    Functions use tensors and the objects that methods are bound to, which would drag in, say, a trainer with its model.
    """
    if id(value) in seen:
        return
    seen.add(id(value))
    called = called or callable(value)
    if isinstance(value, types.MethodType):
        if id(value.__self__) not in seen:
            yield value
        return
    if isinstance(value, torch.nn.Module | torch.nn.Parameter) or (called and isinstance(value, torch.Tensor)):
        yield value
        return
    held: Iterable[Any] = ()
    if isinstance(value, functools.partial):
        held = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, dict):
        held = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        held = value
    elif not isinstance(value, type | types.FunctionType | types.ModuleType | torch.Tensor):
        held = getattr(value, "__dict__", {}).values()
    for each in list(held):
        yield from _shared(each, seen, called=called)


def _advance(twin: torch_lr.LRScheduler, step: int, steps: int) -> None:
    try:
        twin.step()
    except ValueError as error:
        got = f"{type(twin).__name__}, which ended before step {step:,} ({' '.join(str(error).split())})"
        rule, remedy = f"must last for {steps:,} steps", "give it the length of the training"
        raise ArgumentError("lr_scheduler", rule, got=got, remedy=remedy) from error


def _row(twin: torch_lr.LRScheduler, step: int) -> list[float]:
    groups = twin.optimizer.param_groups
    row = [float(group["lr"]) for group in groups]
    for index, (lr, group) in enumerate(zip(row, groups, strict=True)):
        if -_tolerances(group["lr"])[1] * float(group.get("initial_lr", 0)) <= lr < 0:  # rounding below 0
            row[index] = 0.0
        elif not (math.isfinite(lr) and lr >= 0):
            got, remedy = f"{lr} after {step:,} steps", "mend it, or let it end there"
            raise ArgumentError("lr_scheduler", "must give finite LRs of at least 0", got=got, remedy=remedy)
    return row


def _tolerances(lr: Any) -> tuple[float, float]:
    return _ROUNDED if isinstance(lr, torch.Tensor) else _EXACT


def _in_proportion(rows: list[list[float]], tolerances: tuple[float, float]) -> list[float]:
    relative, absolute = tolerances
    peaks = [max(column) for column in zip(*rows, strict=True)]
    used = [index for index, peak in enumerate(peaks) if peak > 0]
    for step, row in enumerate(rows):
        shares = [row[index] / peaks[index] for index in used]
        if shares and max(shares) - min(shares) > relative * max(shares) + absolute:
            here, highest = (", ".join(f"{lr:g}" for lr in lrs) for lrs in (row, peaks))
            raise ArgumentError(
                "lr_scheduler",
                "must give all parameter groups LRs that keep their proportions",
                got=f"{here} after {step:,} steps where the highest are {highest}",
                remedy="one batch size cannot follow several courses; convert one as a function of samples or a table",
            )
    first = used[0] if used else 0
    return [row[first] for row in rows]


# Length: an LR scheduler in another unit is over at once, or never begins.


def check_length(lr_scheduler: Any, lrs: list[float], *, counts: Duration, epochs: int, stacklevel: int) -> None:
    """Checks that an LR scheduler is not over at the start of the training and does not begin after its end.

    Args:
        lr_scheduler: at its first step.
        lrs: its LR at each of its steps in the training.
        counts: the length of a step.
        epochs: length of the training.
        stacklevel: of the warning.

    Raises:
        ValueError: if it is over in a hundredth of the training, or its end is the number of epochs.
    """
    steps, end, over = len(lrs), last_step(lr_scheduler), _last_change(lrs)
    said = f"{counts}: {type(lr_scheduler).__name__}"
    if counts.unit != "epochs" and over:
        early = _error(
            f"{said} is over after {end or over:,} of the {steps:,} such steps in {epochs:,} epochs",
            "give a longer unit such as `counts=ab.epochs(1)`, or the falls as a table if they are meant",
        )
        if (end is not None and is_epochs(end, epochs, steps)) or is_too_short(over, steps) == HOPELESS:
            raise early
        if is_too_short(over, steps):
            warnings.warn(str(early), UserWarning, stacklevel=stacklevel)
    remedy = "give a shorter unit such as `counts=ab.updates(1)`, or the LR scheduler the length of the training"
    if end is not None:
        said += f" ends after {end:,} such steps, the training of {epochs:,} epochs after {steps:,}"
        if end > FAR * steps:
            warnings.warn(str(_error(said, remedy)), UserWarning, stacklevel=stacklevel)
    elif not over and (fall := _first_fall(lr_scheduler, steps)) is not None:
        said += f" falls first after {fall:,} such steps, the training of {epochs:,} epochs ends after {steps:,}"
        warnings.warn(str(_error(f"{said}, so nothing grows", remedy)), UserWarning, stacklevel=stacklevel)


def _error(got: str, remedy: str) -> ArgumentError:
    return ArgumentError("counts", "must be what one step of the LR scheduler counts", got=got, remedy=remedy)


def is_too_short(end: int, steps: int) -> int:
    """How much too short a scheduler is that is over after `end` of `steps` steps: `HOPELESS`, `FAR` or 0 times."""
    return HOPELESS if end * HOPELESS <= steps else FAR if end * FAR <= steps else 0


def is_epochs(end: int, epochs: int, steps: int) -> bool:
    """Whether a scheduler that ends after `end` of `steps` steps was given the number of epochs as its length."""
    return abs(end - epochs) <= 1 and 2 * end < steps


def _last_change(lrs: list[float]) -> int:
    """The last step at which the LR changes relative to the highest so far; 0 if it only rises."""
    peak = level = last = 0.0
    for step, lr in enumerate(lrs):
        peak = max(peak, lr)
        share = lr / peak if peak else 1.0
        share = share if share > 2 * _LEVEL else 0.0
        if step == 0:
            level = share
        elif abs(share - level) > _LEVEL:
            level, last = share, step
    return int(last)


def _first_fall(lr_scheduler: Any, steps: int) -> int | None:
    """The first step after the training at which the LR is below its highest; None if it does not fall."""
    ahead = steps
    while ahead < max(_AHEAD, 4 * steps):
        ahead *= 2
        try:
            lrs = sample(lr_scheduler, ahead, freeze=True)
        except Exception:  # a function of the user's need not go on after the training
            return None
        peak = 0.0
        for step, lr in enumerate(lrs):
            peak = max(peak, lr)
            if lr < peak * (1 - _FALL):
                return step
    return None
