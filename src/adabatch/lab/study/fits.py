"""Fits of updates to target against batch size: the critical batch size and the borders of the three regimes.

Two forms, for the updates S and the samples E = B S that batch size B needs to a target:

1. S = S_min (1 + B_crit / B), so E = E_min (1 + B / B_crit) with E_min = S_min B_crit;
2. S = S_min (1 + (B_crit / B)^a) with a free exponent a. At a = 1 it is form 1. With a > 1 small batches need more
   samples too, E ~ B^(1 - a), and the fewest lie at B = B_crit (a - 1)^(1 / a), which form 1 forbids. With a < 1 the
   fewest samples lie at no batch size above 0.

In both, B_crit is where S = 2 S_min. Errors of log S are taken as normal with one variance, that of repeats with other
seeds, pooled over batch sizes. An interval holds all values for which some choice of the other parameters raises the
weighted sum of squares by no more than t^2 (a profile): Student's t with the degrees of freedom of the variance. A
bound that lies more than a million-fold outside the data is reported as infinite, or 0. A run that did not arrive
enters by the probability that it needs more than it had (the censored normal likelihood).

Source: McCandlish, Kaplan, Amodei et al. 2018, arXiv 1812.06162, form 1. Departures: least squares on
log S, in which a run's noise is about the same at all batch sizes; the second form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from adabatch import _checks
from adabatch.lab.scaling import Estimate
from adabatch.lab.scaling import Fit as Fit
from adabatch.lab.scaling import Fits as Fits
from adabatch.lab.scaling import FTest as FTest
from adabatch.lab.study.measures import Arrival
from adabatch.lab.study.profile import Optimum, Runs, estimates, misfit, optimum, saturated, without_repeats
from adabatch.lab.study.statistics import t_quantile


def fits(
    arrivals: Mapping[int, Sequence[Arrival]], *, smallest_batch: float | None = None, confidence: float = 0.95
) -> Fits:
    """Both forms, and whether the second is needed.

    Args:
        arrivals: for each batch size the arrival of each seed.
        smallest_batch: of those over which the fewest samples are taken; None: the smallest that was measured.
        confidence: the probability, in (0, 1), that an interval covers.

    Raises:
        ValueError: if there are fewer than two batch sizes, or an argument is out of range.
    """
    runs = Runs.of(arrivals, smallest_batch, confidence)
    (one, found_1), (two, found_2) = _fitted(runs, 1), _fitted(runs, 2)
    return Fits(
        confidence=confidence,
        batch_sizes=tuple(size for size in sorted(arrivals) if arrivals[size]),
        runs=len(runs.side),
        arrived=int(np.sum(runs.side <= 0)),
        form_1=one,
        form_2=two,
        exponent_needed=_exponent_needed(runs, two, found_1, found_2),
    )


def fit(
    arrivals: Mapping[int, Sequence[Arrival]],
    *,
    form: int = 1,
    smallest_batch: float | None = None,
    confidence: float = 0.95,
) -> Fit:
    """One form alone.

    Args:
        arrivals: for each batch size the arrival of each seed.
        form: 1 or 2.
        smallest_batch: of those over which the fewest samples are taken; None: the smallest that was measured.
        confidence: the probability, in (0, 1), that an interval covers.

    Raises:
        ValueError: if there are fewer than two batch sizes, or an argument is out of range.

    Example:
        >>> runs = {size: [Arrival(100 * (1 + 300 / size))] for size in (16, 64, 256, 1024)}
        >>> found = fit(runs)
        >>> round(found.critical_batch.estimate), round(found.stagnation_batch.estimate), found.std_from
        (300, 1200, 'residuals')
    """
    _checks.one_of("form", form, (1, 2))
    return _fitted(Runs.of(arrivals, smallest_batch, confidence), form)[0]


def in_words(found: Fits) -> str:
    """The findings of both forms, a line each, and whether form 1 does."""
    lines = [_line(one) for one in (found.form_1, found.form_2)]
    if test := found.exponent_needed:
        does = "does not fit as well as" if test.p < 1 - found.confidence else "fits as well as"
        lines.append(f"form 1 {does} form 2 (p = {test.p:.2g})")
    return "\n".join(lines)


def _line(one: Fit) -> str:
    batch, more = one.critical_batch, one.batch_at_20_percent_more_samples
    tested = "" if one.misfit is None else f"; misfit {100 * one.misfit:.2g} %"
    tested += "" if one.lack_of_fit is None else f" (p = {one.lack_of_fit.p:.2g})"
    exponent = "" if one.form == 1 else f", exponent {_told(one.exponent)}"
    return (
        f"form {one.form}: critical batch {_told(batch)}, 20 % more samples at {_told(more)}, "
        f"stagnation from {_told(one.stagnation_batch)}{exponent}{tested}"
    )


def _told(one: Estimate) -> str:
    value = "unknown" if one.estimate is None else f"{one.estimate:.3g}"
    return f"{value} [{one.low:.3g}, {'no bound' if one.high is None else f'{one.high:.3g}'}]"


def _fitted(runs: Runs, form: int) -> tuple[Fit, Optimum]:
    """A form's record, and the optimum that it reports."""
    spread, parameters = runs.spread(), form + 1
    places = len(np.unique(runs.batch[runs.arrived]))
    if spread.degrees:
        found, degrees, source = optimum(runs, form, math.sqrt(spread.variance)), spread.degrees, "repeats"
    else:
        degrees = max(0, places - parameters)
        found, source = without_repeats(runs, form, degrees), "residuals" if degrees else "nothing"
    lack = None
    if source == "repeats" and places > parameters:
        lack = _f_test(found.deviance - saturated(runs, found.std), places - parameters, degrees)
    rise = t_quantile((1 + runs.confidence) / 2, degrees) ** 2 if degrees else math.inf
    told = places >= parameters
    return Fit(
        form=form,
        **{
            name: Estimate.of(estimate if told else math.nan, low, high)
            for name, (estimate, low, high) in estimates(runs, form, found, rise).items()
        },
        smallest_batch=runs.smallest,
        std=found.std if degrees else None,
        degrees=degrees,
        std_from=source,
        lack_of_fit=lack,
        misfit=misfit(runs, found.point) if told else None,
        middle_batch=math.exp(runs.middle),
        middle_updates=math.exp(float(found.point.level)) if told else None,
    ), found


def _exponent_needed(runs: Runs, two: Fit, found_1: Optimum, found_2: Optimum) -> FTest | None:
    """Form 1 against form 2, by the spread of repeats or else by form 2's residuals, which censored runs have not."""
    if two.middle_updates is None or not two.degrees or (two.std_from != "repeats" and runs.side.any()):
        return None
    return _f_test(found_1.deviance * (found_1.std / found_2.std) ** 2 - found_2.deviance, 1, two.degrees)


def _f_test(rise: float, more: int, degrees: int) -> FTest:
    f = max(0.0, rise) / more
    return FTest(f, (more, degrees), float(stats.f.sf(f, more, degrees)))
