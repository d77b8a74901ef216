"""A batch in proportion to the noise scale."""

from __future__ import annotations

from dataclasses import dataclass

from adabatch import _checks
from adabatch.policies._base import Policy
from adabatch.types import Observation


@dataclass(frozen=True)
class noise_scale(Policy):  # noqa: N801
    """A batch in proportion to the noise scale of the gradient.

        B = c tr(Sigma) / |G|^2 = c B_simple

    At c = 1 the noise of a batch's gradient is as long as the true gradient, so that an update does half of what it
    would do without noise, and twice the batch would save at most half of the rest. Only a pilot tells which constant
    suits a task: the balance of updates and samples lies at another multiple of B_simple for every one.

    Args:
        c: the multiple of the noise scale, above 0.
        maximum: see `Policy`.
        factor: see `Policy`.
        warmup_samples: see `Policy`.
        shrinks: see `Policy`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if one is out of range.

    Example:
        >>> from adabatch.types import NoiseEstimate, Observation
        >>> policy = noise_scale(1.0, maximum=256)
        >>> state = policy.init()
        >>> for update in range(5):  # a look takes an eighth of 40 new measurements
        ...     noise = NoiseEstimate(200.0, low=150, high=300, trace=200.0, signal=1.0 + update / 1e9, measured=40)
        ...     decision, state = policy.decide(Observation(32 * update, update, 32, noise=noise), state)
        >>> decision.batch_size, decision.reason
        (64, 'noise scale 200, noise_scale asks for 127.8 to 459.4: grows to 64')

    Source:
        McCandlish, Kaplan, Amodei 2018, arXiv 1812.06162: B_simple and the balance of time and samples at the batch
        size of the noise scale.

    Departures:
        The paper adapts the batch to the root of the noise scale, at a constant that it scans. Here it is in
        proportion, moves by a factor, and only on evidence.
    """

    c: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "1 is the noise scale itself"
        object.__setattr__(self, "c", float(_checks.finite("c", self.c, above=0, remedy=remedy)))

    def wanted(self, noise_scale: float, _seen: Observation) -> float:
        """The multiple of the noise scale."""
        return self.c * noise_scale
