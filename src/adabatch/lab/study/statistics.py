"""Paired comparisons: intervals for ratios of times and for differences of accuracies. Standard library only.

Runs of one seed form a pair: they share the initial weights, the order of the data and, run one after the other, the
state of the machine. Two intervals are needed:

- **Times** have outliers (a busy machine), so their ratio is given by the median, with the exact interval of the sign
  test: two order statistics, which cover the median of any continuous distribution with at least the stated
  probability (n = 10: the 2nd and the 9th of 10 cover with 97.9 %). Five pairs or fewer cannot give 95 % that way
  ([smallest, largest] of 5 covers 93.75 %); then it is Student's t on the logarithms, which assumes that the ratios
  are about log-normal. That interval contains the sample median for every n up to 5.
- **Accuracies** at the end of training have none, so their difference is given by the mean, with Student's t. That
  holds if the differences of seeds are about symmetric; `skewed` tells if they are not. `unseen_share` tells how often
  runs may fail though none did.

Both are over seeds, on one fixed test set. `difference_over_samples` tells how far another test set would move the
difference of the trained networks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.lab.comparison import TIED, Difference, Ratio, Spread, Summary

_SKEW_SHOWS: Final = 5  # fewest values; from here on the third moment of normal ones passes the limit in 5 % of cases


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


def difference_over_samples(
    right: Sequence[Sequence[bool]], baseline: Sequence[Sequence[bool]], *, confidence: float = 0.95
) -> Difference:
    """The mean difference of accuracies with an interval over test samples, for the networks that were trained.

    A sample's difference is its mean over pairs: 1 where all networks of one side are right and all of the other wrong.
    The interval is Student's t of these differences and of two more samples, one in favour of each side; without them
    few disagreements, or none, would pass for certainty.

    Args:
        right: for each pair, whether each test sample was right.
        baseline: the same for the other side, of the same pairs and samples.
        confidence: the probability, in (0, 1), that the interval covers.

    Returns:
        The mean, of the test samples alone, and the interval.

    Raises:
        ValueError: if lengths differ, nothing is given, or `confidence` is out of range.

    Example:
        >>> found = difference_over_samples([[True] * 95 + [False] * 5], [[True] * 90 + [False] * 10])
        >>> round(found.mean, 4), round(found.low, 4), round(found.high, 4)
        (0.05, -0.0018, 0.0998)

    Source: Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based
        on paired data", J. Educ. Behav. Stat. 37 (4): a sample is added to each discordant cell.
    Departures: means over pairs in place of 0 and 1; Student's t in place of the normal distribution.
    """
    if len(right) != len(baseline):
        raise ArgumentError(None, "pairs must be of equal length", got=f"{len(right)} and {len(baseline)} runs")
    sums: list[float] = []
    for ours, theirs in zip(right, baseline, strict=True):
        here = [value - base for value, base in _pairs(ours, theirs)]
        if sums and len(sums) != len(here):
            raise ArgumentError(
                None, "runs must be of the same test samples", got=f"{len(sums)} and {len(here)} of them"
            )
        sums = [total + value for total, value in zip(sums, here, strict=True)] if sums else here
    differences = [total / len(right) for total in _some("pairs", sums)]
    centre, half = _student([*differences, 1.0, -1.0], confidence)
    return Difference(statistics.fmean(differences), centre - half, centre + half)


def skewed(values: Sequence[float]) -> bool | None:
    """Whether values are more skewed than all but 1 in 20 samples of as many normal values.

    Student's t rests on the mean of few values: if one side has a long tail that they may have missed, its interval
    misses more often than it says.

    Args:
        values: at least one.

    Returns:
        Whether their third moment lies beyond 1.96 of its standard deviations under normality; None for fewer than 5
        values, which cannot show it, and if all are the same.

    Example:
        >>> skewed([0.0, 0.1, -0.1, 0.05, -3.0]), skewed([0.0, 0.1, -3.0])
        (True, None)

    Source: the standard deviation is exact for normal values: Fisher 1930, sqrt(6 (n - 2) / ((n + 1) (n + 3))).
    """
    values = _some("values", values)
    n, mean = len(values), statistics.fmean(values)
    second = statistics.fmean((value - mean) ** 2 for value in values)
    if n < _SKEW_SHOWS or max(values) - min(values) < TIED:
        return None
    moment = statistics.fmean((value - mean) ** 3 for value in values) / math.pow(second, 1.5)
    return abs(moment) > 1.96 * math.sqrt(6 * (n - 2) / ((n + 1) * (n + 3)))


def unseen_share(n: int, *, confidence: float = 0.95) -> float:
    """The largest share of failures that n runs without one do not rule out: `1 - (1 - confidence) ** (1 / n)`.

    Raises:
        ValueError: if `n` is below 1 or `confidence` not in (0, 1).

    Example:
        >>> [round(unseen_share(n), 2) for n in (3, 10, 60)]
        [0.63, 0.26, 0.05]
    """
    _checks.whole("n", n)
    _checks.finite("confidence", confidence, above=0, below=1)
    return 1 - math.pow(1 - confidence, 1 / n)


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
        raise ArgumentError(name, "must hold at least one value", got="none")
    return tuple(float(value) for value in values)


def _pairs(first: Sequence[float], second: Sequence[float]) -> list[tuple[float, float]]:
    if len(first) != len(second):
        raise ArgumentError(None, "pairs must be of equal length", got=f"{len(first)} and {len(second)} values")
    return list(zip(_some("pairs", first), _some("pairs", second), strict=True))
