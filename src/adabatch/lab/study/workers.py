"""A training on any number of workers: seconds, efficiency, worker-hours, and where more workers stop paying."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from adabatch.lab.planner import PAYS, Link, Performance
from adabatch.lab.study.statistics import paired_ratio
from adabatch.schedules import Plan


def on_workers(
    plan: Plan,
    constant: Plan,
    models: Sequence[Performance],
    workers: Sequence[int],
    *,
    price: float | None = None,
) -> dict[str, Any]:
    """Forecasts a training, and the same at a constant batch, for numbers of workers.

    Args:
        plan: the batch schedule, resolved.
        constant: the constant batch, resolved for the same training.
        models: what each turn of a probe says: an answer is their median, with the interval over turns.
        workers: the numbers of workers.
        price: of a worker-hour.

    Returns:
        The key `workers` of `plan.json`: `rows`, one for each number of workers, and `sizes`, one for each batch size
        of the plan. `pays_up_to` is the number of workers from which on twice as many make an update less than `pays`
        times as fast.
    """
    link = models[0].link
    return {
        "link": _told(link),
        "pays": PAYS,
        "rows": [_row(plan, constant, models, count, price) for count in workers],
        "sizes": [_size(models, size, workers) for size in plan.sizes],
    }


def _told(link: Link) -> dict[str, Any]:
    names = ("name", "latency_seconds", "bytes_per_second", "algorithm", "workers_per_node", "source")
    return {name: getattr(link, name) for name in names}


def _over(models: Sequence[Performance], ask: Callable[[Performance], float]) -> dict[str, Any]:
    """The median of an answer over turns, with its interval."""
    found = [ask(model) for model in models]
    return paired_ratio(found, [1.0] * len(found)).to_json()


def _row(
    plan: Plan, constant: Plan, models: Sequence[Performance], workers: int, price: float | None
) -> dict[str, Any]:
    node = models[0].link.workers_per_node
    hours = _over(models, lambda model: workers * model.seconds(plan, workers) / 3600)
    more: dict[str, Any] = {}
    if 1 < node < workers:
        more["node_efficiency"] = _over(models, lambda model: model.efficiency(plan, workers, of=node))
    if price is not None:
        more["cost"] = {name: value and value * price for name, value in hours.items()}
    return {
        "workers": workers,
        "seconds": _over(models, lambda model: model.seconds(plan, workers)),
        "constant_seconds": _over(models, lambda model: model.seconds(constant, workers)),
        "efficiency": _over(models, lambda model: model.efficiency(plan, workers)),
        "worker_hours": hours,
        **more,
    }


def _pays_up_to(models: Sequence[Performance], size: int) -> dict[str, Any]:
    """The median over turns of the workers that pay, with its interval: powers of two, at most as many as samples."""
    found = [model.pays_up_to(size) for model in models]
    over = paired_ratio(found, [1.0] * len(found))
    most = 2 ** (size.bit_length() - 1)
    low = None if over.low is None else 2 ** max(0, math.floor(math.log2(over.low)))
    high = None if over.high is None else min(most, 2 ** math.ceil(math.log2(over.high)))
    return {"median": statistics.median_low(found), "low": low, "high": high}


def _size(models: Sequence[Performance], size: int, workers: Sequence[int]) -> dict[str, Any]:
    updates = []
    for count in workers:
        parts = [model.update(size, count) for model in models]
        middle = sorted(parts, key=lambda part: part.seconds)[len(parts) // 2]
        updates.append({"workers": count, **middle._asdict(), "seconds": middle.seconds})
    return {
        "batch_size": size,
        "pays_up_to": _pays_up_to(models, size),
        "updates": updates,
    }
