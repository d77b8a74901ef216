"""Thins the evaluations of long runs to those that can be seen, so that a page of 10,000 stays small."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import fmean

from adabatch.lab.report.folders import SavedRun
from adabatch.lab.shapes import Json

_DRAWN = ("test_accuracy", "test_loss", "train_loss")


def thinned(runs: Sequence[SavedRun], most: int, keys: Sequence[str] = _DRAWN) -> list[SavedRun]:
    """The runs of an arm with about `most` evaluations each, and as many changes of the batch size.

    It keeps the ends of equally long stretches and each stretch's extremes of `keys`, the values that are drawn, and up
    to half as many evaluations right before and after changes of the batch size. Runs evaluated at the same samples
    keep the same evaluations.
    """
    if len({tuple(found["samples"] for found in run.history) for run in runs}) > 1:
        return [thinned([run], most, keys)[0] for run in runs]
    histories = [run.history for run in runs]
    if len(histories[0]) > most:
        values = [_middle(histories, key) for key in keys]
        kept = _places(len(histories[0]), most, values)
        kept |= set(_some(_beside_changes(histories[0]), most // 2))
        histories = [[history[place] for place in sorted(kept)] for history in histories]
    return [
        replace(run, history=history, decisions=_few_decisions(run.decisions, most))
        for run, history in zip(runs, histories, strict=True)
    ]


def _few_decisions(decisions: Sequence[Json], most: int) -> Sequence[Json]:
    if len(decisions) <= most:
        return decisions
    sizes = [float(found["batch_size"]) for found in decisions]
    return [decisions[place] for place in sorted(_places(len(decisions), most, [sizes]))]


def _middle(histories: Sequence[Sequence[Json]], key: str) -> list[float | None]:
    """The mean over runs at each evaluation, as it is drawn; None where a run lacks the value."""
    columns = zip(*([found.get(key) for found in history] for history in histories), strict=True)
    return [None if None in column else fmean(column) for column in columns]


def _places(count: int, most: int, values: Sequence[Sequence[float | None]]) -> set[int]:
    """The places of first, last, smallest and largest values in each of equally long stretches."""
    stretches = max(most // (2 + 2 * len(values)), 1)
    kept: set[int] = set()
    for stretch in range(stretches):
        start, end = stretch * count // stretches, (stretch + 1) * count // stretches
        kept |= {start, end - 1}
        for found in values:
            for extreme in (min, max):
                if (place := _extreme(found, range(start, end), extreme)) is not None:
                    kept.add(place)
    return kept


def _extreme(values: Sequence[float | None], places: range, pick: Callable[..., int]) -> int | None:
    known = [(place, value) for place in places if (value := values[place]) is not None]
    return pick(known, key=lambda pair: pair[1])[0] if known else None  # type: ignore[index]


def _beside_changes(history: Sequence[Json]) -> list[int]:
    changes = [
        place for place in range(1, len(history)) if history[place]["batch_size"] != history[place - 1]["batch_size"]
    ]
    return sorted({beside for place in changes for beside in (place - 1, place)})


def _some(places: Sequence[int], most: int) -> Iterable[int]:
    stride = -(-len(places) // most) if most else 1
    return places[:: max(stride, 1)]
