"""The growing schedules between which an advice chooses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from adabatch import schedules


class Candidate(NamedTuple):
    """A growing schedule over a training of some length.

    Attributes:
        name: `"early"` or `"late"`.
        schedule: batch sizes.
        coupling: how the LR follows.
    """

    name: str
    schedule: schedules.steps
    coupling: str


def candidates(*, base: int, largest: int, total_samples: int, rule: str) -> Iterator[Candidate]:
    """The two schedules that are tried, over a training of `total_samples`.

    `early` doubles the batch in equal steps from the start on, and the LR follows by `rule`. `late` keeps the base
    batch for the first half, then doubles it in equal steps at the same LR, as in place of a falling one.

    Example:
        >>> early, late = candidates(base=32, largest=128, total_samples=1200, rule="linear")
        >>> [(at.count, size) for at, size in early.schedule.changes]
        [(0, 32), (400, 64), (800, 128)]
        >>> [(at.count, size) for at, size in late.schedule.changes]
        [(0, 32), (600, 64), (800, 128)]
    """
    doublings = int(math.log2(largest / base))
    starts = {
        "early": [round(total_samples * number / (doublings + 1)) for number in range(doublings + 1)],
        "late": [0, *(round(total_samples * (0.5 + 0.5 * number / (doublings + 1))) for number in range(doublings))],
    }
    for name, coupling in (("early", rule), ("late", "none")):
        changes = [(at, base * 2**number) for number, at in enumerate(starts[name])]
        yield Candidate(name, schedules.steps(changes), coupling)
