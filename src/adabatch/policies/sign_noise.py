"""A batch whose gradient has the right signs: the noise scale in the l1 norm, for sign descent. Experimental."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import pi, sqrt
from typing import ClassVar, Literal

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.policies import _evidence
from adabatch.policies._base import Policy
from adabatch.types import Observation


@dataclass(frozen=True)
class sign_noise(Policy):  # noqa: N801
    """Experimental. A batch whose noise is at most theta times the gradient, both in the l1 norm, for sign descent.

        |sigma|_1 / sqrt(B) <= theta |G|_1,  so  B = (|sigma|_1 / |G|_1)^2 / theta^2

    sigma_i is the standard deviation of one sample's gradient in coordinate i. Why the l1 norm: a step of -lr sign(g)
    lowers the loss, to first order, by

        lr sum of |G_i| (1 - 2 P(sign of g_i is wrong)) >= lr (|G|_1 - 2 |sigma|_1 / sqrt(B))

    A sign is wrong only where g_i misses G_i by |G_i| or more; by Markov's inequality that has at most the probability
    E|g_i - G_i| / |G_i|, and E|g_i - G_i| is at most sigma_i / sqrt(B). Below a theta of 0.5 the bound is positive; at
    the 0.6 of the paper it is not, but a normal gradient has fewer wrong signs than the bound allows.

    Measure with `ab.noise.tap(..., norm="l1")`. Its |G|_1 is too long where noise prevails, so that the batch asked for
    is at most pi / 2 / theta**2 times the present one on average. Growth is late, then, and not false.

    In the authors' own run of 1B parameters the batch that this rule chose did worse than the constant one.

    Args:
        theta: the share of the gradient's l1 norm that its noise may have, above 0 and below `sqrt(pi / 2 / factor)`,
            0.886 for doublings: from there on the batch could not grow, whatever the noise.
        maximum: see `Policy`.
        factor: see `Policy`.
        warmup_samples: see `Policy`.
        shrinks: see `Policy`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if one is out of range.

    Example:
        >>> from adabatch.types import Observation
        >>> sign_noise(0.5, maximum=256).wanted(20, Observation(clock=0, updates=0, batch_size=32))
        80.0

    Source:
        Naganuma, Gupta, Briki, Mitliagkas, Rish, Raman, Shi 2026, arXiv 2602.03001: the l1 noise scale for signSGD and
        Signum, with theta = 0.6, the LR as the root of the batch, and a batch that never shrinks. The rule is that of
        the authors' code; the bound above is derived here.

    Departures:
        The authors average squares, with a weight of 0.1 for the newest of measurements that lie 100 updates apart, and
        set the batch at each. A tap averages lengths, has another memory, and measures as often as `every` says: 100
        as the authors do. It corrects the deviations of few parts for being too small. The batch moves by a factor, and
        only on evidence.
    """

    coupling: ClassVar[str] = "sqrt"
    noise_norm: ClassVar[Literal["l2", "l1"]] = "l1"

    theta: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "0.6 is the paper's"
        object.__setattr__(self, "theta", float(_checks.finite("theta", self.theta, above=0, remedy=remedy)))
        if self.theta >= (limit := sqrt(pi / 2 / self.factor)):
            rule = (
                f"must be below {limit:.3g}, else the batch asked for stays below {self.factor:g} times the present one"
            )
            raise ArgumentError("theta", rule, value=self.theta, remedy="0.6 is the paper's, for a factor of 2")

    def wanted(self, noise_scale: float, _seen: Observation) -> float:
        """The noise scale, which is one in the l1 norm, over the square of theta."""
        return noise_scale / self.theta**2

    def interval(self, seen: Observation, z: float) -> tuple[float, float]:
        """See `Policy.interval`; widened on the scale of lengths, which is that of what the tap averages."""
        assert seen.noise is not None
        noise = seen.noise
        lengths = replace(
            noise,
            low=sqrt(noise.low),
            high=sqrt(noise.high),
            trace=sqrt(noise.trace),
            signal=sqrt(max(noise.signal, 0.0)),
            margin=sqrt(noise.margin),
        )
        low, high = _evidence.widened(lengths, z)
        return self.wanted(low**2, seen), self.wanted(high**2, seen)

    def check_training(self, optimizer: object, _coupling: str) -> None:
        """See `Policy.check_training`."""
        name = type(optimizer).__name__
        if name in ("SGD", "LARS"):
            rule = "'sign_noise' was derived for sign descent, such as Signum, to which Adam comes close"
            raise ArgumentError("policy", rule, got=name, remedy="use `norm_test`, the same rule in the l2 norm")
