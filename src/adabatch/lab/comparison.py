"""The findings of a comparison as records: the content of `compare.json`, written by `study`, read by `report`.

Ratios are the baseline divided by the arm: above 1 is better. Differences of accuracies are the arm minus the baseline,
as fractions. Fields with a default may be missing in older files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from adabatch.lab import shapes
from adabatch.lab.shapes import Amount, Count, Json, Kind, Number, Positive, Rates, Record, Size, Text

SMALL: Final = "fixed-small"
LARGE: Final = "fixed-large"
TIED: Final = 1e-9  # of accuracy: far less than one test sample counts, far more than rounding
_Answer = Annotated[bool | None, Kind("true, false or null", lambda value: value is None or isinstance(value, bool))]


@dataclass(frozen=True, slots=True)
class Summary(Record):
    """Mean, standard deviation (n - 1) and the values themselves; `std` is None for a single value."""

    mean: Number
    std: Number | None
    n: Size
    values: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Spread(Record):
    """Median, smallest, largest and the values themselves."""

    median: Amount
    min: Amount
    max: Amount
    values: tuple[Amount, ...]


class _Interval(Record):
    """A record with `low` and `high`."""

    __slots__ = ()
    low: float | None
    high: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """`low` and `high`; None where one is missing."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True, slots=True)
class Ratio(_Interval):
    """The median of paired ratios and its interval; without an interval if n is 1, all None if there is no ratio."""

    median: Positive | None
    low: Positive | None
    high: Positive | None

    @property
    def is_shown(self) -> bool:
        """Whether the interval excludes 1; without an interval, whether there is a ratio."""
        return self.median is not None and not (self.interval and self.interval[0] <= 1 <= self.interval[1])

    @property
    def inverse(self) -> Ratio:
        """The arm divided by the baseline."""
        return Ratio(*(None if value is None else 1 / value for value in (self.median, self.high, self.low)))


@dataclass(frozen=True, slots=True)
class Difference(_Interval):
    """The mean of paired differences and its interval; without an interval if n is 1."""

    mean: Number
    low: Number | None
    high: Number | None


@dataclass(frozen=True, slots=True)
class OverSamples(Difference):
    """A difference with its interval over `samples` test samples."""

    samples: Size


@dataclass(frozen=True, slots=True)
class BySeed(Record):
    """The worst seed's difference, whether differences are skewed, and an upper limit on failures if none failed."""

    worst: Number | None = None
    skewed: _Answer = None
    unseen_failures: Amount | None = None


