"""Cooled learning curves as records, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class CurvePoint(NamedTuple):
    """One point of a cooled curve.

    Attributes:
        updates: made, those of the point's cooldown among them.
        samples: trained on.
        seconds: of training, the cooldown's among them, evaluation not.
        train_loss: after the cooldown; None if it is not finite.
        test_loss: after the cooldown; None if it is not finite.
    """

    updates: int
    samples: int
    seconds: float
    train_loss: float | None
    test_loss: float | None


@dataclass(frozen=True, slots=True)
class Curve:
    """The cooled curve of one training.

    Attributes:
        points: in the order of updates; none if the training could not be done.
        stopped: `"budget"`, `"arrived"`, `"out of reach"`, `"diverged"`, `"out of memory"` or `"lost"`.
        wall_seconds: that it took, cooldowns and evaluations among them.
        linear_approximation_error: see `linearity`, at the end of the budget in which the target is set, after the
            cooldown; None: not measured, or not finite.
    """

    points: tuple[CurvePoint, ...]
    stopped: str = "budget"
    wall_seconds: float = 0.0
    linear_approximation_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        found = {name: getattr(self, name) for name in ("stopped", "wall_seconds", "linear_approximation_error")}
        return {"points": [list(point) for point in self.points], **found}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Curve:
        """The curve that `to_json` wrote."""
        points = tuple(CurvePoint(*point) for point in values["points"])
        error = values.get("linear_approximation_error")  # older ones have none
        return cls(points, values["stopped"], values["wall_seconds"], error)
