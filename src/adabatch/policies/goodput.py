"""The batch with the most progress per second."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import exp, inf, log
from pathlib import Path
from typing import Any

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.policies._base import Policy
from adabatch.types import Observation

_FORM = "give {batch size: samples per second}, or what `adabatch probe` wrote"


@dataclass(frozen=True)
class goodput(Policy):  # noqa: N801
    """The batch with the most progress per second: samples per second times the progress that a sample makes.

        goodput(B) = throughput(B) (B_simple + B0) / (B_simple + B),  B = argmax

    B0, the first size, falls out of the comparison. The batch moves towards the best size, a step at a time, as long as
    that size gains at least `gain` over the present one.

    Args:
        throughput: samples per second by batch size, both above 0, in any unit: a mapping, as that of
            `ab.profile_step(...).speedup(sizes)`, pairs, or the content or path of a `probe.json`. Between the sizes it
            is interpolated in logarithms. Above them it stays, so the batch does not grow beyond what was measured;
            below them it falls in proportion to the size.
        gain: the share by which the goodput must rise, at least 0.
        maximum: see `Policy`.
        factor: see `Policy`.
        warmup_samples: see `Policy`.
        shrinks: see `Policy`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if one is out of range, or the curve is empty.
        OSError: if a file cannot be read.

    Example:
        >>> from adabatch.types import Observation
        >>> policy = goodput({32: 1000, 64: 1900, 128: 3000, 256: 3200}, maximum=256)
        >>> seen = Observation(clock=0, updates=0, batch_size=32)
        >>> [policy.wanted(noise_scale, seen) for noise_scale in (10, 20, 100)]
        [32, 64, 128]

    Source:
        Qiao et al. 2021, arXiv 2008.12260 (Pollux: goodput); McCandlish, Kaplan, Amodei 2018, arXiv 1812.06162 (the
        progress that a sample makes, there the inverse of the samples needed).

    Departures:
        Pollux fits a model of throughput, takes the best of 50 sizes at once and switches at a gain of 5 %. Here the
        curve is measured, the batch moves by a factor, and the noise scale that is put in is the lower end of its
        interval.
    """

    throughput: tuple[tuple[int, float], ...]
    gain: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "throughput", _curve(self.throughput))
        remedy = "0.1 switches where 10 % are gained"
        object.__setattr__(self, "gain", float(_checks.finite("gain", self.gain, minimum=0, remedy=remedy)))

    def wanted(self, noise_scale: float, seen: Observation) -> float:
        """The size with the highest goodput within reach of steps, if it gains enough; else the present size."""
        size, found = seen.batch_size, [seen.batch_size]
        while found[-1] < self.maximum:
            found.append(self.size_above(found[-1]))
        below: float = size
        while (below := below / self.factor) >= 1:
            found.append(int(below))
        goodputs = {each: self.rate(each) * _progress(each, noise_scale) for each in found}
        best = max(goodputs, key=lambda each: (goodputs[each], -each))
        return best if goodputs[best] >= (1 + self.gain) * goodputs[size] else size

    def rate(self, batch_size: float) -> float:
        """Samples per second at a batch size, from the curve."""
        curve = self.throughput
        if batch_size <= curve[0][0]:
            return curve[0][1] * batch_size / curve[0][0]
        for (size, rate), (larger, at_larger) in pairwise(curve):
            if batch_size <= larger:
                share = log(batch_size / size) / log(larger / size)
                return exp((1 - share) * log(rate) + share * log(at_larger))
        return curve[-1][1]


def _progress(batch_size: int, noise_scale: float) -> float:
    """The progress of a sample in a batch of that size, up to a factor that is the same at all sizes."""
    return 1.0 if noise_scale == inf else 1 / (noise_scale + batch_size)


def _curve(given: Any) -> tuple[tuple[int, float], ...]:
    """Pairs of batch size and samples per second, by size."""
    if isinstance(given, str | Path):
        given = json.loads(Path(given).read_text(encoding="utf-8"))
    if isinstance(given, Mapping) and "curve" in given:
        given = {point["batch_size"]: point["samples_per_second"]["median"] for point in given["curve"]}
    pairs = list(given.items() if isinstance(given, Mapping) else given if isinstance(given, Iterable) else [])
    if not pairs or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise ArgumentTypeError(
            "throughput", "must be samples per second by batch size", got=type(given).__name__, remedy=_FORM
        )
    found = {
        _checks.whole("throughput", size, remedy=_FORM): float(
            _checks.finite("throughput", rate, above=0, remedy=_FORM)
        )
        for size, rate in pairs
    }
    if len(found) < len(pairs):
        raise ArgumentError("throughput", "must name each batch size once", got=f"{len(pairs)} pairs")
    return tuple(sorted(found.items()))
