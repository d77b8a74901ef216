"""A learning-rate schedule turned into growth of the batch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any, Final

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.schedules._base import Context, Schedule, Stage, check_maximum, from_start
from adabatch.schedules._lr_table import LRFunction, LRTable, check_peak, checked_lr, read_table
from adabatch.units import Duration

CELLS: Final = 1 << 14
_SLACK: Final = 1e-9  # of a multiple: 0.1 * 0.2 is 0.020000000000000004, which must not decide a tie
_NO_FALL: Final = 1e-6  # share of an LR: warm-ups end at 0.10000000000000003, and tensors keep seven digits

_TEXT: Final = re.compile(r"\s*([a-z]+)\s*(?:\(\s*([^()\s]+)\s*\))?\s*")
_EXAMPLES: Final = "write smith, seesaw, hybrid(1) or power(0.75)"


@dataclass(frozen=True, init=False)
class from_lr(Schedule):  # noqa: N801
    """Grow the batch where the LR schedule would let the LR fall.

        B(t) = B0 * max_{s <= t} lr(s) / lr(t),  at most `maximum`

    So a warm-up asks for no growth, and a restart to the peak returns to B0. The LR schedule stays in place. The
    coupling of the rule, `from_lr(...).coupling`, follows the size that this schedule asks for, rounding and cap
    included. That keeps the optimizer on the course of the LR schedule at every update.

    If the LR changes for the last time in the first hundredth of the training, or for the first time after its end, its
    positions may be in a wrong unit: making a plan warns. In a plan without end it warns if the last change lies in the
    first tenth of the first epoch.

    Args:
        lr: the LR. A table, as a mapping or as pairs of a threshold and the LR from there on (a Duration in epochs,
            samples or tokens, or a bare number of samples; the first is 0, and they increase). Or a function that
            takes a position in samples and gives the LR there; it is searched for the positions where the rounded
            batch size changes, which is exact where it rises or falls steadily within each 1/16384 of `end`.
        rule: `"smith"`, `"seesaw"`, `"hybrid(k)"` (the first k falls grow the batch; a fall is an entry of the table
            below the one before it) or `"power(p)"`.
        start: B0 in samples, at least 1; None for the loader's batch size. A function of samples needs it.
        maximum: the largest size in samples, at least B0; where the LR is 0 the batch is there. None for a tenth of the
            data set; a stream then has no bound.
        round_to: sizes are rounded to its nearest multiple, ties up, and a maximum down; B0 must be a multiple.
        end: samples up to which a function is searched, at least 1; not for a table.

    Raises:
        ValueError: if an LR is negative, NaN, infinite or never above 0, thresholds do not begin at 0 and increase,
            a bound does not fit (if that depends on the data set, when a plan is made), or the rule counts the falls of
            a function.
        TypeError: if an argument is of the wrong kind.

    Example:
        >>> from adabatch import epochs
        >>> growth = from_lr({0: 0.1, epochs(60): 0.02, epochs(120): 0.004, epochs(160): 0.0008}, maximum=5120)
        >>> plan = growth.plan(dataset_size=50_000, epochs=200, batch_size=128)
        >>> plan.sizes, plan.updates, growth.coupling
        ((128, 640, 3200, 5120), 29240, 'linear(any_optimizer=True)')

    Source:
        Smith, Kindermans, Ying, Le, "Don't Decay the Learning Rate, Increase the Batch Size", 2017, arXiv 1711.00489
        (`smith`; `hybrid(1)` is the hybrid schedule of section 5.1; the bound of N / 10). Seesaw, 2025, arXiv
        2510.14717 (`seesaw`).

    Departures:
        Any LR schedule (the papers cut in steps, Seesaw also follows a cosine by steps), LR warm-up and restarts, sizes
        rounded with the rest left to the LR. `power(p)` is the family between these rules and is not from a paper.
    """

    lr: tuple[tuple[Duration, float], ...]
    _: KW_ONLY
    rule: str
    start: int | None
    maximum: int | None
    round_to: int

    def __init__(
        self,
        lr: LRFunction | LRTable,
        *,
        rule: str = "smith",
        start: int | None = None,
        maximum: int | None = None,
        round_to: int = 1,
        end: int | None = None,
    ) -> None:
        read = read_rule(rule)
        object.__setattr__(self, "rule", read.text)
        for name, value in (("start", start), ("maximum", maximum)):
            object.__setattr__(self, name, None if value is None else _checks.whole(name, value))
        object.__setattr__(self, "round_to", _checks.whole("round_to", round_to))
        if self.start is not None:
            self._check_start(self.start)
            check_maximum(self.maximum, self.start)
        if callable(lr) and read.falls:
            raise ArgumentError(
                "lr",
                f"must be a table under the rule {read.text}, which counts falls",
                got="a function of samples",
                remedy="give its falls as a table such as {0: 0.1, 5000: 0.02}",
            )
        shares = self._searched(lr, end) if callable(lr) else self._tabled(lr, end)
        if read.falls is not None:
            shares = _first_falls(shares, read.falls)
        elif self.start is not None:  # entries that change no size are left out
            shares = [shares[0], *(b for a, b in pairwise(shares) if self._grown(a[1]) != self._grown(b[1]))]
        table = tuple((at if isinstance(at, Duration) else Duration(at, "samples"), share) for at, share in shares)
        object.__setattr__(self, "lr", table)

    def brought(self) -> list[str]:
        """The coupling of its rule."""
        return [read_rule(self.rule).coupling]

    def stages(self, context: Context) -> Iterator[Stage]:
        """Yields one stage per entry of the LR table.

        Raises:
            ValueError: if the maximum is below the start, or the LR is 0 and there is no maximum.
        """
        start = context.batch_size if self.start is None else self.start
        self._check_start(start)
        maximum = self._bound(context.dataset_size, start)
        last = context.origin
        for threshold, share in self.lr:
            at = context.at(threshold) if threshold.count else context.origin
            if at < last:
                raise ArgumentError(
                    "lr", "must have increasing thresholds", got=f"{threshold} (clock {float(at):,.10g})"
                )
            if share == 0 and maximum is None:
                raise ArgumentError(
                    "maximum",
                    "must be given where the LR falls to 0",
                    got=f"None (at clock {float(at):,.10g}, of a stream)",
                    remedy="the batch is at the maximum there",
                )
            size = self._size(start, share)
            yield at, int(size if maximum is None else min(size, maximum))
            last = at

    def misfit(self, context: Context) -> str | None:
        """Why its positions may be in a wrong unit; None if they may be right."""
        end = context.walk.end
        horizon, far = (context.dataset_size, 10) if end is None else (end, 100)
        changes = [after for (_, before), (after, share) in pairwise(self.lr) if abs(share - before) > _NO_FALL]
        if horizon is None or not changes:
            return None
        first, last = (math.ceil(context.at(changes[place])) for place in (0, -1))
        unit = "a bare number counts samples, and `counts` says what a step of an LR scheduler counts"
        length = f"the {horizon:,} samples of {'an epoch' if end is None else 'the training'}"
        if end is not None and first >= end:
            return f"the LR of `from_lr` changes first at sample {first:,}, after {length}, so nothing grows; {unit}"
        if last * far <= horizon:
            return f"the LR of `from_lr` changes for the last time at sample {last:,} of {length}; {unit}"
        return None

    def describe(self) -> str:
        """The schedule in one line."""
        most = "a tenth of the data" if self.maximum is None else f"{self.maximum:,}"
        multiples = "" if self.round_to == 1 else f" in multiples of {self.round_to:,}"
        return f"grown as the LR would fall ({self.rule}), {from_start(self.start)}{multiples}, at most {most}"

    # Sizes.

    def _size(self, start: int, share: float) -> float:
        """The size at a share of the highest LR, rounded and not bounded; infinite at 0."""
        if share == 1:
            return start
        grown = start / share / self.round_to if share > 0 else math.inf
        return grown if math.isinf(grown) else math.floor(grown + 0.5 + _SLACK) * self.round_to

    def _grown(self, share: float) -> float:
        """The size at a share, at most the maximum; it shows where the size changes."""
        assert self.start is not None
        size = self._size(self.start, share)
        return size if self.maximum is None else min(size, self._multiple_below(self.maximum))

    def _multiple_below(self, maximum: int) -> int:
        return maximum // self.round_to * self.round_to

    def _bound(self, dataset_size: int | None, start: int) -> int | None:
        if self.maximum is not None:
            check_maximum(self.maximum, start)
            return self._multiple_below(self.maximum)
        if dataset_size is None:
            return None
        if dataset_size // 10 < start <= dataset_size and any(share < 1 for _, share in self.lr):
            raise ArgumentError(
                "maximum",
                f"must be given where the start, {start}, is above a tenth of the {dataset_size:,} samples",
                value=None,
                remedy="beyond a tenth the exchange of LR for batch size is a poor approximation",
            )
        return max(self._multiple_below(dataset_size // 10), start)

    def _check_start(self, start: int) -> None:
        if start % self.round_to:
            raise ArgumentError(
                "round_to",
                f"must divide the batch size that training starts with, {start}",
                value=self.round_to,
                remedy=f"start with {max(round(start / self.round_to), 1) * self.round_to} instead",
            )

    # LRs.

    def _tabled(self, lr: Any, end: int | None) -> list[tuple[Any, float]]:
        """The table, with each LR as a share of the highest so far."""
        if end is not None:
            remedy = "it is for a function of samples"
            raise ArgumentError("end", "must be left out for a table", value=end, remedy=remedy)
        pairs = read_table(lr)
        peak, shares = 0.0, []
        for at, value in pairs:
            peak = max(peak, value)
            shares.append((at, value / peak if peak else 1.0))
        check_peak(peak)
        return shares

    def _searched(self, lr: LRFunction, end: int | None) -> list[tuple[Any, float]]:
        """The positions where the size changes under a function, with the LR as a share of the highest so far."""
        if self.start is None or end is None:
            name = "start" if self.start is None else "end"
            raise ArgumentError(name, "must be given with a function of samples", value=None, remedy="or give a table")
        end = _checks.whole("end", end)

        def value(at: int) -> float:
            return checked_lr(lr(at), f"{at:,} samples")

        at, found, peak = 0, [(0, 1.0)], value(0)
        share, cells = 1.0, min(CELLS, end - 1)
        for cell in range(1, cells + 1):
            until = cell * (end - 1) // cells
            there = value(until)
            # Depth first, left to right: the stretch up to the far end of the stack changes size somewhere.
            stack = [(until, there)]
            while stack:
                far, height = stack[-1]
                high = max(peak, height)
                far_share = height / high if high else 1.0
                if self._grown(far_share) != self._grown(share) and far - at > 1:
                    middle = (at + far) // 2
                    stack.append((middle, value(middle)))
                    continue
                if self._grown(far_share) != self._grown(share):
                    found.append((far, far_share))
                at, peak, share = far, high, far_share
                stack.pop()
        check_peak(peak)
        return found


def _first_falls(shares: list[tuple[Any, float]], falls: int) -> list[tuple[Any, float]]:
    """Shares that stay at the lowest of the first `falls` falls, since later ones remain falls of the LR."""
    floor, level, seen = 1.0, 1.0, 0
    for _, share in shares:
        if share < level * (1 - _NO_FALL):
            if seen == falls:
                break
            seen, level, floor = seen + 1, share, min(floor, share)
        level = max(level, share)
    return [(at, max(share, floor)) for at, share in shares]


# Rules of conversion: how much of an LR's fall becomes growth of the batch, and the coupling that goes with it.


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, read from text.

    Attributes:
        text: how it is written.
        coupling: the coupling that keeps the optimizer on the course of the LR schedule, as `couplings.get` reads it.
        falls: how many falls of the LR become growth, while later ones stay falls; None for all.
    """

    text: str
    coupling: str
    falls: int | None = None


