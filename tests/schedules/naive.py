"""The naive reference: schedules and plans, one batch after the other, in plain loops."""

import math
from fractions import Fraction

from adabatch.schedules import (
    clamp,
    constant,
    from_lr,
    geometric,
    last_iterate,
    linear_ramp,
    round_to,
    steps,
    then,
    world_sizes,
)  # fmt: skip


class Size:
    """A schedule's batch size, asked at every position where a batch may start, in order."""

    def __init__(self, schedule, *, size, N, tokens, origin=Fraction(0), updates=0):
        self.schedule, self.size, self.N, self.tokens = schedule, size, N, tokens
        self.origin, self.updates = origin, updates  # where the schedule begins
        self.second = self.k = None
        self.asked = updates
        if isinstance(schedule, clamp | round_to | world_sizes):
            self.inner = self.part(schedule.schedule, size, origin, updates)
        if isinstance(schedule, then):
            self.inner = self.part(schedule.first, size, origin, updates)

    def part(self, schedule, size, origin, updates):
        return Size(schedule, size=size, N=self.N, tokens=self.tokens, origin=origin, updates=updates)

    def samples(self, duration):
        return duration.exact * {"samples": 1, "epochs": self.N, "tokens": Fraction(1, self.tokens)}[duration.unit]

    def passed(self, duration, clock, updates, before, share=1):
        """Whether `share * duration` has passed at `clock`; with `before`, passed earlier than at `clock`."""
        if duration.unit == "updates":
            return updates - self.updates >= share * duration.exact
        gone = (clock - self.origin) - share * self.samples(duration)
        return gone > 0 if before else gone >= 0

    def intervals(self, duration, clock, updates, before, parts=1):
        """How many of the `parts` of `duration` have passed; with `before`, earlier than at `clock`."""
        if duration.unit == "updates":
            return math.floor((updates - self.updates) * parts / duration.exact)
        gone = (clock - self.origin) * parts / self.samples(duration)
        return max(math.ceil(gone) - 1, 0) if before else math.floor(gone)

    def at(self, clock, updates, before=False):
        """The size where a batch starts at `clock` after `updates` updates."""
        s = self.schedule
        own = next((v for v in (getattr(s, "start", None), getattr(s, "batch_size", None)) if v is not None), self.size)
        if isinstance(s, constant):
            size = own
        elif isinstance(s, geometric):
            k = self.intervals(s.every, clock, updates, before)
            size = math.floor(own * Fraction(str(s.factor)) ** k)
            size = size if s.maximum is None else min(size, s.maximum)
        elif isinstance(s, steps):
            size = s.changes[0][1]
            for threshold, value in s.changes[1:]:
                size = value if self.passed(threshold, clock, updates, before) else size
        elif isinstance(s, from_lr):
            reached = [lr for at, lr in s.lr if not at.count or self.passed(at, clock, updates, before)]
            bounds = range(0, (s.maximum or (self.N or 10**9) // 10) + 1, s.round_to)
            wanted = own / reached[-1] if reached[-1] else math.inf
            size = max(own, min(math.floor(min(wanted, 10**9) / s.round_to + 0.5) * s.round_to, bounds[-1]))
        elif isinstance(s, last_iterate):
            size = self.at_last_iterate(clock, updates, before)
        elif isinstance(s, linear_ramp):
            n = abs(s.end - own) // s.increment
            k = min(self.intervals(s.over, clock, updates, before, parts=n), n)
            size = own + k * (s.increment if s.end > own else -s.increment)
        elif isinstance(s, clamp):
            size = self.inner.at(clock, updates, before)
            size = size if s.minimum is None else max(size, s.minimum)
            size = size if s.maximum is None else min(size, s.maximum)
        elif isinstance(s, round_to):
            size = self.inner.at(clock, updates, before)
            below = max(size // s.multiple, 1) * s.multiple
            size = min((below, below + s.multiple), key=lambda m: (abs(m - size), -m))
        elif isinstance(s, world_sizes):
            size = self.inner.at(clock, updates, before)
        elif isinstance(s, then):
            size = self.at_then(clock, updates, before)
        else:
            raise NotImplementedError(f"a branch for {type(s).__name__} is missing in `Size.at`")
        self.asked = updates
        return size

    def at_then(self, clock, updates, before):
        after = self.schedule.after
        if self.second is None and self.passed(after, clock, updates, before):
            change = clock if after.unit == "updates" else self.origin + self.samples(after)
            in_force = self.inner.at(change, self.asked if after.unit != "updates" else updates - 1, before=True)
            self.second = self.part(self.schedule.second, in_force, Fraction(change), updates)
        return (self.second or self.inner).at(clock, updates, before)

    def at_last_iterate(self, clock, updates, before):
        s, end = self.schedule, self.origin + self.samples(self.schedule.over)
        mean = s.mean or self.size
        starts = [self.origin + self.samples(at) for at, _ in s.lr]
        if self.k is None:
            distances = [float(end - start) for start in starts]
            pieces = list(zip(distances, [*distances[1:], 0.0], [lr or 1e-12 for _, lr in s.lr], strict=True))
            self.k = solved(pieces, mean, s.minimum, s.maximum, s.round_to)
        if mean in (s.minimum, s.maximum) or clock >= end:
            return mean if mean == s.minimum else s.maximum
        lr = [lr for at, lr in s.lr if not at.count or self.passed(at, clock, updates, before)][-1]
        multiples = math.floor(self.k * (lr or 1e-12) / float(end - clock) / s.round_to + 0.5 + 1e-9)
        return min(max(multiples * s.round_to, s.minimum), s.maximum)


def solved(pieces, mean, minimum, maximum, step):
    """The k with which the integral of dt / B(t) over the pieces of the LR is that of the mean batch, by bisection."""

    def updates(k):
        total = 0.0
        for far, near, lr in pieces:
            for size in range(minimum, maximum + 1, step):
                most = far if size == minimum else k * lr / step / (size / step - 0.5 - 1e-9)
                least = near if size == maximum else k * lr / step / (size / step + 0.5 - 1e-9)
                total += max(min(far, most) - max(near, least), 0) / size
        return total

    low, high = -5.0, 60.0
    for _ in range(70):
        middle = (low + high) / 2
        low, high = (middle, high) if updates(math.exp(middle)) * mean > pieces[0][0] else (low, middle)
    return math.exp(high)


def walk(schedule, *, size, N, epochs, drop_last=False, run_on=False, tokens=1, limit=None):
    """Every batch as (clock, requested, size), or None if one would be larger than the data set.

    Without `epochs`, the first `limit` batches.
    """
    sizes = Size(schedule, size=size, N=N, tokens=tokens)
    clock, batches = 0, []
    end = math.inf if N is None or epochs is None else N * epochs
    while clock < end and len(batches) != limit:
        requested = sizes.at(clock, len(batches))
        if N is not None and requested > N:
            return None
        rest = (end if run_on or N is None else (clock // N + 1) * N) - clock
        if drop_last and requested > rest:
            clock += rest
            continue
        batches.append((clock, requested, min(requested, rest)))
        clock += batches[-1][2]
    return batches
