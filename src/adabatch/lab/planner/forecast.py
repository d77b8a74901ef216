"""A batch schedule against the constant batch: updates, LRs, noise scale and seconds, before training starts."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from numbers import Integral
from typing import Any

from adabatch import _checks, couplings
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.schedules import Plan, constant
from adabatch.units import Duration


@dataclass(frozen=True)
class LRTable:
    """An LR against the clock, constant from each change to the next.

    Attributes:
        starts_samples: clocks from which each LR holds; first 0, then increasing.
        lrs: the LR from each of them on, finite and at least 0.
    """

    starts_samples: tuple[int, ...]
    lrs: tuple[float, ...]

    def __post_init__(self) -> None:
        starts = self.starts_samples
        if not starts or starts[0] != 0 or any(after <= before for before, after in pairwise(starts)):
            raise ArgumentError("starts_samples", "must be 0 and then increasing", got=f"{starts[:6]}")
        if len(starts) != len(self.lrs):
            raise ArgumentError("lrs", "must be one per start", got=f"{len(self.lrs)} for {len(starts)}")
        for lr in self.lrs:
            _checks.finite("lrs", lr, minimum=0)

    @classmethod
    def of(
        cls, table: Mapping[Duration | int, float] | Iterable[tuple[Duration | int, float]], dataset_size: int | None
    ) -> LRTable:
        """The table that `lr_clock.table` gives, or one like it, with its epochs counted in samples.

        Args:
            table: thresholds (Durations in epochs or samples, or bare samples) and the LR from each of them on, as a
                mapping or as pairs.
            dataset_size: samples in an epoch; may be None for a table without epochs.

        Raises:
            ValueError: if an LR is negative, NaN or infinite, thresholds do not begin at 0 and increase, or a table in
                epochs lacks `dataset_size`.
            TypeError: if an argument is of the wrong kind.

        Example:
            >>> from adabatch import epochs
            >>> LRTable.of([(0, 0.1), (epochs(2), 0.02)], dataset_size=100).starts_samples
            (0, 200)
        """
        starts, lrs = [], []
        for at, lr in _pairs(table):
            starts.append(_samples(at, dataset_size))
            lrs.append(float(_checks.finite("table", lr, minimum=0, remedy=f"it is the LR from {at} on")))
        return cls(tuple(starts), tuple(lrs))

    def lr_at(self, clock: int) -> float:
        """The LR at a clock."""
        return self.lrs[bisect_right(self.starts_samples, clock) - 1]


def _pairs(table: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(table, str) or not isinstance(table, Iterable):
        raise ArgumentTypeError("table", "must be a mapping or pairs such as {0: 0.1, 5000: 0.02}", value=table)
    for item in table.items() if isinstance(table, Mapping) else table:
        try:
            at, lr = item
        except (TypeError, ValueError):
            raise ArgumentTypeError("table", "must be pairs of a threshold and an LR", value=item) from None
        yield at, lr


def _samples(at: Any, dataset_size: int | None) -> int:
    """A threshold in samples, rounded up."""
    if not isinstance(at, Duration):
        if isinstance(at, bool) or not isinstance(at, Integral):
            raise ArgumentTypeError("table", "must have whole numbers of samples or Durations as thresholds", value=at)
        return int(at)
    if _checks.one_of("table", at.unit, ("epochs", "samples")) == "samples":
        return math.ceil(at.exact)
    if dataset_size is None:
        raise ArgumentError("dataset_size", f"must be given to count {at}", value=None, remedy="or use `samples`")
    return math.ceil(at.exact * _checks.whole("dataset_size", dataset_size))


@dataclass(frozen=True)
class Timing:
    """Seconds per update against batch size.

    Between measured sizes, seconds are interpolated linearly. Below the smallest size an update takes as long as at
    that size; above the largest, samples per second stay the same.

    Attributes:
        batch_sizes: measured, increasing.
        seconds: per update, at each of them.
        world_size: ranks that shared an update.
    """

    batch_sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    world_size: int = 1

    @classmethod
    def of_probe(cls, probe: Mapping[str, Any]) -> Timing:
        """Reads the content of a `probe.json`.

        Args:
            probe: with `curve`, a list of `batch_size` and `samples_per_second` (a number, or with a `median`), and of
                several processes with `communication`, which has their number as `world_size`.

        Raises:
            ValueError: if it is no such content.
        """
        try:
            rates = ((int(point["batch_size"]), point["samples_per_second"]) for point in probe["curve"])
            points = sorted((n, float(rate["median"] if isinstance(rate, Mapping) else rate)) for n, rate in rates)
            seconds = tuple(size / rate for size, rate in points)
            workers = _checks.whole("world_size", (probe.get("communication") or {"world_size": 1})["world_size"])
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
            points, seconds, workers = [], (), 1
        if not points or points[0][0] < 1 or not all(0 < value < math.inf for value in seconds):
            rule = "must be what `adabatch probe` wrote: a curve of batch sizes and samples per second"
            raise ArgumentError("probe", rule, remedy="run: adabatch probe TASK --out DIR")
        return cls(tuple(size for size, _ in points), seconds, workers)

    def update_seconds(self, batch_size: int) -> float:
        """Seconds of one update.

        Example:
            >>> timing = Timing((10, 20), (1.0, 1.5))
            >>> [timing.update_seconds(size) for size in (5, 10, 16, 20, 40)]
            [1.0, 1.0, 1.3, 1.5, 3.0]
        """
        sizes, seconds = self.batch_sizes, self.seconds
        if batch_size <= sizes[0]:
            return seconds[0]
        if batch_size >= sizes[-1]:
            return seconds[-1] * batch_size / sizes[-1]
        index = bisect_right(sizes, batch_size)
        share = (batch_size - sizes[index - 1]) / (sizes[index] - sizes[index - 1])
        return seconds[index - 1] + share * (seconds[index] - seconds[index - 1])

    def plan_seconds(self, plan: Plan, world_size: int | None = None) -> float:
        """Seconds of training by a plan, without evaluation; of the part for which so many ranks are wanted, or all."""
        return sum(count * self.update_seconds(size) for size, count in plan.batch_counts(world_size).items())


@dataclass(frozen=True)
class Share:
    """The part of a training for which one number of ranks is wanted.

    Attributes:
        world_size: the number of ranks.
        updates: of this part.
        samples: of this part.
        seconds: of this part; None without a timing.
    """

    world_size: int
    updates: int
    samples: int
    seconds: float | None


@dataclass(frozen=True)
class Forecast:
    """A plan against the constant batch size, under the same LR schedule.

    Rows are the clocks where the LR schedule or the batch size changes.

    Attributes:
        before: the plan of the constant batch.
        after: the plan.
        starts_samples: the clock of each row.
        sizes: the batch size from there on.
        lr_before: the LR of the schedule.
        lr: the LR in force: the LR of the schedule times the factor of the coupling.
        noise_scale_before: `lr_before * N / (B0 * (1 - momentum))` with `B0` the constant batch size.
        noise_scale: `lr * N / (B * (1 - momentum))`, with the momentum in force.
        seconds_before: of training by `before`; None without a timing.
        seconds_after: of training by `after`; None without a timing.
        shares: the parts of the training by the number of ranks wanted; none if the schedule names no numbers.
        timed_world_size: the ranks whose seconds the timing has.
    """

    before: Plan
    after: Plan
    starts_samples: tuple[int, ...]
    sizes: tuple[int, ...]
    lr_before: tuple[float, ...]
    lr: tuple[float, ...]
    noise_scale_before: tuple[float, ...]
    noise_scale: tuple[float, ...]
    seconds_before: float | None
    seconds_after: float | None
    shares: tuple[Share, ...] = ()
    timed_world_size: int = 1

    @property
    def worker_hours(self) -> float | None:
        """Hours of training times the ranks wanted, or those of the timing if none are named; None without a timing.

        An update takes the seconds of the timing whatever the number of ranks.
        """
        if self.seconds_after is None:
            return None
        shares = self.shares or [
            Share(self.timed_world_size, self.after.updates, self.after.samples, self.seconds_after)
        ]
        return sum(share.world_size * (share.seconds or 0.0) for share in shares) / 3600

    @property
    def update_ratio(self) -> float:
        """Updates before / updates after; above 1 the plan saves updates."""
        return self.before.updates / self.after.updates

    def to_json(self) -> dict[str, Any]:
        """Numbers for machines; `starts_samples`, `sizes`, `lr` and `noise_scale` are the rows."""
        return {
            "updates_before": self.before.updates,
            "updates_after": self.after.updates,
            "samples": self.after.samples,
            "batch_size": self.before.batch_sizes[0],
            "dataset_size": self.after.dataset_size,
            "epochs": self.after.epochs,
            "starts_samples": list(self.starts_samples),
            "sizes": list(self.sizes),
            "lr": list(self.lr),
            "lr_before": list(self.lr_before),
            "noise_scale": list(self.noise_scale),
            "noise_scale_before": list(self.noise_scale_before),
            "seconds_before": self.seconds_before,
            "seconds_after": self.seconds_after,
            "world_sizes": [self.after.world_size_at(at) for at in self.starts_samples] if self.shares else None,
            "shares": [asdict(share) for share in self.shares],
            "worker_hours": self.worker_hours,
        }


def forecast(
    lrs: LRTable,
    plan: Plan,
    *,
    coupling: str | couplings.Coupling,
    batch_size: int | None = None,
    momentum: float = 0.0,
    timing: Timing | None = None,
) -> Forecast:
    """Forecasts a training.

    Args:
        lrs: the LR schedule, which stays in place.
        plan: the batch schedule, resolved for a data set and epochs.
        coupling: how the LR follows the batch size; for a converted schedule use its `.coupling`.
        batch_size: the constant one, the loader's; None: the first of the plan, which is the loader's but for
            `last_iterate`.
        momentum: of SGD, from 0 and below 1; it enters the noise scale.
        timing: seconds per update, to forecast seconds.

    Raises:
        ValueError: if the plan has no end, or the momentum is out of range or reaches 1 under the coupling.

    Example:
        >>> from adabatch import epochs, schedules
        >>> table = {0: 0.1, epochs(60): 0.02, epochs(120): 0.004, epochs(160): 0.0008}
        >>> growth = schedules.from_lr(table, maximum=5120)
        >>> plan = growth.plan(dataset_size=50_000, epochs=200, batch_size=128)
        >>> found = forecast(LRTable.of(table, 50_000), plan, coupling=growth.coupling, momentum=0.9)
        >>> found.before.updates, found.after.updates, [round(lr, 6) for lr in found.lr]
        (78200, 29240, [0.1, 0.1, 0.1, 0.032])
    """
    momentum = float(_checks.finite("momentum", momentum, minimum=0, below=1, remedy="at 1 the noise has no scale"))
    if plan.end_samples is None or plan.dataset_size is None:
        raise ArgumentError(
            "plan", "must have an end to be forecast", got="one without", remedy="plan with `dataset_size` and `epochs`"
        )
    base = plan.batch_sizes[0] if batch_size is None else _checks.whole("batch_size", batch_size)
    coupling = couplings.get(coupling)
    before = constant(base).plan(
        dataset_size=plan.dataset_size, epochs=plan.epochs, drop_last=plan.drop_last, run_on=plan.run_on
    )
    starts = sorted({at for at in (*lrs.starts_samples, *plan.starts_samples) if at < plan.end_samples})
    sizes = [plan.batch_size_at(at) for at in starts]
    lr_before = [lrs.lr_at(at) for at in starts]
    used = [_in_force(coupling, lr, momentum, size / base) for lr, size in zip(lr_before, sizes, strict=True)]
    scale = [lr * plan.dataset_size / (1 - momentum_used) for lr, momentum_used in used]
    scale_before = plan.dataset_size / (1 - momentum) / base
    return Forecast(
        before,
        plan,
        tuple(starts),
        tuple(sizes),
        tuple(lr_before),
        tuple(lr for lr, _ in used),
        tuple(value * scale_before for value in lr_before),
        tuple(value / size for value, size in zip(scale, sizes, strict=True)),
        None if timing is None else timing.plan_seconds(before),
        None if timing is None else timing.plan_seconds(plan),
        tuple(_shares(plan, timing)),
        1 if timing is None else timing.world_size,
    )


def _shares(plan: Plan, timing: Timing | None) -> Iterator[Share]:
    """The parts of a plan by the number of ranks wanted, those that occur."""
    for world_size in sorted({ranks for _, ranks in plan.world_sizes}):
        counts = plan.batch_counts(world_size)
        if counts:
            samples = sum(size * count for size, count in counts.items())
            seconds = None if timing is None else timing.plan_seconds(plan, world_size)
            yield Share(world_size, sum(counts.values()), samples, seconds)


def _in_force(coupling: couplings.Coupling, lr: float, momentum: float, ratio: float) -> tuple[float, float]:
    """LR and momentum of SGD under a coupling; other optimizers' momentum does not enter the noise scale."""
    if coupling.optimizers is not None and "SGD" not in coupling.optimizers:
        return lr * coupling.lr_factor(ratio), momentum
    group = _defaults() | {"lr": lr, "momentum": momentum}
    found = group | coupling.in_force(group, ratio)
    return found["lr"], found["momentum"]


@cache
def _defaults() -> dict[str, Any]:
    """The defaults of torch's SGD and AdamW, for couplings of more than LR and momentum."""
    import torch  # here, so that presets load no torch

    param = [torch.nn.Parameter(torch.zeros(1))]
    return torch.optim.AdamW(param).defaults | torch.optim.SGD(param).defaults
