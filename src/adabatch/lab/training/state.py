"""The state of a run: what a checkpoint holds, of the same size however long the run is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from adabatch._errors import ArgumentError
from adabatch.lab.training.config import RunConfig
from adabatch.lab.training.records import Evaluation, checked, unpacked


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """All that a run goes on from, but for its evaluations and decisions, which its logs hold.

    Attributes:
        config: the settings.
        data: the fingerprint of the data.
        parts: the states of network, optimizer, loader and batch schedule.
        updates: optimizer updates so far.
        samples: samples trained on so far.
        loss_sum: of the samples since the last evaluation.
        loss_samples: how many these are.
        stopwatch: batch size, samples and seconds of each batch size.
        evaluations: lines of the metrics that belong to it.
        decisions: lines of the decisions that belong to it.
        test_right: which test samples were right at the end, once it is there.
    """

    config: RunConfig
    data: str
    parts: Mapping[str, Any]
    updates: int
    samples: int
    loss_sum: Any  # a float, which is not finite where the run diverged
    loss_samples: int
    stopwatch: list[list[Any]]
    evaluations: int
    decisions: int
    test_right: str | None

    def to_dict(self) -> dict[str, Any]:
        """Tensors, numbers, text, dicts and lists."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"config": self.config.to_json()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunState:
        """The state that `to_dict` gave.

        Args:
            values: as a checkpoint holds them, with entries of its own beside them.

        Raises:
            ValueError: if an entry is missing, of another kind or negative.
        """
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in values]:
            raise ArgumentError(None, f"{missing[0]} is missing")
        try:
            config = RunConfig.from_json(values["config"])
            state = checked(cls(**{name: values[name] for name in names} | {"config": config}))
        except TypeError as error:
            raise ArgumentError(None, str(error)) from None
        if not isinstance(state.loss_sum, float) or state.loss_sum < 0:
            raise ArgumentError(None, "loss_sum must be a number from 0 on", got=f"{repr(state.loss_sum)[:40]}")
        if state.test_right is not None:
            unpacked(state.test_right)
        return state

    def check_history(self, history: Sequence[Evaluation]) -> None:
        """Checks that evaluations are those before this state.

        Args:
            history: all of them, as the metrics hold them.

        Raises:
            ValueError: if they do not follow each other, or the last one is not where the sum of losses begins.
        """
        places = [0, *(found.samples for found in history)]
        if any(after <= before for before, after in pairwise(places)):
            raise ArgumentError(None, "evaluations out of order")
        began = self.parts["loader"]["clock"] - self.loss_samples
        if places[-1] > began or (places[-1] < began and not self.config.drop_last):  # which passes some samples
            raise ArgumentError(None, f"the last evaluation at sample {places[-1]:,} in place of {began:,}")
