"""How wide an interval must be that is looked at again and again, and still be wrong at most once in 20 trainings.

An interval of 95 % is wrong in 5 % of looks, so whoever looks 10,000 times and acts on the first that clears a target
acts wrongly for sure. The bound here holds at all looks together: look k may be wrong with probability

    error_k = 0.05 * 50 / ((k + 49) (k + 50)),  and the sum over all k is 0.05

whatever the looks have in common. The price is a quantile that grows with the root of twice the logarithm of k**2. To
keep k small, a look waits until an eighth of what an estimate rests on is new. The 50 shares the errors out more
evenly: the first looks, at the fewest measurements, get less of them.

Source:
    A union bound over looks whose number grows with the logarithm of the data, as in the stitched boundaries of Howard,
    Ramdas, McAuliffe, Sekhon 2021, arXiv 1810.08240.
"""

from __future__ import annotations

from math import expm1, inf, isfinite, sqrt
from statistics import NormalDist
from typing import Final

from adabatch.types import NoiseEstimate

ERROR: Final = 0.05
"""The probability that any look of a training is wrong."""
FEWEST: Final = 20
"""An estimate is looked at once it rests on as many updates."""
RENEWED: Final = 8
"""A look comes when one in so many of an estimate's updates is new."""
_EVEN: Final = 50
_HALF_WIDTH: Final = -NormalDist().inv_cdf(0.025)  # of the estimate's interval, in standard errors


def quantile(look: int, *, sides: int) -> float:
    """The standard normal quantile that look number `look` takes, from 1.

    Args:
        look: its number in the training.
        sides: 1 if only one end of the interval may lead to an act, 2 if both may.
    """
    error = ERROR * _EVEN / ((look + _EVEN - 1) * (look + _EVEN))
    return -NormalDist().inv_cdf(error / sides)


def student(z: float, freedom: float) -> float:
    """The quantile of Student's distribution at the probability of a standard normal one, in Wallace's closed form.

    Args:
        z: the standard normal quantile, at least 0.
        freedom: degrees of freedom; less than 1 count as 1.

    Example:
        >>> round(student(1.96, 5), 2), round(student(1.96, 1e6), 2)
        (2.58, 1.96)
    """
    freedom = max(freedom, 1)
    return sqrt(freedom * expm1((z * (8 * freedom + 3) / (8 * freedom + 1)) ** 2 / freedom))


def usable(noise: NoiseEstimate) -> bool:
    """Whether an estimate has finite numbers and a variance."""
    return isfinite(noise.signal) and isfinite(noise.trace) and noise.trace > 0 and 0 <= noise.low <= noise.high > 0


def widened(noise: NoiseEstimate, z: float) -> tuple[float, float]:
    """The interval of the noise scale at `z` standard errors, from the one of 95 %.

    It is widened on the scale of `signal / trace`, the inverse of the noise scale, which is finite also where the
    signal is not told from 0; there the quotient is close to linear in the noisier of the two, the signal. Few updates
    get the quantile of Student's distribution. The estimate's `margin` stays as it is, whatever `z`.

    Args:
        noise: a `usable` estimate.
        z: the standard normal quantile.

    Returns:
        Lower and upper end, in samples; the upper one may be infinite, the lower one 0.
    """
    by = student(z, noise.measured - 1) / _HALF_WIDTH
    middle, low, high = noise.signal / noise.trace, noise.low * noise.margin, noise.high / noise.margin
    top = inf if low == 0 else middle + max(1 / low - middle, 0) * by
    bottom = 0.0 if high == inf else middle - max(middle - 1 / high, 0) * by
    least, most = 0.0 if top == inf else inf if top <= 0 else 1 / top, inf if bottom <= 0 else 1 / bottom
    return least / noise.margin, most * noise.margin


def variance_between(noise: NoiseEstimate, z: float) -> tuple[float, float]:
    """The interval of the trace at `z` standard errors: of a normal gradient whose noise has a single direction.

    Noise in more directions makes the trace better known, so the interval is wide enough for any normal noise. The
    quantile of the chi-squared distribution is that of Wilson and Hilferty.

    Args:
        noise: a `usable` estimate.
        z: the standard normal quantile.

    Returns:
        Lower and upper end; the upper one may be infinite.
    """
    part = 2 / (9 * noise.measured)
    most, least = (max(1 - part + sign * z * sqrt(part), 0.0) ** 3 for sign in (1, -1))
    return noise.trace / most, inf if least == 0 else noise.trace / least
