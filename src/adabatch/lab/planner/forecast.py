"""A batch schedule against the constant batch: updates, LRs, noise scale and seconds, before training starts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from adabatch import _checks, couplings
from adabatch._errors import ArgumentError
from adabatch.lab.planner.course import Course
from adabatch.lab.planner.timing import Timing
from adabatch.schedules import Plan, constant


@dataclass(frozen=True)
class Forecast:
    """What a plan does, against the same LR schedule at the constant batch size that the plan starts with.

    Rows are the clocks where the LR schedule or the batch size changes.

    Attributes:
        before: the plan of the constant batch.
        after: the plan.
        starts_samples: the clock of each row.
        sizes: the batch size from there on.
        lr_before: the LR of the schedule.
        lr: the LR in force: that of the schedule times the factor of the coupling.
        noise_scale_before: `lr_before * N / (B0 * (1 - momentum))`.
        noise_scale: `lr * N / (B * (1 - momentum))`, with the momentum in force.
        seconds_before: of training by `before`; None without a timing.
        seconds_after: of training by `after`; None without a timing.
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

    @property
    def update_ratio(self) -> float:
        """Updates before / updates after; above 1 are saved."""
        return self.before.updates / self.after.updates

    def to_json(self) -> dict[str, Any]:
        """Numbers for machines; `starts_samples`, `sizes`, `lr` and `noise_scale` are the rows."""
        return {
            "updates_before": self.before.updates,
            "updates_after": self.after.updates,
            "samples": self.after.samples,
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
        }


def forecast(
    course: Course,
    plan: Plan,
    *,
    coupling: str | couplings.Coupling,
    momentum: float = 0.0,
    timing: Timing | None = None,
) -> Forecast:
    """Forecasts a training.

    Args:
        course: the LR schedule, which stays in place.
        plan: the batch schedule, resolved for a data set and epochs.
        coupling: how the LR follows the batch size; that of a converted schedule is its `.coupling`.
        momentum: of SGD, from 0 and below 1; it enters the noise scale.
        timing: seconds per update, for a forecast of time.

    Raises:
        ValueError: if the plan has no end, or the momentum is out of range or reaches 1 under the coupling.

    Example:
        >>> from adabatch import epochs, schedules
        >>> table = {0: 0.1, epochs(60): 0.02, epochs(120): 0.004, epochs(160): 0.0008}
        >>> growth = schedules.from_lr(table, maximum=5120)
        >>> plan = growth.plan(dataset_size=50_000, epochs=200, batch_size=128)
        >>> found = forecast(Course.of_table(table.items(), 50_000), plan, coupling=growth.coupling, momentum=0.9)
        >>> found.before.updates, found.after.updates, [round(lr, 6) for lr in found.lr]
        (78200, 29240, [0.1, 0.1, 0.1, 0.032])
    """
    momentum = float(_checks.finite("momentum", momentum, minimum=0, below=1, remedy="at 1 the noise has no scale"))
    if plan.end_samples is None or plan.dataset_size is None:
        raise ArgumentError(
            "plan", "must have an end to be forecast", got="one without", remedy="plan with `dataset_size` and `epochs`"
        )
    base, rule = plan.batch_sizes[0], couplings.get(coupling)
    before = constant(base).plan(
        dataset_size=plan.dataset_size, epochs=plan.epochs, drop_last=plan.drop_last, run_on=plan.run_on
    )
    starts = sorted({at for at in (*course.starts_samples, *plan.starts_samples) if at < plan.end_samples})
    sizes = [plan.batch_size_at(at) for at in starts]
    lr_before = [course.lr_at(at) for at in starts]
    used = [_in_force(rule, lr, momentum, size / base) for lr, size in zip(lr_before, sizes, strict=True)]
    scale = [found.lr * plan.dataset_size / (1 - found.momentum) for found in used]
    scale_before = plan.dataset_size / (1 - momentum) / base
    return Forecast(
        before,
        plan,
        tuple(starts),
        tuple(sizes),
        tuple(lr_before),
        tuple(found.lr for found in used),
        tuple(value * scale_before for value in lr_before),
        tuple(value / size for value, size in zip(scale, sizes, strict=True)),
        None if timing is None else timing.plan_seconds(before),
        None if timing is None else timing.plan_seconds(plan),
    )


class _InForce(NamedTuple):
    lr: float
    momentum: float


def _in_force(rule: couplings.Coupling, lr: float, momentum: float, ratio: float) -> _InForce:
    """LR and momentum of SGD under a coupling; of other optimizers' momentum the noise scale knows nothing."""
    if rule.optimizers is not None and "SGD" not in rule.optimizers:
        return _InForce(lr * rule.lr_factor(ratio), momentum)
    group = _defaults() | {"lr": lr, "momentum": momentum}
    found = group | rule.in_force(group, ratio)
    return _InForce(found["lr"], found["momentum"])


@cache
def _defaults() -> dict[str, Any]:
    """What a parameter group of torch's SGD or AdamW holds, for couplings of more than LR and momentum."""
    import torch  # here, so that whoever asks for presets alone is spared it

    param = [torch.nn.Parameter(torch.zeros(1))]
    return torch.optim.AdamW(param).defaults | torch.optim.SGD(param).defaults
