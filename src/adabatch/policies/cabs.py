"""Coupled adaptive batch sizes: the batch follows LR, variance and loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.policies import _evidence
from adabatch.policies._base import Policy
from adabatch.types import Observation


@dataclass(frozen=True)
class cabs(Policy):  # noqa: N801
    """Coupled adaptive batch sizes: the batch follows LR, variance and loss, for SGD without momentum.

        B = lr tr(Sigma) / (F - floor)

    The derivation needs the plain step `-lr g` and the LR as it is, so another optimizer, momentum, or a coupling other
    than `none` is refused: a coupled LR would feed back. Tell the loss at every update: `batches.step(loss=loss)`.
    A run of several ranks that is resumed between two decisions takes the first rank's losses before for those of all.

    Args:
        loss_floor: the lowest loss that can be reached; in the loss of training, with its regularisation.
        maximum: see `Policy`.
        factor: see `Policy`.
        warmup_samples: see `Policy`.
        shrinks: see `Policy`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if one is out of range.

    Example:
        >>> from adabatch.types import NoiseEstimate, Observation
        >>> noise = NoiseEstimate(noise_scale=500, low=300, high=900, trace=500.0, signal=1.0, measured=1000)
        >>> seen = Observation(clock=3200, updates=100, batch_size=32, lr=0.1, loss=0.5, noise=noise)
        >>> [round(end, 1) for end in cabs(maximum=256).interval(seen, 1.96)]
        [91.8, 109.4]

    Source:
        Balles, Romero, Hennig 2017, arXiv 1612.05086. The authors smooth variance and loss with 0.95; here the tap's
        memory does that, and the loss is the mean since the decision before.

    Departures:
        The paper takes 0 as the floor and sets the batch anew at each update. Here it moves by a factor, and only on
        evidence: between the ends that the trace would have if all noise lay in one direction, the widest that normal
        noise can be. What is not known of the loss is not part of the interval.
    """

    coupling: ClassVar[str] = "none"
    needs_loss: ClassVar[bool] = True

    loss_floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "loss_floor", float(_checks.finite("loss_floor", self.loss_floor)))

    def wanted(self, noise_scale: float, seen: Observation) -> float:
        """The batch at the trace that the noise scale means."""
        assert seen.noise is not None
        return self._at(noise_scale * max(seen.noise.signal, 0), seen)

    def missing(self, seen: Observation) -> str:
        """The loss or the LR, in words."""
        if seen.lr is None:
            return "no LR was in force yet"
        if seen.loss is None:
            return "no loss was told: call `batches.step(loss=loss)`"
        if not isfinite(seen.loss):
            return f"the loss of {seen.loss} is no number"
        if seen.loss <= self.loss_floor:
            return f"the loss of {seen.loss:.4g} is not above the floor of {self.loss_floor:g}"
        return ""

    def interval(self, seen: Observation, z: float) -> tuple[float, float]:
        """See `Policy.interval`; from the trace alone."""
        assert seen.noise is not None
        low, high = _evidence.variance_between(seen.noise, z)
        return self._at(low, seen), self._at(high, seen)

    def _at(self, trace: float, seen: Observation) -> float:
        assert seen.lr is not None
        assert seen.loss is not None
        return seen.lr * trace / (seen.loss - self.loss_floor)

    def check_training(self, optimizer: object, coupling: str) -> None:
        """See `Policy.check_training`."""
        name = type(optimizer).__name__
        if not any(parent.__name__ == "SGD" for parent in type(optimizer).__mro__):
            rule, remedy = "'cabs' was derived for SGD without momentum", "use `noise_scale` for others"
            raise ArgumentError("policy", rule, got=name, remedy=remedy)
        groups: list[Mapping[str, Any]] = getattr(optimizer, "param_groups", [])
        momentum = max((float(group.get("momentum", 0)) for group in groups), default=0.0)
        if momentum:
            rule, remedy = "'cabs' was derived for SGD without momentum", "use `noise_scale`, or a momentum of 0"
            raise ArgumentError("policy", rule, got=f"a momentum of {momentum:g}", remedy=remedy)
        if coupling != "none":
            rule = "must be 'none' under the policy 'cabs', whose batch follows the LR: a coupled LR would feed back"
            raise ArgumentError("coupling", rule, value=coupling, remedy="leave it out")