@dataclass(frozen=True, slots=True)
class Verdict(Record):
    """Whether the interval shows "within the margin".

    Attributes:
        verdict: `"shown"`, `"worse"` or `"not shown"`.
        words: the verdict and its reason in a clause.
    """

    verdict: Text = "not shown"
    words: Text = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Against(Record):
    """An arm against a baseline, paired by seed."""

    updates_ratio: Positive
    seconds_ratio: Ratio
    seconds_to_target_ratio: Ratio = Ratio(None, None, None)
    accuracy_difference: Difference
    accuracy_difference_by_seed: BySeed = BySeed()
    accuracy_difference_over_samples: OverSamples | None = None
    within_margin: Verdict = Verdict()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals(Record):
    """How many runs reached the target, and when; None for a run that never did."""

    reached: Count
    n: Count
    updates: tuple[Count | None, ...] = ()
    seconds: tuple[Amount | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmOutcome(Record):
    """The findings of an arm's runs, in the order of seeds; counts are medians.

    Attributes:
        diverged: runs in which a loss was not finite; None: not counted.
        at_chance: runs that ended no better than chance without diverging.
        updates_to_target: None if the median run never reached it, as `seconds_to_target`.
    """

    name: Text
    batch_sizes: tuple[Size, ...]
    updates: Size
    samples: Count
    test_accuracy: Summary
    best_accuracy: Summary | None = None
    train_seconds: Spread
    samples_per_second: Rates
    diverged: Count | None = None
    at_chance: Count = 0
    updates_to_target: Amount | None = None
    seconds_to_target: Amount | None = None
    to_target: Arrivals | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Record):
    """A finished comparison.

    Attributes:
        margin: the loss of accuracy, a fraction, within which an arm counts as just as good.
        target: test accuracy, a fraction, up to which updates and seconds are counted.
        settings: of each arm, without the seed.
    """

    format: Count = 1
    task: Text
    model: Text
    device: Text
    versions: Json = field(default_factory=dict)
    seeds: tuple[Count, ...]
    target: Number | None = None
    margin: Amount
    settings: Json = field(default_factory=dict)
    arms: tuple[ArmOutcome, ...]
    against_fixed_small: Mapping[str, Against]
    against_fixed_large: Mapping[str, Against] = field(default_factory=dict)

    @classmethod
    def faults(cls, values: Any) -> Iterator[str]:
        """The faults of the content of a `compare.json`, each in words that follow "got FILE"."""
        yield from (found := list(shapes.faults(values, cls)))
        if found:
            return
        compare = cls.of_json(values)
        small, names = compare.against_fixed_small, [arm.name for arm in compare.arms]
        for name in (*small, *compare.against_fixed_large, *([SMALL] if small else [])):
            if name not in names:
                yield f"without the arm {name!r}"
        for arm in compare.arms:
            if {len(arm.test_accuracy.values), len(arm.train_seconds.values)} != {len(compare.seeds)}:
                yield f"without a value for each seed of {arm.name}"

    def arm(self, name: str) -> ArmOutcome:
        """The arm called `name`."""
        return next(arm for arm in self.arms if arm.name == name)

    def against(self, baseline: str) -> Mapping[str, Against]:
        """The arms against fixed-small or fixed-large; empty if that was not trained."""
        return self.against_fixed_small if baseline == SMALL else self.against_fixed_large

    def seconds(self, arm: ArmOutcome) -> float:
        """An arm's seconds of training: fixed-small's median, divided by the median of the ratios paired by seed.

        If the machine was busy during some seeds, the medians of two arms contradict the median of their ratios, and
        bars would contradict the number above them. Without fixed-small it is the arm's own median.
        """
        told = self._by_ratio(arm, lambda each: each.train_seconds.median, lambda found: found.seconds_ratio)
        return arm.train_seconds.median if told is None else told

    def seconds_to_target(self, arm: ArmOutcome) -> float | None:
        """An arm's seconds of training to the target, found as in `seconds`; None if most runs never reached it."""
        return self._by_ratio(arm, lambda each: each.seconds_to_target, lambda found: found.seconds_to_target_ratio)

    def _by_ratio(
        self, arm: ArmOutcome, time: Callable[[ArmOutcome], float | None], ratio: Callable[[Against], Ratio]
    ) -> float | None:
        base = next((time(each) for each in self.arms if each.name == SMALL), None)
        found = self.against_fixed_small.get(arm.name)
        divisor = None if found is None else ratio(found).median
        if base is None or divisor is None or time(arm) is None or not math.isfinite(base / divisor):
            return time(arm)
        return base / divisor


def lost_words(arm: ArmOutcome, base: ArmOutcome) -> str:
    """How many runs learned nothing, in words: runs of both that diverged, else the baseline's at chance; empty: none.

    To be as good as a baseline at chance is no praise.
    """
    n, diverged = arm.test_accuracy.n, {"its": arm.diverged, "the baseline's": base.diverged}
    words = [f"{count} of {whose} {n} runs" for whose, count in diverged.items() if count]
    if words:
        return f"{' and '.join(words)} diverged"
    return f"{base.at_chance} of the baseline's {n} runs ended no better than chance" if base.at_chance else ""


def unjudged(difference: Difference, lost: str = "") -> str:
    """Why the interval of a difference of accuracies can show nothing; empty if it can."""
    if lost or difference.interval is None:
        return lost or "one seed gives no interval"
    low, high = difference.interval
    return "the seeds do not differ, so their spread is unknown" if high - low < TIED else ""
