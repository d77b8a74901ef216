"""The findings of a finished comparison, from the results of its runs."""

from __future__ import annotations

import math
import statistics as plain
from collections.abc import Mapping, Sequence
from typing import Any, Final

from adabatch.lab import comparison
from adabatch.lab.comparison import LARGE, SMALL, Against, ArmOutcome, Difference, OverSamples, Ratio, Verdict
from adabatch.lab.study import statistics
from adabatch.lab.training import RunResult, unpacked

MARGIN: Final = 0.01


def outcome(results: Mapping[str, Sequence[RunResult]], *, target: float, margin: float = MARGIN) -> dict[str, Any]:
    """The records of all arms and of their comparison with fixed-small and fixed-large.

    Args:
        results: for each arm its runs, one per seed, in the same order of seeds for all arms.
        target: test accuracy, a fraction, up to which updates and seconds are counted.
        margin: the loss of accuracy, as a fraction, within which an arm counts as just as good.

    Returns:
        The fields `target`, `margin`, `arms`, `against_fixed_small` and `against_fixed_large` of a `Comparison`.
    """
    arms = {name: _arm(name, runs, target) for name, runs in results.items()}
    found: dict[str, Any] = {"target": target, "margin": margin, "arms": tuple(arms.values())}
    for baseline in (SMALL, LARGE):
        others = [name for name in results if name != baseline] if results.get(baseline) else []
        lost = {name: comparison.lost_words(arms[name], arms[baseline]) for name in others}
        found[f"against_{baseline.replace('-', '_')}"] = {
            name: _against(results[name], results[baseline], target=target, margin=margin, lost=lost[name])
            for name in others
        }
    return found


def verdict(difference: Difference, *, margin: float, lost: str = "") -> Verdict:
    """Whether the interval shows, and not just the mean, that an arm is within the margin.

    Args:
        difference: of accuracies, the arm minus the baseline, as fractions.
        margin: the loss that is allowed, as a fraction.
        lost: the runs that learned nothing, in words; empty: none.

    Returns:
        Shown if the whole interval lies above minus the margin, worse if it lies below, else not shown.
    """
    if (why := comparison.unjudged(difference, lost)) or difference.interval is None:
        return Verdict("not shown", f"not shown, {why}")
    (low, high), allowed = difference.interval, f"-{100 * margin:.2f}"
    interval = f"[{100 * low:+.2f}, {100 * high:+.2f}] points"
    if low > -margin:
        return Verdict("shown", f"shown, the 95 % interval {interval} lies above {allowed}")
    if high < -margin:
        return Verdict("worse", f"refuted, the 95 % interval {interval} lies below {allowed}")
    return Verdict("not shown", f"not shown, the 95 % interval {interval} reaches below {allowed}")


def _arm(name: str, runs: Sequence[RunResult], target: float) -> ArmOutcome:
    sizes = sorted({size for run in runs for size in run.samples_per_second})
    arrivals = [run.first_at(target) for run in runs]
    updates = tuple(None if arrival is None else arrival.updates for arrival in arrivals)
    seconds = tuple(None if arrival is None else arrival.seconds for arrival in arrivals)
    return ArmOutcome(
        name=name,
        batch_sizes=tuple(runs[0].batch_sizes),
        updates=round(plain.median(run.updates for run in runs)),
        samples=round(plain.median(run.samples for run in runs)),
        test_accuracy=statistics.summary([run.test_accuracy for run in runs]),
        best_accuracy=statistics.summary([run.best_accuracy for run in runs]),
        train_seconds=statistics.spread([run.train_seconds for run in runs]),
        samples_per_second={
            str(size): plain.median(run.samples_per_second[size] for run in runs if size in run.samples_per_second)
            for size in sizes
        },
        diverged=sum(run.diverged_at is not None for run in runs),
        at_chance=sum(run.at_chance and run.diverged_at is None for run in runs),
        updates_to_target=_censored_median(updates),
        seconds_to_target=_censored_median(seconds),
        to_target=comparison.Arrivals(
            reached=sum(value is not None for value in updates), n=len(runs), updates=updates, seconds=seconds
        ),
    )


def _censored_median(values: Sequence[float | None]) -> float | None:
    """The median, with a run that never arrived as infinitely late; None if the median is infinite."""
    median = plain.median(math.inf if value is None else value for value in values)
    return median if math.isfinite(median) else None


def _against(
    runs: Sequence[RunResult], base: Sequence[RunResult], *, target: float, margin: float, lost: str
) -> Against:
    accuracies = [run.test_accuracy for run in runs], [run.test_accuracy for run in base]
    difference = statistics.paired_difference(*accuracies)
    by_seed = [ours - theirs for ours, theirs in zip(*accuracies, strict=True)]
    return Against(
        updates_ratio=plain.median(run.updates for run in base) / plain.median(run.updates for run in runs),
        seconds_ratio=statistics.paired_ratio([run.train_seconds for run in base], [run.train_seconds for run in runs]),
        seconds_to_target_ratio=_target_ratio(runs, base, target),
        accuracy_difference=difference,
        accuracy_difference_by_seed=comparison.BySeed(
            worst=min(by_seed), skewed=statistics.skewed(by_seed), unseen_failures=statistics.unseen_share(len(by_seed))
        ),
        accuracy_difference_over_samples=_over_samples(runs, base),
        within_margin=verdict(difference, margin=margin, lost=lost),
    )


def _over_samples(runs: Sequence[RunResult], base: Sequence[RunResult]) -> OverSamples | None:
    """The difference with its interval over test samples; None if a run did not keep which ones were right."""
    texts = [[run.test_right for run in side] for side in (runs, base)]
    kept = [[unpacked(text) for text in side if text is not None] for side in texts]
    if [len(side) for side in kept] != [len(runs), len(base)]:
        return None
    found = statistics.difference_over_samples(*kept)
    return OverSamples(found.mean, found.low, found.high, samples=len(kept[0][0]))


def _target_ratio(runs: Sequence[RunResult], base: Sequence[RunResult], target: float) -> Ratio:
    """The ratio of seconds to the target; none unless every run arrived, since the pairs that did are biased."""
    arrivals = [(small.first_at(target), run.first_at(target)) for run, small in zip(runs, base, strict=True)]
    seconds = [(small.seconds, arm.seconds) for small, arm in arrivals if small and arm]
    if len(seconds) < len(arrivals):
        return Ratio(None, None, None)
    return statistics.paired_ratio([small for small, _ in seconds], [arm for _, arm in seconds])
