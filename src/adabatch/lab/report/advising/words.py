"""An advice in words: the verdict, what it rests on, and how its forecast did."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from adabatch.lab.advice import GROW, NO_GAIN, Advice
from adabatch.lab.report.scaling.words import number, told
from adabatch.lab.report.words import TIMES, listed, plural
from adabatch.lab.scaling import Estimate

_HALVINGS = 60  # of an interval, until its middle no longer changes


def verdict(found: Advice) -> str:
    """The verdict in a sentence."""
    choice = found.choice
    if found.verdict == GROW and choice is not None:
        return f"Growth pays here: {ratio(choice.ratio)} as fast as the best constant batch, with 80 %."
    return "No evidence that growth pays here."


def ratio(value: Estimate) -> str:
    """A ratio of times with its interval: `"1.6× [1.2, 2.1]"`."""
    middle, cut, interval = told(value).partition(" [")
    return f"{middle}{TIMES}{cut}{interval}" if middle[-1:].isdigit() else f"{middle}{cut}{interval}"


def sentences(found: Advice) -> Iterator[str]:
    """The grounds of the verdict, and the outcome."""
    task = f"{found.task}, {found.model}"
    if found.verdict == NO_GAIN:
        gain = "not measured" if found.gain is None else f"only {found.gain:.2f} times"
        yield f"{task}: a batch four times as large trains {gain} the samples per second, so there is no time to win."
        return
    choice = found.choice
    assert choice is not None
    forecast = choice.forecast
    yield (
        f"{task}: the schedule {choice.name!r} ({choice.words}) against batch size {choice.against:,}, to the same "
        f"test loss: {ratio(choice.ratio)} as fast with 80 %. Of three other seeds the mean is expected within "
        f"{_ends(forecast.at_80)} with 80 %, {_ends(forecast.at_95)} with 95 %."
    )
    if found.verdict != GROW:
        yield f"So the best is batch size {found.best_fixed:,}, constant."
    if found.critical_batch is not None:
        yield f"Critical batch size: {told(found.critical_batch)}."
    yield basis(found)
    if found.outcome is not None:
        yield outcome(found)


def basis(found: Advice) -> str:
    """The trainings on which an advice rests."""
    lengths = f"{found.epochs:,} of {found.whole_epochs:,} epochs"
    if found.epochs == found.whole_epochs:
        lengths = f"{found.epochs:,} {plural('epoch', found.epochs or 0)}, a whole training,"
    if found.samples < found.whole_samples:
        lengths += f" on {found.samples:,} of {found.whole_samples:,} training samples"
    edge = ""
    if found.lr_at_edge:
        edge = ", the last that was tried on that side: a better one may lie beyond it"
    seeds = f"{len(found.seeds)} {plural('seed', len(found.seeds))}"
    return f"Trainings of {lengths} with {seeds}; the best LR at the base batch size is {found.lr:.4g}{edge}."


def outcome(found: Advice) -> str:
    """The outcome beside the forecast, in a sentence; empty without one."""
    seen = found.outcome
    if seen is None:
        return ""
    held = [f"{share} %" for share, holds in ((80, seen.within_80), (95, seen.within_95)) if holds]
    which = f"The forecast's intervals of {listed(held)} hold it." if held else "No interval of the forecast holds it."
    where = f"{len(seen.seeds)} other seeds over {seen.epochs:,} epochs"
    return f"Outcome, {where}: {ratio(seen.ratio)} as fast. {which}"


def regret(found: Advice) -> float | None:
    """The time that the advice takes over that of the best constant batch, by the outcome; None: not known.

    Of a schedule that got further than any constant batch it is at most this; of one that fell behind all of them, at
    least.
    """
    seen = found.outcome
    if seen is None:
        return None
    if found.verdict != GROW:
        return None if seen.fixed_against_best is None else 1 / seen.fixed_against_best
    at = seen.against_best.estimate or seen.best_low or seen.best_high
    return 1 / at if at else None


def _ends(value: Estimate) -> str:
    return f"[{number(value.low)}, {'no end' if value.high is None else number(value.high)}]"


class Share(NamedTuple):
    """A share of cases, with an exact interval of 95 % (Clopper and Pearson)."""

    of: int
    held: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.held} of {self.of} [{100 * self.low:.0f} %, {100 * self.high:.0f} %]"


def share(answers: Iterable[bool]) -> Share:
    """The share of cases that hold.

    Example:
        >>> str(share([True] * 9 + [False]))
        '9 of 10 [55 %, 100 %]'
    """
    values = list(answers)
    n, k = len(values), sum(values)
    low = 0.0 if k == 0 else _root(lambda p: _tail(n, k, p) - 0.025)
    high = 1.0 if k == n else _root(lambda p: 0.025 - (1 - _tail(n, k + 1, p)))
    return Share(n, k, low, high)


def _tail(n: int, k: int, p: float) -> float:
    """The probability of `k` or more of `n`."""
    return math.fsum(math.comb(n, each) * p**each * (1 - p) ** (n - each) for each in range(k, n + 1))


def _root(rising: Callable[[float], float]) -> float:
    """Where a function that rises over [0, 1] is 0."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def coverage(advices: Sequence[Advice]) -> Iterator[str]:
    """How often forecasts held, over all that have an outcome, in sentences; none without any."""
    seen = [found.outcome for found in advices if found.outcome is not None]
    if not seen:
        return
    held = {80: share(each.within_80 for each in seen), 95: share(each.within_95 for each in seen)}
    head = f"Of {len(seen)} {plural('forecast', len(seen))} with an outcome"
    yield f"{head} the 80 % interval held {held[80]}, the 95 % interval {held[95]}."
    harmed = [found.outcome.against_best for found in advices if found.outcome is not None and found.verdict == GROW]
    if harmed:
        slower = share(each == Estimate() or (each.high or math.inf) < 1 for each in harmed)  # or it diverged
        yield f"Where growth was advised, it was slower than the best constant batch for certain in {slower}."
