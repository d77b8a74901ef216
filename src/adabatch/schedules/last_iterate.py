"""The batch schedule that minimises a bound on the loss of the last iterate, at equal updates and samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final, NamedTuple

from adabatch._errors import ArgumentError
from adabatch.schedules._base import Context, Schedule, Stage, check_length
from adabatch.schedules._lr_table import LRFunction, LRTable, check_peak, checked_lr, read_table
from adabatch.units import Duration, samples

PARTS: Final = 1024
_SLACK: Final = 1e-9  # of a multiple: rounding of floats must not decide a tie
_ZERO: Final = 1e-12  # share of the highest LR that stands for an LR of 0, so that k exists for every mean
_EXACT: Final = 1e-14  # of the updates
_TRIES: Final = 100


@dataclass(frozen=True, init=False)
class last_iterate(Schedule):  # noqa: N801
    """Share the samples out over the updates so that a bound on the loss after the last one is smallest.

        B(t) = k lr(t) / (S - t),  at least `minimum` and at most `maximum`

    `t` is the clock, `S` the length of the training, and `lr` the LR in force, so the coupling is `none`. In updates it
    is `B(u) = c lr(u) / sqrt(integral of lr from u to the end)`: batches are small early and, under an LR that stays,
    large at the end. `k` is such that the updates are those of a constant batch of the `mean` size, which is the
    loader's batch size: `integral of dt / B(t) = S / mean`, with bounds and rounding in force. Whole batches differ
    from that a little: by less than an update for each epoch that ends in a short batch, and for each batch in which
    the LR changes by up to an update or, where the sizes fall by a factor, by up to that factor.

    After `over` the last size holds. Where the LR is 0 the batch has its minimum, unless the mean size asks for more
    than the maximum everywhere else. Making a plan warns if `over`, or the last change of the LR, lies in the first
    hundredth of what it is a part of, since positions may then be in a wrong unit.

    Args:
        lr: the LR in force. A table, as `from_lr` takes it (of a torch LR scheduler: `lr_clock.table`), its thresholds
            below `over`. Or a function that takes a position in samples and gives the LR there; it is asked in the
            middle of each of 1024 equal parts of `over`, which must then be in samples.
        over: S, the length of the training: in epochs, samples or tokens, longer than 0.
        minimum: the smallest size in samples, at least 1.
        maximum: the largest size in samples, at least `minimum`.
        mean: the constant batch size whose number of updates is kept, from `minimum` to `maximum`. It must be the
            loader's; None takes the loader's.
        round_to: sizes are rounded to its nearest multiple, ties up; the bounds must be multiples.

    Raises:
        ValueError: if an LR is negative, NaN, infinite or never above 0, thresholds do not begin at 0, increase and end
            before `over`, or numbers do not fit each other (where that depends on the data set or the loader, when a
            plan is made).
        TypeError: if an argument is of the wrong kind.

    Example:
        >>> from adabatch import epochs
        >>> growth = last_iterate({0: 0.1}, over=epochs(30), minimum=16, maximum=256)
        >>> plan = growth.plan(dataset_size=50_000, epochs=30, batch_size=64, run_on=True)
        >>> plan.batch_sizes[0], plan.batch_size_at(750_000), plan.batch_sizes[-1], growth.coupling
        (33, 65, 256, 'none')
        >>> plan.updates - 30 * 50_000 // 64
        2

    Source:
        arXiv 2607.27731, of which we have notes only.

    Departures:
        Derived here, in `docs/methods.md`, from the last-iterate bound of Defazio, Cutkosky, Mehta, Mishchenko 2023,
        arXiv 2310.07831. Under bounds the smallest bound clamps the sizes in updates. Here those on the samples clock
        are clamped, which is within 1 % of it in the part of the bound that the batch changes.
    """

    lr: tuple[tuple[Duration, float], ...]
    _: KW_ONLY
    over: Duration
    minimum: int
    maximum: int
    mean: int | None
    round_to: int

    def __init__(
        self,
        lr: LRFunction | LRTable,
        *,
        over: Duration,
        minimum: int,
        maximum: int,
        mean: int | None = None,
        round_to: int = 1,
    ) -> None:
        check_length("over", over)
        if over.unit == "updates":
            rule, remedy = "must be in epochs, samples or tokens", "the batch size decides how many updates there are"
            raise ArgumentError("over", rule, value=str(over), remedy=remedy)
        object.__setattr__(self, "over", over)
        for name, value in (("minimum", minimum), ("maximum", maximum), ("mean", mean), ("round_to", round_to)):
            object.__setattr__(self, name, value)
        self._make_whole("minimum", "maximum", "mean", "round_to")
        if self.maximum < self.minimum:
            raise ArgumentError("maximum", f"must be at least `minimum` = {self.minimum}", value=self.maximum)
        for name in ("minimum", "maximum"):
            self._check_multiple(name, getattr(self, name))
        if self.mean is not None:
            self._check_mean("mean", self.mean)
        object.__setattr__(self, "lr", self._table(lr))

    @property
    def initial(self) -> int | None:
        """The loader's batch size that it goes with, its mean; None for any."""
        return self.mean

    def brought(self) -> list[str]:
        """The coupling none, since its LR is the one in force."""
        return ["none"]

    def stages(self, context: Context) -> Iterator[Stage]:
        """Yields one stage per change of the size.

        Raises:
            ValueError: if the mean is out of bounds, or thresholds do not increase and end before `over`.
        """
        mean = context.batch_size if self.mean is None else self.mean
        self._check_mean("batch_size", mean)
        pieces = self._pieces(context)
        k = self._constant(pieces, mean)
        end, last = context.at(self.over), None
        for far, _, size in self._sizes(pieces, k):
            if size != last:
                yield (context.origin if last is None else end - Fraction(far)), size
            last = size

    def misfit(self, context: Context) -> str | None:
        """Why its lengths may be in a wrong unit; None if they may be right."""
        unit = "a bare number counts samples, and `over` is the length of the training"
        length, last = context.at(self.over) - context.origin, self.lr[-1][0]
        if last.count and (context.at(last) - context.origin) * 100 <= length:
            return f"the LR of `last_iterate` changes for the last time after {last} of {self.over}; {unit}"
        if context.walk.end is not None and context.at(self.over) * 100 <= context.walk.end:
            return f"`over` of `last_iterate`, {self.over}, is over early in {context.walk.end:,} samples; {unit}"
        return None

    def describe(self) -> str:
        """The schedule in one line."""
        mean = "the loader's batch size" if self.mean is None else f"{self.mean:,}"
        multiples = "" if self.round_to == 1 else f" in multiples of {self.round_to:,}"
        return (
            f"as the LR over what is left of {self.over}, with the updates of {mean}, "
            f"from {self.minimum:,} to {self.maximum:,}{multiples}"
        )

    # Sizes.

    def _pieces(self, context: Context) -> list[_Piece]:
        """The LR table against the distance from the end."""
        end = context.at(self.over)
        starts = [context.at(at) if at.count else context.origin for at, _ in self.lr]
        for before, (at, _), after in zip(starts, self.lr[1:], starts[1:], strict=False):
            if after <= before:
                raise ArgumentError("lr", "must have increasing thresholds", got=f"{at} (clock {float(after):,.10g})")
        if starts[-1] >= end:
            raise self._too_late(self.lr[-1][0])
        distances = [float(end - start) for start in starts] + [0.0]
        return [
            _Piece(far, near, max(share, _ZERO))
            for (far, near), (_, share) in zip(pairwise(distances), self.lr, strict=True)
        ]

    def _sizes(self, pieces: list[_Piece], k: float) -> Iterator[tuple[float, float, int]]:
        """Stretches of like sizes: distances from the end where each begins and ends, and the size."""
        step, most = self.round_to, self.maximum // self.round_to
        for far, near, lr in pieces:
            height = k * lr / step  # in multiples; over the distance from the end it is the size
            count = min(max(math.floor(min(height / far, most) + 0.5 + _SLACK), self.minimum // step), most)
            while count < most and (until := height / (count + 0.5 - _SLACK)) > near:
                yield far, until, count * step
                far, count = until, count + 1
            yield far, near, count * step

    def _constant(self, pieces: list[_Piece], mean: int) -> float:
        """The k with which the integral of dt / B(t) is that of a constant batch of the mean size."""
        if mean in (self.minimum, self.maximum):
            return 0.0 if mean == self.minimum else math.inf
        length = pieces[0].far

        def excess(log_k: float) -> float:
            updates = sum((far - near) / size for far, near, size in self._sizes(pieces, math.exp(log_k)))
            return math.log(updates * mean / length)

        # False position, halving the weight of an end that stays (the Illinois rule).
        low, high = 0.0, math.log(2 * self.maximum * length / _ZERO)
        above, below, kept = excess(low), excess(high), 0
        for _ in range(_TRIES):
            middle = (low * below - high * above) / (below - above)
            found = excess(middle)
            if abs(found) < _EXACT or not low < middle < high:
                break
            if found > 0:
                low, above, below, kept = middle, found, below / 2 if kept > 0 else below, 1
            else:
                high, below, above, kept = middle, found, above / 2 if kept < 0 else above, -1
        return math.exp(middle)

    # Arguments.

    def _table(self, lr: Any) -> tuple[tuple[Duration, float], ...]:
        """The table, each LR as a share of the highest; entries that change nothing are left out."""
        pairs = self._sampled(lr) if callable(lr) else read_table(lr)
        peak = max(value for _, value in pairs)
        check_peak(peak)
        table = [(at if isinstance(at, Duration) else samples(int(at)), value / peak) for at, value in pairs]
        for at, _ in table:
            if at.unit == self.over.unit and at.exact >= self.over.exact:
                raise self._too_late(at)
        return (table[0], *(after for before, after in pairwise(table) if after[1] != before[1]))

    def _sampled(self, lr: LRFunction) -> list[tuple[Duration | int, float]]:
        if self.over.unit != "samples":
            raise ArgumentError(
                "over", "must be in samples for a function", value=str(self.over), remedy="or give a table"
            )
        length = int(self.over.count)
        count = min(PARTS, length)
        places = [(part * length // count, (2 * part + 1) * length // (2 * count)) for part in range(count)]
        return [(start, checked_lr(lr(middle), f"{middle:,} samples")) for start, middle in places]

    def _too_late(self, at: Duration) -> ArgumentError:
        rule = f"must have thresholds below `over` = {self.over}"
        return ArgumentError("lr", rule, got=str(at), remedy="give `over` the length of the training")

    def _check_mean(self, name: str, mean: int) -> None:
        if not self.minimum <= mean <= self.maximum:
            rule = f"must be the mean size, from `minimum` = {self.minimum} to `maximum` = {self.maximum}"
            raise ArgumentError(name, rule, value=mean, remedy="no sizes between them have that mean; widen the bounds")

    def _check_multiple(self, name: str, value: int) -> None:
        if value % self.round_to:
            below = value // self.round_to * self.round_to
            remedy = f"write {max(below, self.round_to)} or {below + self.round_to}"
            raise ArgumentError(name, f"must be a multiple of `round_to` = {self.round_to}", value=value, remedy=remedy)


class _Piece(NamedTuple):
    """A stretch of like LR: from `far` to `near` the end in samples, and the LR as a share of the highest."""

    far: float
    near: float
    lr: float
