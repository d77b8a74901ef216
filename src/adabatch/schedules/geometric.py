"""AdaBatch's growth: multiply the batch size at fixed intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from typing import Final

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.schedules._base import Context, Schedule, Stage, check_length, check_maximum, from_start
from adabatch.units import Duration

_LARGEST: Final = 2**63  # beyond, growth is a mistake, and exact arithmetic would take for ever


@dataclass(frozen=True)
class geometric(Schedule):  # noqa: N801
    """Multiply the batch size by a factor after every interval, as AdaBatch does.

    In the k-th interval (from 0) the size is `min(floor(start * factor**k), maximum)`, worked out exactly; a factor
    such as 1.1 counts as the decimal that it prints as.

    Args:
        factor: greater than 1.
        every: the interval, longer than 0.
        start: the first size in samples, at least 1; None for the loader's batch size.
        maximum: the largest size in samples, at least the start; None to grow to the end of the training.

    Raises:
        ValueError: if a number is out of range.
        TypeError: if a number is not one, or `every` is not a Duration.

    Example:
        >>> from adabatch import epochs
        >>> growth = geometric(factor=2, every=epochs(20), maximum=2048)
        >>> plan = growth.plan(dataset_size=50_000, epochs=100, batch_size=128, drop_last=True)
        >>> plan.sizes, plan.updates
        ((128, 256, 512, 1024, 2048), 15080)

    Source:
        Devarakonda, Naumov, Garland, "AdaBatch: Adaptive Batch Sizes for Training Deep Neural Networks", 2017,
        arXiv 1712.02029: the batch r becomes beta * r after each interval; the example has the settings of section 4.1.

    Departures:
        Any factor above 1 (the paper doubles, or multiplies by 4 and 8), any unit, and a maximum. A size that is not
        whole is rounded down from the exact product with the start, so rounding does not add up over the intervals.
    """

    factor: int | float
    every: Duration
    _: KW_ONLY
    start: int | None = None
    maximum: int | None = None

    def __post_init__(self) -> None:
        factor = _checks.finite("factor", self.factor, above=1, remedy="2 doubles the batch; to shrink it use `steps`")
        object.__setattr__(self, "factor", int(factor) if factor == int(factor) else factor)
        check_length("every", self.every)
        self._make_whole("start", "maximum")
        if self.start is not None:
            check_maximum(self.maximum, self.start)

    @property
    def finite(self) -> bool:
        """Whether the size stops changing at some point."""
        return self.maximum is not None

    def stages(self, context: Context) -> Iterator[Stage]:
        """Yields one stage per interval, up to the maximum or the context's ceiling.

        Raises:
            ValueError: if the maximum is below the start, or there is none and the size passes 2**63.
        """
        size = start = context.batch_size if self.start is None else self.start
        check_maximum(self.maximum, start)
        yield context.origin, start
        bounds = [bound for bound in (self.maximum, context.ceiling) if bound is not None]
        factor, index = Fraction(str(self.factor)), 0
        above, below = start, 1
        while not bounds or size < min(bounds):
            if size > _LARGEST:
                raise ArgumentError(
                    "maximum",
                    f"must be given for growth that passes 2**63 samples, as x{self.factor:g} every {self.every} does "
                    f"after {index:,} intervals",
                    value=None,
                )
            index, above, below = index + 1, above * factor.numerator, below * factor.denominator
            size = above // below if self.maximum is None else min(above // below, self.maximum)
            yield context.at(self.every, index), size

    def describe(self) -> str:
        """The schedule in one line."""
        most = "" if self.maximum is None else f", at most {self.maximum:,}"
        return f"x{self.factor:g} every {self.every}, {from_start(self.start)}{most}"
