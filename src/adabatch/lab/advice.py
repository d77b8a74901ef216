"""Advice as records: the content of `advice.json`, written by `advise`, read by `report`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from adabatch.lab.scaling import Estimate, LearningCurve
from adabatch.lab.shapes import (
    EMPTY_TOO,
    Amount,
    Answer,
    Count,
    Json,
    Loss,
    Positive,
    Record,
    Size,
    Text,
    faults,
)

GROW: Final = "grow"
NO_EVIDENCE: Final = "no evidence"
NO_GAIN: Final = "no gain in speed"


@dataclass(frozen=True, slots=True)
class Forecast(Record):
    """The ratio of times that is expected of three other seeds and whole trainings.

    Attributes:
        at_80: with the interval that holds it with 80 %.
        at_95: with 95 %.
    """

    at_80: Estimate
    at_95: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedBatch(Record):
    """A constant batch size.

    Attributes:
        lr: after warm-up.
        curves: the cooled curve of each seed.
        seconds_to_target: to the loss that the best batch size reaches with every seed.
    """

    batch_size: Size
    lr: Positive
    curves: Annotated[tuple[LearningCurve, ...], EMPTY_TOO]
    seconds_to_target: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowingBatch(Record):
    """A schedule, and its trainings, one for each seed.

    Attributes:
        name: `"early"` or `"late"`.
        words: the schedule in words.
        schedule: batch sizes, as `schedules.Schedule.to_json` writes them.
        coupling: how the LR follows.
        seconds: of each training.
        train_losses: at the end of each.
        test_losses: likewise.
        against: the fixed batch size that gets to this schedule's test loss first.
        ratio: its time over that of this schedule, to that loss, in the mean of endless seeds, with an interval of
            80 %. The verdict rests on it.
        forecast: the same ratio, as a few other seeds will show it.
    """

    name: Text
    words: Text
    schedule: Json
    coupling: Text
    seconds: tuple[Amount, ...]
    train_losses: tuple[Loss, ...]
    test_losses: tuple[Loss, ...]
    against: Size
    ratio: Estimate
    forecast: Forecast


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Record):
    """Whole trainings with seeds that the advice had not seen, beside its forecast.

    Attributes:
        seeds: of these trainings.
        epochs: of each.
        ratio: that of the forecast: the time of the same fixed batch over that of the chosen schedule, to the same test
            loss; with a 95 % interval.
        low: the ratio as it was measured. If the fixed batch never got to the schedule's loss, the ratio is at least
            `low` and `high` is None; if it was there before its first point, it is at most `high` and `low` is 0.
        high: likewise; else the same as `low`.
        within_80: whether the forecast's interval of 80 % holds what was measured.
        within_95: likewise.
        best_fixed: batch size.
        against_best: as `ratio`, against the fixed batch that is the first at that loss here.
        best_low: as `low`, against that batch.
        best_high: as `high`, against that batch.
        fixed_against_best: the time of the best fixed batch over that of the advised one, to the loss that the best
            reaches; at most 1. None: the advised one does not get there.
        seconds: of all of it.
    """

    seeds: tuple[Count, ...]
    epochs: Size
    ratio: Estimate
    low: Amount
    high: Amount | None
    within_80: Answer
    within_95: Answer
    best_fixed: Size
    against_best: Estimate
    best_low: Amount
    best_high: Amount | None
    fixed_against_best: Positive | None
    seconds: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice(Record):
    """The findings of `adabatch advise`.

    Attributes:
        settings: of the trainings, and the budget.
        seconds: of all of it.
        verdict: `"grow"`, `"no evidence"` or `"no gain in speed"`; in the last case the fields after `gain` are
            missing, but for `lr`, which is the task's.
        gain: samples per second at four times the base batch size over those at the base batch size; None: four times
            as large a batch was not measured.
        lr: the best at the base batch size.
        lr_at_edge: whether it is the lowest or the highest that was tried.
        epochs: of the trainings on which the advice rests.
        whole_epochs: of a whole training.
        samples: of the training set, on which it rests.
        whole_samples: of the whole training set.
        seeds: of the trainings.
        fixed: constant batch sizes, growing.
        best_fixed: batch size.
        critical_batch: of the test loss, by form 1.
        growing: the schedules.
        chosen: name of the schedule that promises most.
        schedule: that schedule over a whole training on all samples.
        outcome: of whole trainings; None: not measured.
    """

    format: Count = 1
    task: Text
    model: Text
    settings: Json = field(default_factory=dict)
    versions: Json = field(default_factory=dict)
    seconds: Amount
    verdict: Text
    gain: Positive | None
    lr: Positive
    lr_at_edge: Answer = False
    epochs: Size | None = None
    whole_epochs: Size
    samples: Size
    whole_samples: Size
    seeds: Annotated[tuple[Count, ...], EMPTY_TOO] = ()
    fixed: Annotated[tuple[FixedBatch, ...], EMPTY_TOO] = ()
    best_fixed: Size | None = None
    critical_batch: Estimate | None = None
    growing: Annotated[tuple[GrowingBatch, ...], EMPTY_TOO] = ()
    chosen: Text | None = None
    schedule: Json | None = None
    outcome: Outcome | None = None

    @property
    def choice(self) -> GrowingBatch | None:
        """The schedule that promises most; None where none was tried."""
        return next((tried for tried in self.growing if tried.name == self.chosen), None)

    @classmethod
    def faults(cls, values: Any) -> Iterator[str]:
        """The faults of the content of an `advice.json`, each in words that follow "got FILE"."""
        yield from (found := list(faults(values, cls)))
        if found or values["verdict"] == NO_GAIN:
            return
        if cls.of_json(values).choice is None:
            yield "without the schedule that it chose"
        if values.get("best_fixed") not in [row["batch_size"] for row in values["fixed"]]:
            yield "without the trainings at the best fixed batch size"


def holds(interval: Estimate, low: float, high: float | None) -> bool:
    """Whether an interval holds all from `low` to `high`; None is infinite.

    Example:
        >>> holds(Estimate(1.2, 1.0, 1.5), 1.4, 1.4), holds(Estimate(1.2, 1.0, 1.5), 1.4, None)
        (True, False)
    """
    bottom, top = interval.interval
    return bottom <= low and (math.inf if high is None else high) <= top