def read_rule(text: Any) -> Rule:
    """Reads a rule. Wherever the LR schedule cuts the LR to 1/a of its highest value so far, the batch is a times B0.

    | rule | LR in force where the schedule cuts by a | coupling |
    | --- | --- | --- |
    | `smith` | unchanged | linear |
    | `hybrid(k)` | unchanged for the first k falls, later ones cut it | linear |
    | `seesaw` | cut by sqrt(a) | sqrt |
    | `power(p)` | cut by a ** (1 - p) | power(p) |

    Args:
        text: as in the table; k a whole number from 0 on, p from 0 to 1.

    Raises:
        TypeError: if it is no text.
        ValueError: if the name is unknown or its number out of range.
    """
    if not isinstance(text, str):
        raise ArgumentTypeError("rule", "must be text", value=text, remedy=_EXAMPLES)
    match = _TEXT.fullmatch(text)
    name, number = (match[1], match[2]) if match else ("", None)
    if name == "smith" and number is None:
        return Rule("smith", "linear(any_optimizer=True)")
    if name == "seesaw" and number is None:
        return Rule("seesaw", "sqrt")
    if name == "hybrid" and number is not None and re.fullmatch(r"[0-9]{1,9}", number):
        return Rule(f"hybrid({int(number)})", "linear(any_optimizer=True)", falls=int(number))
    if name == "power" and number is not None:
        return _power(number, text)
    raise ArgumentError("rule", "must be one of smith, seesaw, hybrid(k) and power(p)", value=text, remedy=_EXAMPLES)


def _power(number: str, text: str) -> Rule:
    try:
        p = float(number)
    except ValueError:
        p = math.nan
    if not 0 <= p <= 1:
        remedy = "1 is smith, 0.5 the scaling of seesaw"
        raise ArgumentError("rule", "must have a power from 0 to 1", value=text, remedy=remedy)
    p = float(_checks.finite("rule", p))
    return Rule(f"power({p:g})" if float(f"{p:g}") == p else f"power({p!r})", f"power({p!r})")
