"""Fieller's interval for a ratio of two means, and Student's quantiles for any number of degrees of freedom."""

from __future__ import annotations

import math
from typing import Final

_PANELS: Final = 64  # of Simpson's rule; the integrand is a power of a cosine


def fieller(
    top: float, bottom: float, var_top: float, var_bottom: float, covariance: float, quantile: float
) -> tuple[float, float]:
    """The interval of a ratio of two means that are known not to be negative.

    A ratio R belongs to it unless `top - R * bottom` differs from 0 by more than `quantile` standard errors:

        (top - R bottom)^2 <= quantile^2 (var_top - 2 R covariance + R^2 var_bottom)

    If `bottom` is told from 0, the solutions lie between two roots. If not, they may reach to infinity, and what is
    left out lies between the roots: then the ends are those of all solutions from 0 on.

    Args:
        top: the mean above.
        bottom: the mean below.
        var_top: the variance of `top`.
        var_bottom: the variance of `bottom`.
        covariance: of both.
        quantile: of the distribution of the difference, in standard errors.

    Returns:
        Lower end, at least 0, and upper end, which may be infinite. A `bottom` that is told from 0 and negative, which
        is by chance, tells nothing: 0 and infinity.

    Example:
        >>> fieller(4.0, 2.0, 0.25, 0.0, 0.0, 2.0)
        (1.5, 2.5)
        >>> fieller(4.0, 0.1, 0.25, 0.25, 0.0, 2.0)[1]
        inf
    """
    squared = quantile * quantile
    a = bottom * bottom - squared * var_bottom
    b = top * bottom - squared * covariance
    spread = top * top * var_bottom - 2 * top * bottom * covariance + bottom * bottom * var_top
    inside = squared * (spread - squared * (var_top * var_bottom - covariance * covariance))
    if bottom <= 0 and a >= 0:
        return 0.0, math.inf
    if a > 0:
        root = math.sqrt(max(inside, 0.0))
        return max((b - root) / a, 0.0), max((b + root) / a, 0.0)
    if a == 0:  # one root; the solutions lie above it
        c = top * top - squared * var_top
        return max(c / (2 * b), 0.0) if b > 0 else 0.0, math.inf
    if inside <= 0:
        return 0.0, math.inf
    root = math.sqrt(inside)
    below, above = (b + root) / a, (b - root) / a  # a is negative
    return (max(above, 0.0), math.inf) if below < 0 else (0.0, math.inf)


def student(confidence: float, freedom: float) -> float:
    """The number of standard errors within which Student's t lies with probability `confidence`.

    Args:
        confidence: above 0 and at most 0.95; the error is below 1e-4 of the result.
        freedom: degrees of freedom, at least 1, not necessarily whole.

    Example:
        >>> round(student(0.95, 1), 3), round(student(0.95, 9), 4), round(student(0.95, 1e9), 4)
        (12.706, 2.2622, 1.96)
    """
    half = math.sqrt(math.pi) * math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)) / 2
    scale = math.sqrt(freedom)
    low, high = 0.0, math.pi / 2  # t = sqrt(freedom) tan(angle); the density of the angle is cos(angle)^(freedom - 1)
    if freedom > 100:
        high = math.atan(20 / scale)
    for _ in range(60):
        middle = (low + high) / 2
        if _integral(middle, freedom - 1) < confidence * half:
            low = middle
        else:
            high = middle
    return scale * math.tan((low + high) / 2)


def _integral(end: float, power: float) -> float:
    """The integral of a power of the cosine from 0 to `end`, at most a right angle, by Simpson's rule."""
    step = end / _PANELS
    values = [math.pow(math.cos(step * i), power) for i in range(_PANELS + 1)]
    return step / 3 * (values[0] + 4 * sum(values[1::2]) + 2 * sum(values[2:-1:2]) + values[-1])
