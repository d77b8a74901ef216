"""Whether an LR scheduler is about as long as the training; in another unit it is over at once, or never begins."""

from __future__ import annotations

import warnings
from typing import Any, Final

from adabatch._errors import ArgumentError
from adabatch.lr_clock._sample import last_step, sample
from adabatch.units import Duration

FAR: Final = 10  # times too short or too long: said in a warning, since a trial run may be as short
HOPELESS: Final = 100  # times too short: an error
_LEVEL: Final = 1e-3  # of the highest LR so far: the least change that counts, and twice as much is nothing
_FALL: Final = 1e-2  # of the same: the least fall behind the training that is missed in it
_AHEAD: Final = 20_000  # steps behind the training in which a fall is looked for; a fifth of a second


def check_length(lr_scheduler: Any, lrs: list[float], *, counts: Duration, epochs: int, stacklevel: int) -> None:
    """Checks that an LR scheduler's curve neither is over at the start of the training nor begins behind its end.

    Args:
        lr_scheduler: at its first step.
        lrs: its LR at each of its steps in the training.
        counts: what a step is taken for.
        epochs: length of the training.
        stacklevel: of the warning.

    Raises:
        ValueError: if the curve is over in a hundredth of the training, or its end is the number of epochs.
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
    """By how much a curve that is over after `end` of `steps` steps is too short: `HOPELESS`, `FAR` or, if not, 0."""
    return HOPELESS if end * HOPELESS <= steps else FAR if end * FAR <= steps else 0


def is_epochs(end: int, epochs: int, steps: int) -> bool:
    """Whether a scheduler that ends after `end` of `steps` steps was given the number of epochs as its length."""
    return abs(end - epochs) <= 1 and 2 * end < steps


def _last_change(lrs: list[float]) -> int:
    """The last step that changes the LR as a share of the highest so far; 0 if it only rises."""
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
    """The first step behind the training at which the LR is below its highest; None if it does not fall."""
    ahead = steps
    while ahead < max(_AHEAD, 4 * steps):
        ahead *= 2
        try:
            lrs = sample(lr_scheduler, ahead, freeze=True)
        except Exception:  # a function of the user's need not go on behind the training
            return None
        peak = 0.0
        for step, lr in enumerate(lrs):
            peak = max(peak, lr)
            if lr < peak * (1 - _FALL):
                return step
    return None
