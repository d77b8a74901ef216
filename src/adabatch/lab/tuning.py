"""The findings of `--tune` as records: the content of `tune.json`, written by `study`, read by `report`.

Ratios are the time of a step without a switch divided by the time with it: above 1 is faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from adabatch.lab import shapes
from adabatch.lab.comparison import Ratio
from adabatch.lab.shapes import EMPTY_TOO, Amount, Answer, Count, Json, Record, Size, Text

SWITCHES: Final = ("precision", "channels_last", "compile", "cuda_graphs")  # the settings that may be chosen
_NONE: Final = Ratio(None, None, None)
MARGIN: Final = 1.02  # how much faster, at least, a switch must be shown to be


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried(Record):
    """A switch that was measured, on top of those taken before it.

    Attributes:
        name: in words.
        settings: the fields of `RunConfig` that it sets.
        by_batch_size: the ratio of step times at each measured batch size; empty if a step failed.
        training: the ratio for all updates of the planned training.
        saved_seconds: what it saves of the planned training at least, by the lower end of that interval.
        preparation_seconds: what it takes before the first update for all batch sizes of the training, if it compiles.
        pairs: how often both were measured at each batch size.
        taken: whether it is in force.
        reason: why, or why not.
    """

    name: Text
    settings: Json
    by_batch_size: Mapping[str, Ratio] = field(default_factory=dict)
    training: Ratio = _NONE
    saved_seconds: Amount = 0.0
    preparation_seconds: Amount | None = None
    pairs: Count = 0
    taken: Answer = False
    reason: Text = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning(Record):
    """What was measured, and the settings that were chosen.

    Attributes:
        batch_sizes: the smallest planned one and, if it differs, the largest.
        updates: how many of the planned training count as steps at each of these: those between share in both.
        training_seconds: of all updates without any switch, by the measured steps.
        seconds: that all of it took.
        tried: switches, in the order in which they were measured.
        left: switches that were not measured, each with the reason.
        settings: fields of `RunConfig` that were chosen; empty if nothing is faster.
    """

    format: Count = 1
    task: Text
    model: Text
    device: Text
    device_name: Text
    batch_sizes: tuple[Size, ...]
    updates: tuple[Amount, ...]
    training_seconds: Amount
    seconds: Amount
    tried: Annotated[tuple[Tried, ...], EMPTY_TOO] = ()
    left: Mapping[str, Text] = field(default_factory=dict)
    settings: Json = field(default_factory=dict)

    @classmethod
    def faults(cls, values: Any) -> Iterator[str]:
        """The faults of the content of a `tune.json`, each in words that follow "got FILE"."""
        yield from shapes.faults(values, cls)
