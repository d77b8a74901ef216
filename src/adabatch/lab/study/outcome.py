"""What a finished comparison found: the content of `compare.json`."""

from __future__ import annotations

import math
import statistics as plain
from collections.abc import Mapping, Sequence
from typing import Any, Final

from adabatch.lab.study import statistics
from adabatch.lab.training import RunResult, unpacked

MARGIN: Final = 0.01


def outcome(results: Mapping[str, Sequence[RunResult]], *, target: float, margin: float = MARGIN) -> dict[str, Any]:
    """The records of all arms and their comparison with fixed-small and fixed-large.

    Args:
        results: for each arm its runs, one per seed, in the same order of seeds for all arms.
        target: test accuracy, a fraction, up to which updates and seconds are counted.
        margin: the loss of accuracy, as a fraction, within which an arm counts as just as good.

    Returns:
        The keys `arms`, `against_fixed_small` and `against_fixed_large` of `compare.json`. Ratios are the baseline
        divided by the arm (above 1 is better); differences of accuracy are the arm minus the baseline, in fractions
        of one test set, with the worst of the seeds.
    """
    found: dict[str, Any] = {"arms": [_arm(name, runs, target) for name, runs in results.items()]}
    for baseline in ("fixed-small", "fixed-large"):
        base = results.get(baseline, ())
        found[f"against_{baseline.replace('-', '_')}"] = {
            name: _against(runs, base, target, margin) for name, runs in results.items() if base and name != baseline
        }
    return found


def verdict(difference: statistics.Difference, *, margin: float, lost: str = "") -> dict[str, str]:
    """Whether "within the margin" is shown by the interval, and not just by the mean.

    Args:
        difference: of accuracies, the arm minus the baseline, as fractions.
        margin: the loss that is allowed, as a fraction.
        lost: which runs learned nothing, in words: they diverged, or the baseline's are no better than chance, as
            good as which anything is. Empty: none.

    Returns:
        `verdict`: `"shown"` (the whole interval lies above minus the margin), `"worse"` (it lies below), else
        `"not shown"`, also where all differences are the same: two equal numbers tell no spread. `words`: the same in
        a clause with its reason.
    """
    low, high, allowed = difference.low, difference.high, f"-{100 * margin:.2f}"
    if lost:
        return {"verdict": "not shown", "words": f"not shown, {lost}"}
    if low is None or high is None:
        return {"verdict": "not shown", "words": "not shown, one seed gives no interval"}
    if high - low < statistics.TIED:
        return {"verdict": "not shown", "words": "not shown, the seeds do not differ, so their spread is unknown"}
    interval = f"[{100 * low:+.2f}, {100 * high:+.2f}] points"
    if low > -margin:
        return {"verdict": "shown", "words": f"shown, the 95 % interval {interval} lies above {allowed}"}
    if high < -margin:
        return {"verdict": "worse", "words": f"refuted, the 95 % interval {interval} lies below {allowed}"}
    return {"verdict": "not shown", "words": f"not shown, the 95 % interval {interval} reaches below {allowed}"}


def _arm(name: str, runs: Sequence[RunResult], target: float) -> dict[str, Any]:
    sizes = sorted({size for run in runs for size in run.samples_per_second})
    arrivals = [run.first_at(target) for run in runs]
    updates = [None if arrival is None else arrival.updates for arrival in arrivals]
    seconds = [None if arrival is None else arrival.seconds for arrival in arrivals]
    return {
        "name": name,
        "batch_sizes": list(runs[0].batch_sizes),
        "updates": round(plain.median(run.updates for run in runs)),
        "samples": round(plain.median(run.samples for run in runs)),
        "test_accuracy": statistics.summary([run.test_accuracy for run in runs]).to_json(),
        "best_accuracy": statistics.summary([run.best_accuracy for run in runs]).to_json(),
        "train_seconds": statistics.spread([run.train_seconds for run in runs]).to_json(),
        "samples_per_second": {
            str(size): plain.median(run.samples_per_second[size] for run in runs if size in run.samples_per_second)
            for size in sizes
        },
        "diverged": _diverged(runs),
        "at_chance": _at_chance(runs),
        "updates_to_target": _censored_median(updates),
        "seconds_to_target": _censored_median(seconds),
        "to_target": {
            "reached": sum(value is not None for value in updates),
            "n": len(runs),
            "updates": updates,
            "seconds": seconds,
        },
    }


def _censored_median(values: Sequence[float | None]) -> float | None:
    """The median when a run that never arrived counts as infinitely late; None when that is where the median lies."""
    median = plain.median(math.inf if value is None else value for value in values)
    return median if math.isfinite(median) else None


def _against(runs: Sequence[RunResult], base: Sequence[RunResult], target: float, margin: float) -> dict[str, Any]:
    accuracies = [run.test_accuracy for run in runs], [run.test_accuracy for run in base]
    difference = statistics.paired_difference(*accuracies)
    by_seed = [ours - theirs for ours, theirs in zip(*accuracies, strict=True)]
    return {
        "updates_ratio": plain.median(run.updates for run in base) / plain.median(run.updates for run in runs),
        "seconds_ratio": statistics.paired_ratio(
            [run.train_seconds for run in base], [run.train_seconds for run in runs]
        ).to_json(),
        "seconds_to_target_ratio": _target_ratio(runs, base, target).to_json(),
        "accuracy_difference": difference.to_json(),
        "accuracy_difference_by_seed": {
            "worst": min(by_seed),
            "skewed": statistics.skewed(by_seed),
            "unseen_failures": statistics.unseen_share(len(by_seed)),
        },
        "accuracy_difference_over_samples": _over_samples(runs, base),
        "within_margin": verdict(difference, margin=margin, lost=_lost_words(runs, base)),
    }


def _over_samples(runs: Sequence[RunResult], base: Sequence[RunResult]) -> dict[str, float | None] | None:
    """The difference with its interval over test samples; None where a run did not keep which ones were right."""
    texts = [[run.test_right for run in side] for side in (runs, base)]
    kept = [[unpacked(text) for text in side if text is not None] for side in texts]
    if [len(side) for side in kept] != [len(runs), len(base)]:
        return None
    return {**statistics.difference_over_samples(*kept).to_json(), "samples": len(kept[0][0])}


def _diverged(runs: Sequence[RunResult]) -> int:
    return sum(run.diverged_at is not None for run in runs)


def _at_chance(runs: Sequence[RunResult]) -> int:
    """Runs that ended no better than chance without a loss that was not finite."""
    return sum(run.at_chance and run.diverged_at is None for run in runs)


def _lost_words(runs: Sequence[RunResult], base: Sequence[RunResult]) -> str:
    found = {"its": _diverged(runs), "the baseline's": _diverged(base)}
    words = [f"{count} of {whose} {len(runs)} runs" for whose, count in found.items() if count]
    if words:
        return f"{' and '.join(words)} diverged"
    at_chance = _at_chance(base)
    return f"{at_chance} of the baseline's {len(base)} runs ended no better than chance" if at_chance else ""


def _target_ratio(runs: Sequence[RunResult], base: Sequence[RunResult], target: float) -> statistics.Ratio:
    """Only when every run of both arms arrived: the pairs that did are a biased choice."""
    arrivals = [(small.first_at(target), run.first_at(target)) for run, small in zip(runs, base, strict=True)]
    seconds = [(small.seconds, arm.seconds) for small, arm in arrivals if small and arm]
    if len(seconds) < len(arrivals):
        return statistics.Ratio(None, None, None)
    return statistics.paired_ratio([small for small, _ in seconds], [arm for _, arm in seconds])
