"""A batch in proportion to the diversity of the samples' gradients."""

from __future__ import annotations

from dataclasses import dataclass

from adabatch import _checks
from adabatch.policies._base import Policy
from adabatch.types import Observation


@dataclass(frozen=True)
class diversity(Policy):  # noqa: N801
    """A batch in proportion to the diversity of the samples' gradients.

        n Delta = n sum |g_i|^2 / |sum g_i|^2 = 1 + B_simple over the n samples of the data set,  B = delta n Delta

    The mean of |g_i|^2 is |G|^2 + tr(Sigma), which over |G|^2 gives the right-hand side. So it is `noise_scale(delta)`,
    and delta samples more.

    Args:
        delta: the multiple of the diversity, above 0. It is tuned for each task, so there is no default.
        maximum: see `Policy`.
        factor: see `Policy`.
        warmup_samples: see `Policy`.
        shrinks: see `Policy`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if one is out of range.

    Example:
        >>> from adabatch.types import Observation
        >>> diversity(0.5, maximum=256).wanted(99, Observation(clock=0, updates=0, batch_size=32))
        50.0

    Source:
        Yin, Pananjady, Lam, Papailiopoulos, Ramchandran, Bartlett 2018, arXiv 1706.05699 (gradient diversity); Chen,
        Wang, Sundaram 2025, arXiv 2509.16173 (DiveBatch: the batch follows it).

    Departures:
        DiveBatch sums the gradients of an epoch, while the weights move, and acts once an epoch. Here the noise is that
        of the last measurements, and the batch moves by a factor, and only on evidence.
    """

    delta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "it is the batch size over 1 + the noise scale"
        object.__setattr__(self, "delta", float(_checks.finite("delta", self.delta, above=0, remedy=remedy)))

    def wanted(self, noise_scale: float, _seen: Observation) -> float:
        """The multiple of 1 + the noise scale."""
        return self.delta * (1 + noise_scale)
