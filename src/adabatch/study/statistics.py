"""Paired comparisons: intervals for ratios of times and for differences of accuracies. Standard library only.

Runs of one seed form a pair: they share the initial weights, the order of the data and, run one after the other, the
state of the machine. Two intervals are needed:

- **Times** have outliers (a busy machine), so their ratio is told by the median, with the exact interval of the sign
  test: two order statistics, which cover the median of any continuous distribution with at least the stated
  probability (n = 10: the 2nd and the 9th of 10 cover with 97.9 %). Five pairs or fewer cannot give 95 % that way
  ([smallest, largest] of 5 covers 93.75 %); then it is Student's t on the logarithms, which assumes that the ratios
  are about log-normal. That interval contains the sample median for every n up to 5.
- **Accuracies** at the end of training have none, so their difference is told by the mean, with Student's t.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction

from adabatch import _checks


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean, standard deviation (n - 1) and the values themselves; `std` is None for a single value."""

    mean: float
    std: float | None
    n: int
    values: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        """As plain JSON."""
        return {"mean": self.mean, "std": self.std, "n": self.n, "values": list(self.values)}


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest, largest and the values themselves."""

    median: float
    min: float
    max: float
    values: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        """As plain JSON."""
        return {"median": self.median, "min": self.min, "max": self.max, "values": list(self.values)}


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of paired ratios and its interval; `low` and `high` are None where n is 1, all where none exists."""

    median: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        """As plain JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of paired differences and its interval; `low` and `high` are None where n is 1."""

    mean: float
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        """As plain JSON."""
        return asdict(self)


def summary(values: Sequence[float]) -> Summary:
    """Mean and standard deviation of `values` (at least one).

    Raises:
        ValueError: if there is none.
    """
    values = _some("values", values)
    std = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), std, len(values), values)


def spread(values: Sequence[float]) -> Spread:
    """Median and range of `values` (at least one).

    Raises:
        ValueError: if there is none.
    """
    values = _some("values", values)
    return Spread(statistics.median(values), min(values), max(values), values)


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float], *, confidence: float = 0.95) -> Ratio:
    """The median of `numerators[i] / denominators[i]` with an interval for the median of all such ratios.

    Args:
        numerators: positive values, one for each pair.
        denominators: positive values, of the same pairs in the same order.
        confidence: the probability, in (0, 1), that the interval covers.

    Returns:
        Median and interval: the sign test's where there are pairs enough for it (6 at 95 %), else Student's t on the
        logarithms; no interval for one pair.

    Raises:
        ValueError: if lengths differ, nothing is given, a value is not positive, or `confidence` is out of range.

    Example:
        >>> paired_ratio([3.0, 3.2, 2.9, 3.1, 3.0, 3.3], [2.0] * 6)
        Ratio(median=1.525, low=1.45, high=1.65)
    """
    pairs = _pairs(numerators, denominators)
    for value in (item for pair in pairs for item in pair):
        _checks.finite("ratios", value, above=0, remedy="ratios are of positive times")
    ratios = sorted(top / bottom for top, bottom in pairs)
    median = statistics.median(ratios)
    if len(ratios) == 1:
        return Ratio(median, None, None)
    rank = sign_rank(len(ratios), confidence=confidence)
    if rank:
        return Ratio(median, ratios[rank - 1], ratios[-rank])
    centre, half = _student([math.log(ratio) for ratio in ratios], confidence)
    return Ratio(median, math.exp(centre - half), math.exp(centre + half))


def paired_difference(values: Sequence[float], baseline: Sequence[float], *, confidence: float = 0.95) -> Difference:
    """The mean of `values[i] - baseline[i]` with Student's t interval.

    Args:
        values: one for each pair.
        baseline: of the same pairs in the same order.
        confidence: the probability, in (0, 1), that the interval covers.

    Returns:
        Mean and interval; no interval for one pair.

    Raises:
        ValueError: if lengths differ, nothing is given, or `confidence` is out of range.

    Example:
        >>> found = paired_difference([0.95, 0.96, 0.97], [0.94, 0.96, 0.96])
        >>> round(found.mean, 4), round(found.low, 4), round(found.high, 4)
        (0.0067, -0.0077, 0.021)
    """
    differences = [value - base for value, base in _pairs(values, baseline)]
    if len(differences) == 1:
        return Difference(differences[0], None, None)
    centre, half = _student(differences, confidence)
    return Difference(centre, centre - half, centre + half)


def sign_rank(n: int, *, confidence: float = 0.95) -> int:
    """The largest r for which [r-th smallest, r-th largest] of n values covers the median with `confidence`; 0 if none.

    Both ends miss with probability P(Binomial(n, 1/2) < r) each.

    Raises:
        ValueError: if `n` is below 1 or `confidence` not in (0, 1).

    Example:
        >>> [sign_rank(n) for n in (5, 6, 10, 60)]
        [0, 1, 2, 22]
    """
    _checks.whole("n", n)
    _checks.finite("confidence", confidence, above=0, below=1)
    allowed = (1 - Fraction(str(confidence))) * 2**n
    missed, rank = 0, 0
    while rank < n // 2 and 2 * (missed + math.comb(n, rank)) <= allowed:
        missed += math.comb(n, rank)
        rank += 1
    return rank


def t_quantile(probability: float, degrees: int) -> float:
    """The value below which Student's t with `degrees` degrees of freedom lies with `probability`.

    Args:
        probability: in (0, 1).
        degrees: at least 1.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> round(t_quantile(0.975, 9), 3)
        2.262
    """
    _checks.finite("probability", probability, above=0, below=1)
    _checks.whole("degrees", degrees)
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    low, high = 0.0, 1.0
    while t_probability(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_probability(middle, degrees) < probability else (low, middle)
    return high


def t_probability(value: float, degrees: int) -> float:
    """P(T <= `value`) for Student's t, by its finite trigonometric sums (exact for whole `degrees`).

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, equations 26.7.3 and 26.7.4.

    Raises:
        ValueError: if `degrees` is below 1.
    """
    _checks.whole("degrees", degrees)
    angle = math.atan(value / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    central = (angle + sine * total) * 2 / math.pi if odd else sine * total
    return 0.5 + central / 2


def _student(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Mean and half width of Student's t interval."""
    _checks.finite("confidence", confidence, above=0, below=1)
    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), t_quantile((1 + confidence) / 2, len(values) - 1) * error


def _some(name: str, values: Sequence[float]) -> tuple[float, ...]:
    if not values:
        raise ValueError(f"`{name}` must hold at least one value, got none")
    return tuple(float(value) for value in values)


def _pairs(first: Sequence[float], second: Sequence[float]) -> list[tuple[float, float]]:
    if len(first) != len(second):
        raise ValueError(f"pairs must be of equal length, got {len(first)} and {len(second)} values")
    return list(zip(_some("pairs", first), _some("pairs", second), strict=True))
