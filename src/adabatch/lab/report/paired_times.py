"""Times of a comparison, told by one statistic: the median of the ratios paired by seed.

The median of each arm's seconds says another thing than the median of ratios where the machine was busy in some of the
seeds: bars would contradict the number above them. So fixed-small's time is its median over seeds, and any other time
is that median divided by the median ratio. Without fixed-small there are no ratios, and each time is its own median.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

Json = Mapping[str, Any]
BASE = "fixed-small"


def seconds(compare: Json, arm: Json) -> float:
    """An arm's seconds of training.

    Args:
        compare: the content of a `compare.json`.
        arm: of it.
    """
    base = next((each["train_seconds"]["median"] for each in compare["arms"] if each["name"] == BASE), None)
    told = _told(base, _ratio(compare, arm["name"], "seconds_ratio"))
    return float(arm["train_seconds"]["median"]) if told is None else told


def seconds_to_target(compare: Json, arm: Json) -> float | None:
    """An arm's seconds of training until the target; None where most runs never arrived.

    Args:
        compare: the content of a `compare.json`.
        arm: of it.
    """
    own: float | None = arm.get("seconds_to_target")
    if own is None:
        return None
    base = next((each.get("seconds_to_target") for each in compare["arms"] if each["name"] == BASE), None)
    told = _told(base, _ratio(compare, arm["name"], "seconds_to_target_ratio"))
    return own if told is None else told


def on_one_clock(histories: Mapping[str, Sequence[Sequence[Json]]]) -> dict[str, list[list[Json]]]:
    """The same evaluations, in all seeds of an arm at the time that is told of them.

    Args:
        histories: for each arm the evaluations of its runs, a run for each seed. An arm whose runs were evaluated at
            different samples, as where one of them diverged and was stopped, is left as it was measured.

    Returns:
        The same with other `seconds`.
    """
    ends = [float(history[-1]["seconds"]) for history in histories.get(BASE, ())]
    return {name: _aligned(runs, ends) for name, runs in histories.items()}


def _aligned(runs: Sequence[Sequence[Json]], ends: Sequence[float]) -> list[list[Json]]:
    places = {tuple(found["samples"] for found in history) for history in runs}
    if len(runs) == 1 or len(places) > 1:
        return [list(history) for history in runs]
    told = [_paired([found["seconds"] for found in point], ends) for point in zip(*runs, strict=True)]
    return [[{**found, "seconds": at} for found, at in zip(history, told, strict=True)] for history in runs]


def _paired(times: Sequence[float], ends: Sequence[float]) -> float:
    """The median end, divided by the median of what the ends are to these times."""
    if len(times) != len(ends) or not all((*times, *ends)):
        return median(times)
    return median(ends) / median(end / time for end, time in zip(ends, times, strict=True))


def _ratio(compare: Json, name: str, key: str) -> float | None:
    found = compare["against_fixed_small"].get(name, {}).get(key) or {}
    ratio: float | None = found.get("median")
    return ratio


def _told(base: float | None, ratio: float | None) -> float | None:
    if base is None or ratio is None:
        return None
    told = base / ratio
    return told if math.isfinite(told) else None
