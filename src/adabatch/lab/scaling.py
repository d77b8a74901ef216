"""The findings of a study as records: the content of `study.json`, written by `study`, read by `report`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Self

from adabatch.lab.shapes import (
    EMPTY_TOO,
    Amount,
    Answer,
    Count,
    Json,
    Kind,
    Loss,
    Number,
    Positive,
    Record,
    Size,
    Text,
    faults,
)

LATER: Final = "later"
EARLIER: Final = "earlier"
_FAR: Final = 600.0  # a logarithm, from which on a number counts as infinite
_POINT: Final = (Size, Count, Amount, Loss, Loss)
_Power = Annotated[float, Kind("a number from 0 to 8", lambda value: not any(faults(value, Amount)) and value <= 8)]
_BRANCHING: Final = {"base": {"batch_size": Size}, "forks": [Positive], "seeds": [Count]}
GROWTH: Final = ("early", "late", "any time", "none")  # when it suits a task


def _are_points(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(point, list)
        and len(point) == len(_POINT)
        and not any(True for value, shape in zip(point, _POINT, strict=True) for _ in faults(value, shape))
        for point in values
    )


@dataclass(frozen=True, slots=True)
class Estimate(Record):
    """A positive quantity with its interval; a bound that data do not give is missing, never guessed.

    Attributes:
        estimate: None: infinite, or the data cannot tell.
        low: 0: no lower bound.
        high: None: no upper bound.
    """

    estimate: Amount | None = None
    low: Amount = 0.0
    high: Amount | None = None

    @classmethod
    def of(cls, estimate: float, low: float = 0.0, high: float = math.inf) -> Self:
        """An estimate in which numbers may be infinite or NaN."""
        values = [float(value) if math.isfinite(value) else None for value in (estimate, low, high)]
        return cls(values[0], values[1] or 0.0, values[2])

    @property
    def interval(self) -> tuple[float, float]:
        """`low` and `high`, infinite where there is no upper bound."""
        return self.low, math.inf if self.high is None else self.high


@dataclass(frozen=True, slots=True)
class Arrival(Record):
    """The place where a run arrives at a target, or what bounds it.

    Attributes:
        updates: until the target.
        samples: until the target; None: not known.
        seconds: until the target; None: not known.
        censored: empty if the run arrived here; `"later"` if it had not arrived when its curve ended here; `"earlier"`
            if the first point of its curve, which is here, lies at or below the target.
    """

    updates: Positive
    samples: Amount | None = None
    seconds: Amount | None = None
    censored: Text = ""


@dataclass(frozen=True, slots=True)
class Target(Record):
    """A target loss and the batch size whose runs set it."""

    loss: Number
    batch_size: Size


@dataclass(frozen=True, slots=True, kw_only=True)
class ToTarget(Record):
    """The cost of a target at one batch size, against the base batch size.

    Attributes:
        n: runs.
        arrived: runs that arrived.
        runs: where each arrived, in the order of seeds.
        updates: k(m), geometric mean over runs.
        samples: likewise.
        seconds: likewise.
        speedup: in updates, k(m0) / k(m).
        ideal: m / m0.
        cost: samples over those of the base batch, (m / m0) / speedup.
        seconds_speedup: seconds of the base batch over these.
    """

    batch_size: Size
    n: Size
    arrived: Count
    runs: tuple[Arrival, ...]
    updates: Estimate
    samples: Estimate
    seconds: Estimate
    speedup: Estimate
    ideal: Positive
    cost: Estimate
    seconds_speedup: Estimate


@dataclass(frozen=True, slots=True)
class FTest(Record):
    """An F statistic with its degrees of freedom and the probability of a larger one if the smaller model is true."""

    f: Amount
    degrees: tuple[Size, ...]
    p: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit(Record):
    """A form fitted to updates by batch size.

    The regimes: perfect scaling up to the batch size at which samples are 1.2 times the fewest; then diminishing
    returns; stagnation from the batch size on at which a doubled batch saves less than 10 % of the updates. The fewest
    samples are those over batch sizes from `smallest_batch` on.

    Attributes:
        form: 1 or 2.
        critical_batch: B_crit, where S = 2 S_min.
        batch_at_20_percent_more_samples: the largest batch size that needs at most 1.2 times the fewest samples.
        stagnation_batch: see above; 4 B_crit in form 1.
        min_updates: S_min, of an infinite batch.
        min_samples: E_min, in form 1 S_min B_crit, the limit for small batches; in form 2 the fewest samples.
        best_batch: the batch size, above 0, that needs the fewest samples of all; 0: the smaller, the better.
        exponent: a; 1 in form 1.
        smallest_batch: see above; by default the smallest that was measured.
        std: standard deviation of a run's log S; None: not known.
        degrees: its degrees of freedom.
        std_from: `"repeats"`; `"residuals"` where there are none, so that a misfit widens the intervals; `"nothing"`
            without intervals.
        lack_of_fit: of the form, against the spread of repeats; None: without repeats, or with too few batch sizes.
        misfit: the largest distance of the form from the mean log S of a batch size whose runs all arrived; 0.1 is
            about 10 %. None if it could not be fitted.
        middle_batch: the geometric mean of the batch sizes.
        middle_updates: what the form says there; None if it could not be fitted.
    """

    form: Size
    critical_batch: Estimate
    batch_at_20_percent_more_samples: Estimate
    stagnation_batch: Estimate
    min_updates: Estimate
    min_samples: Estimate
    best_batch: Estimate
    exponent: Estimate
    smallest_batch: Positive
    std: Amount | None
    degrees: Count
    std_from: Text
    lack_of_fit: FTest | None
    misfit: Amount | None
    middle_batch: Positive
    middle_updates: Positive | None

    def updates(self, batch_size: float) -> float | None:
        """The updates that the form says for a batch size; None if it could not be fitted."""
        if self.middle_updates is None:
            return None
        a, middle = self.exponent.estimate or 1.0, math.log(self.middle_batch)
        log = math.log(self.middle_updates)
        if self.critical_batch.estimate is None:
            log += a * (middle - math.log(batch_size))
        elif self.critical_batch.estimate > 0:
            critical = math.log(self.critical_batch.estimate)
            log += _log_of_1_and_exp(a * (critical - math.log(batch_size)))
            log -= _log_of_1_and_exp(a * (critical - middle))
        return math.exp(log) if log < _FAR else math.inf


def _log_of_1_and_exp(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits(Record):
    """Both forms fitted to the same runs.

    Attributes:
        exponent_needed: form 1 against form 2; a small p says that form 1 does not do. None: without variance.
    """

    confidence: Positive
    batch_sizes: tuple[Size, ...]
    runs: Size
    arrived: Count
    form_1: Fit
    form_2: Fit
    exponent_needed: FTest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToLoss(Record):
    """The way to a target loss.

    Attributes:
        target: None if no batch size has a finite loss with every seed.
        to_target: a record for each batch size of which a run has a loss.
        fits: of the updates against the batch size; None with fewer than two batch sizes.
    """

    target: Target | None
    to_target: Annotated[tuple[ToTarget, ...], EMPTY_TOO] = ()
    fits: Fits | None = None


@dataclass(frozen=True, slots=True)
class LearningCurve(Record):
    """The cooled curve of one training.

    Attributes:
        points: each `[updates, samples, seconds, train_loss, test_loss]`; a loss that is not finite is None.
    """

    seed: Count
    points: Annotated[Sequence[Sequence[Any]], Kind("a list of points of a curve, five values each", _are_points)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell(Record):
    """The trainings at one batch size.

    Attributes:
        lr: after warm-up.
        momentum: of the optimizer.
        at_edge: whether the best LR or momentum lay at the edge of its grid to the end.
        samples_per_second: of training, median over seeds; None: too short to tell.
        linear_approximation_error: of the loss over a step at the linearly scaled LR, in its units, at the end of the
            budget in which the target is set; geometric mean over seeds.
        stopped: how many trainings ended why.
        curves: of each seed.
    """

    batch_size: Size
    lr: Positive
    momentum: Amount
    at_edge: Answer = False
    samples_per_second: Positive | None = None
    linear_approximation_error: Estimate = field(default_factory=Estimate)
    stopped: Mapping[str, Count] = field(default_factory=dict)
    curves: Annotated[tuple[LearningCurve, ...], EMPTY_TOO] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Record):
    """All batch sizes under one LR rule, and their ways to the target training loss and the target test loss."""

    rule: Text
    cells: tuple[Cell, ...]
    train: ToLoss
    test: ToLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel(Record):
    """A network on a share of the data; all its rules have the same targets."""

    model: Text
    fraction: Positive
    samples: Size
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalBatch(Record):
    """The critical batch size in short: of one network, one LR rule and one loss, by form 1.

    Attributes:
        truth: the same fit to updates computed without sampling; None: not known.
    """

    estimate: Amount | None
    low: Amount
    high: Amount | None
    truth: Amount | None = None
    model: Text
    rule: Text
    loss: Text
    target: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Study(Record):
    """A finished study.

    Attributes:
        settings: the grid.
    """

    format: Count = 1
    task: Text
    settings: Json = field(default_factory=dict)
    versions: Json = field(default_factory=dict)
    panels: tuple[Panel, ...]
    critical_batch: CriticalBatch | None = None

    @classmethod
    def faults(cls, values: Any) -> Iterator[str]:
        """The faults of the content of a `study.json`, each in words that follow "got FILE"."""
        yield from (found := list(faults(values, cls)))
        if found:
            return
        for panel in cls.of_json(values).panels:
            for rule in panel.rules:
                sizes = {cell.batch_size for cell in rule.cells}
                if any(way.fits and not way.to_target for way in (rule.train, rule.test)):
                    yield f"without the batch sizes to which the fits of {panel.model}, {rule.rule} belong"
                for row in (*rule.train.to_target, *rule.test.to_target):
                    if row.batch_size not in sizes:
                        yield f"without the trainings at batch size {row.batch_size} of {panel.model}, {rule.rule}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchCell(Record):
    """Branches with one factor at one fork, against base branches.

    Attributes:
        fork: place of the fork, a share of the training.
        window: samples of the branch, a share of the training.
        factor: how many times as large its batches are.
        power: of the factor, in its LR.
        loss_ratio: its loss over the base branch's.
        worst_ratio: the upper end of the one-sided interval of that; None: no end.
        cost: its samples over those that base branches need to the same loss; 1.2 means 20 % more.
        truth: the cost, computed without sampling; None: not known.
    """

    fork: Positive
    window: Positive
    factor: Size
    power: _Power
    loss_ratio: Estimate
    worst_ratio: Positive | None
    cost: Estimate
    truth: Amount | None = None

    @property
    def lr_factor(self) -> float:
        """Its LR over that of the run."""
        return math.pow(self.factor, self.power)


@dataclass(frozen=True, slots=True, kw_only=True)
class Harmless(Record):
    """The largest factor at each fork that does no harm, for one window and one tolerance."""

    window: Positive
    tolerance: Amount
    factors: tuple[Size, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchFindings(Record):
    """The findings of branching.

    Attributes:
        settings: of the branching.
        loss: `"train"` or `"test"`.
        harmless: for each window and each tolerance.
        window: by which the schedule is made.
        tolerance: by which the schedule is made.
        coupling: that goes with the schedule.
        growth: one of `GROWTH`.
        schedule: batch sizes, as `schedules.Schedule.to_json` writes them.
    """

    format: Count = 1
    task: Text
    model: Text
    settings: Json = field(default_factory=dict)
    versions: Json = field(default_factory=dict)
    loss: Text
    cells: tuple[BranchCell, ...]
    harmless: tuple[Harmless, ...]
    window: Positive
    tolerance: Amount
    coupling: Text
    growth: Text
    schedule: Json

    @property
    def base_batch_size(self) -> int:
        """The batch size of the ordinary run."""
        return int(self.settings["base"]["batch_size"])

    @property
    def forks(self) -> tuple[float, ...]:
        """The places of the forks, as shares of the training."""
        return tuple(self.settings["forks"])

    @classmethod
    def faults(cls, values: Any) -> Iterator[str]:
        """The faults of the content of a `branch.json`, each in words that follow "got FILE"."""
        yield from (found := list(faults(values, cls)))
        if found:
            return
        yield from (found := list(faults(values.get("settings"), _BRANCHING, "settings")))
        if found:
            return
        forks, rows = values["settings"]["forks"], values["harmless"]
        if any(not below < fork < 1 for below, fork in zip([0.0, *forks], forks, strict=False)):
            yield f"with settings.forks {repr(forks)[:40]}, which must be growing shares of the training"
        if any(cell["fork"] not in forks for cell in values["cells"]):
            yield "with branches at forks that are not in settings.forks"
        if any(len(row["factors"]) != len(forks) for row in rows):
            yield "without a harmless factor for each fork"
        if (values["window"], values["tolerance"]) not in [(row["window"], row["tolerance"]) for row in rows]:
            yield "without the harmless factors of the schedule's window and tolerance"
        if values["growth"] not in GROWTH:
            yield f"with growth {values['growth'][:40]!r}, which must be {', '.join(GROWTH)}"
