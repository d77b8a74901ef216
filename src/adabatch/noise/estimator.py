"""The noise of gradients from norms alone, with an interval: arithmetic on floats.

A batch of `B` samples is cut into `K` parts of `n_k` samples. Each part has a mean gradient `g_k`; the batch's gradient
`g = sum of p_k g_k` weighs them by `p_k = n_k / B`, or by other shares where anything else but samples counts. Since
`E|g_k|^2 = |G|^2 + tr(Sigma) / n_k`, two U-statistics are unbiased for every batch size and every cut:

    trace  = (sum of p_k |g_k|^2 - |g|^2) / (sum of p_k (1 - p_k) / n_k)        tr(Sigma)
    signal = |g|^2 - trace * sum of p_k^2 / n_k                                 |G|^2

With shares `n_k / B` the divisors are `(K - 1) / B` and the factor `1 / B`. Over updates both are averaged before they
are divided: a mean of ratios would be biased, and so would be means of values of which the negative ones were dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.noise._interval import fieller, student
from adabatch.types import NoiseEstimate

CONFIDENCE: Final = 0.95
_FORMAT: Final = 1
_SUMS: Final = ("w", "w2", "trace", "signal", "trace2", "signal2", "both")


class Parts(NamedTuple):
    """Sums over parts of a batch; the sums of two sets of parts add up to those of both.

    Attributes:
        squares: of weight * |g_k|^2.
        first: of weight / n_k.
        second: of weight^2 / n_k.
        total: of weights.
        number: how many parts.
    """

    squares: float
    first: float
    second: float
    total: float
    number: int


def parts(sizes: Sequence[float], sq_norms: Sequence[float], weights: Sequence[float] | None = None) -> Parts:
    """The sums over parts of a batch. Parts without samples, or of weight 0, are left out.

    Args:
        sizes: samples of each part.
        sq_norms: the squared norm of each part's mean gradient.
        weights: what each part counts in the batch's gradient; None: its samples.

    Raises:
        ValueError: if their numbers differ.

    Example:
        >>> parts([2, 2, 0], [5.0, 3.0, 9.0])
        Parts(squares=16.0, first=2.0, second=4.0, total=4, number=2)
    """
    weights = sizes if weights is None else weights
    if not len(sizes) == len(sq_norms) == len(weights):
        rule = "must hold one number for each part"
        raise ArgumentError("sq_norms", rule, got=f"{len(sizes)} sizes, {len(sq_norms)} norms, {len(weights)} weights")
    kept = [(n, square, w) for n, square, w in zip(sizes, sq_norms, weights, strict=True) if n and w]
    return Parts(
        sum(w * square for _, square, w in kept),
        sum(w / n for n, _, w in kept),
        sum(w * w / n for n, _, w in kept),
        sum(w for _, _, w in kept),
        len(kept),
    )


def trace_and_signal(found: Parts, sq_norm: float) -> tuple[float, float]:
    """tr(Sigma) and |G|^2 as one batch shows them, unbiased; either may be below 0.

    Args:
        found: the sums over all parts of the batch.
        sq_norm: the squared norm of the batch's gradient.

    Returns:
        The variance of one sample's gradient, summed over parameters, and the squared length of the true gradient.

    Raises:
        ValueError: if there are fewer than two parts.

    Example:
        >>> trace_and_signal(parts([1, 1], [4.0, 0.0]), sq_norm=1.0)  # gradients 2 and 0
        (2.0, 0.0)

    Source:
        McCandlish, Kaplan, Amodei 2018, arXiv 1812.06162, appendix A.1, for two batch sizes.

    Departures:
        All parts of a batch instead of one or of equal ones: the variance of the trace falls with their number.
    """
    if found.number < 2:
        rule, remedy = "must come from two parts at least", "cut the batch into micro-batches"
        raise ArgumentError("found", rule, value=found.number, remedy=remedy)
    total = found.total
    between = found.first / total - found.second / total / total
    trace = (found.squares / total - sq_norm) / between
    return trace, sq_norm - trace * found.second / total / total


class Estimator:
    """Weighted sums of traces and signals of updates, older ones counting less; their ratio is the noise scale.

    The interval is Fieller's for a ratio of means, with Student's t for the effective number of updates. It holds where
    the signal is hardly told from 0: then it has no upper end. A weight halves once `half_life` has passed.

    Args:
        half_life: in the unit of the ages that `add` is given, such as samples.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not above 0.

    Example:
        >>> estimator = Estimator(half_life=1000)
        >>> for trace, signal in [(90.0, 1.0), (110.0, 1.2), (100.0, 0.8), (105.0, 1.1)]:
        ...     estimator.add(trace, signal, age=0)
        >>> found = estimator.estimate()
        >>> round(found.noise_scale, 1), round(found.low), round(found.high), found.measured
        (98.8, 81, 128, 4.0)

    Source:
        Fieller 1954, "Some problems in interval estimation".
    """

    def __init__(self, half_life: float) -> None:
        self.half_life = _checks.finite("half_life", half_life, above=0)
        self._sums = dict.fromkeys(_SUMS, 0.0)
        self._known: NoiseEstimate | None = None

    def add(self, trace: float, signal: float, *, age: float) -> None:
        """Adds what one update showed.

        Args:
            trace: as `trace_and_signal` gives it; negative ones belong to the mean.
            signal: the same.
            age: how much older the earlier ones became since the one before, in the unit of the half-life.

        Raises:
            ValueError: if a number is not finite, or the age is below 0.
        """
        _checks.finite("trace", trace)
        _checks.finite("signal", signal)
        kept = 2.0 ** (-_checks.finite("age", age, minimum=0) / self.half_life)
        sums, products = self._sums, (1.0, 1.0, trace, signal, trace * trace, signal * signal, trace * signal)
        for name, value in zip(_SUMS, products, strict=True):
            sums[name] = sums[name] * (kept * kept if name == "w2" else kept) + value
        self._known = None

    def merge(self, other: Estimator) -> None:
        """Adds what another estimator saw, up to the same moment, of other updates.

        Raises:
            ValueError: if its half-life differs.
        """
        if other.half_life != self.half_life:
            raise ArgumentError("other", f"must have the half-life of {self.half_life:g}", value=other.half_life)
        for name in _SUMS:
            self._sums[name] += other._sums[name]
        self._known = None

    def estimate(self) -> NoiseEstimate | None:
        """The noise scale with its interval; None if nothing was added."""
        if self._known is None and self._sums["w"] > 0:
            self._known = self._estimate()
        return self._known

    def _estimate(self) -> NoiseEstimate:
        w, w2, trace, signal, trace2, signal2, both = (self._sums[name] for name in _SUMS)
        trace, signal, measured = trace / w, signal / w, w * w / w2
        low, high = 0.0, math.inf
        if measured >= 2:
            freedom = measured - 1  # also what makes a weighted variance that of the mean
            low, high = fieller(
                trace,
                signal,
                max(trace2 / w - trace * trace, 0.0) / freedom,
                max(signal2 / w - signal * signal, 0.0) / freedom,
                (both / w - trace * signal) / freedom,
                student(CONFIDENCE, freedom),
            )
        ratio = trace / signal if signal else math.inf
        return NoiseEstimate(ratio, low, high, trace, signal, measured)

    def state_dict(self) -> dict[str, Any]:
        """The sums, JSON-safe; a resumed estimator goes on bit for bit."""
        return {"format": _FORMAT, "half_life": self.half_life, **self._sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resumes.

        Args:
            state: what `state_dict` gave.

        Raises:
            ValueError: if it is damaged, or of another half-life.
        """
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT or not {"half_life", *_SUMS} <= set(state):
            raise ArgumentError("state", "must be what `state_dict()` of a noise estimator gave", value=state)
        if state["half_life"] != self.half_life:
            remedy = "resume with the same `half_life`"
            rule = f"must be {state['half_life']} as in the state"
            raise ArgumentError("half_life", rule, value=self.half_life, remedy=remedy)
        sums = {name: float(_checks.finite(name, state[name])) for name in _SUMS}
        if sums["w"] < 0 or sums["w2"] < 0 or (sums["w"] > 0) != (sums["w2"] > 0):
            raise ArgumentError("state", "must have weights of at least 0", value=sums["w"])
        self._sums, self._known = sums, None
