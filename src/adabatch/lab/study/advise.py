"""Advice: in about an hour, whether growth pays on a task here, by which schedule, and how sure that is.

In shares of the budget:

1. 5/60: `probe`. If four times the batch does not train 1.1 times the samples per second, growth has nothing to win.
2. 15/60: the LR at the base batch size, by successive halving.
3. 25/60: three batch sizes, as cooled curves: the best fixed batch, and the critical batch size.
4. 10/60: two growing schedules. Each loss is looked up on the best fixed batch's curve: how long does
   that take to the same loss? The ratio of times is the forecast.

Steps 3 and 4 have two seeds, and up to six if whole trainings leave time. The rest is for loading and evaluation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, variance
from typing import Any, Final, NamedTuple

import torch
from scipy import stats

from adabatch import _checks, memory, schedules, units
from adabatch._errors import ArgumentError
from adabatch.lab import training
from adabatch.lab.scaling import Advice, Estimate, Forecast
from adabatch.lab.study import cooled, fits, measures
from adabatch.lab.study.curve import Curve
from adabatch.lab.study.grid import COOLDOWN, Cell, Grid
from adabatch.lab.study.probe import probe
from adabatch.lab.study.trainee import Trainee
from adabatch.lab.tasks import Data
from adabatch.lab.training import RunConfig
from adabatch.lab.training import device as devices
from adabatch.lab.training.interrupt import Interrupted, Interrupts

SHARES: Final = {"probe": 5 / 60, "lr": 15 / 60, "sizes": 25 / 60, "schedules": 10 / 60}
LEAST_GAIN: Final = 1.1  # samples per second at four times the batch, against the base batch
FACTORS: Final = (1, 4, 16)  # of the three batch sizes
SEEDS: Final = 2
MOST_SEEDS: Final = 6
LRS: Final = tuple(2.0**power for power in range(-3, 4))  # times the task's own
ROUNDS: Final = 3  # of successive halving
CURVE_COST: Final = 2.0  # time of a cooled curve over that of its training, with evaluations
MODEL_ERROR: Final = 0.1  # of the log ratio: a short training stands for a long one
OUTCOME_SEEDS: Final = 3  # of the comparison that is forecast
LARGEST: Final = 1e300  # in place of an infinite loss
FORMAT: Final = 1


class Candidate(NamedTuple):
    """A growing schedule.

    Attributes:
        name: `"early"` or `"late"`.
        schedule: batch sizes.
        coupling: how the LR follows.
    """

    name: str
    schedule: schedules.Schedule
    coupling: str


class Tried(NamedTuple):
    """A training by a schedule: its seconds and its losses."""

    seconds: float
    train_loss: float | None
    test_loss: float | None


Tell = Callable[[str], None]


def advise(config: RunConfig, data: Data, *, budget_seconds: float = 3600.0, progress: Tell | None = None) -> Advice:
    """Advice on a task.

    Args:
        config: the settings, with the base batch size; growth and the LR schedule are left out of account.
        data: of the task.
        budget_seconds: the time for all of it.
        progress: called with a sentence at each step.

    Returns:
        The content of `advice.json`.

    Raises:
        ValueError: if the budget is too small for one pass over the data at each batch size.
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP.
    """
    _checks.finite("budget", budget_seconds, above=0)
    began, tell = time.monotonic(), progress or (lambda _: None)
    device = devices.pick_device(config.device)
    if device.type == "cpu":
        memory.tune_allocator()
    config = replace(config.constant(), lr_schedule="constant", drop_last=True)
    facts: dict[str, Any] = {"task": config.task, "model": config.model, "versions": training.versions(device)}
    facts["budget_seconds"] = budget_seconds

    def ended(**found: Any) -> Advice:
        return Advice(format=FORMAT, settings=config.to_json(), seconds=time.monotonic() - began, **facts, **found)

    tell("how fast larger batches train")
    rates, gain = _throughput(config, data, seconds=SHARES["probe"] * budget_seconds)
    if gain is not None and gain < LEAST_GAIN:
        reason = f"a batch of {4 * config.batch_size:,} trains only {gain:.2f} times as many samples per second"
        return ended(verdict="no gain in speed", reason=reason, throughput_gain=gain, lr=config.lr)
    with Interrupts() as interrupts:

        def look(_: object = None) -> None:
            if interrupts.seen:
                raise Interrupted(None, interrupts.number or 0)

        tell("the learning rate")
        lr = _best_lr(
            config, data, device, seconds=SHARES["lr"] * budget_seconds, rate=rates[config.batch_size], look=look
        )
        config = replace(config, lr=lr)
        tell("three batch sizes")
        grid = _grid(config, data, rates, seconds=SHARES["sizes"] * budget_seconds)
        curves = _curves(grid, data, look)
        found = _fixed(curves)
        tell("two schedules")
        tried = {
            candidate: [_train_by(candidate, grid, data, device, seed, look) for seed in grid.seeds]
            for candidate in candidates(grid, data.dataset_size, largest=max(rates))
        }
    forecasts = {candidate: forecast(runs, curves[found.best], loss="test") for candidate, runs in tried.items()}
    best = max(forecasts, key=lambda candidate: forecasts[candidate].low_80)
    verdict = "grow" if forecasts[best].low_80 > 1 else "no evidence"
    return ended(
        verdict=verdict,
        reason=_reason(forecasts[best], best),
        throughput_gain=gain,
        lr=lr,
        critical_batch=found.critical,
        best_fixed=found.best,
        epochs=grid.epochs,
        forecasts={candidate.name: each for candidate, each in forecasts.items()},
        chosen=best.name,
        schedule=best.schedule.to_json(),
        coupling=best.coupling,
    )


def _throughput(config: RunConfig, data: Data, *, seconds: float) -> tuple[dict[int, float], float | None]:
    """Samples per second by batch size, and the gain at four times the base batch."""
    largest = min(FACTORS[-1] * config.batch_size, data.dataset_size)
    turns, sizes = 6, 1 + int(math.log2(largest / config.batch_size))
    found = probe(
        config, max_batch_size=largest, repeats=turns, seconds=max(0.02, seconds / (3 * turns * sizes)), data=data
    )
    rates = {point["batch_size"]: point["samples_per_second"]["median"] for point in found["curve"]}
    against = {point["batch_size"]: point["against_first"] for point in found["curve"]}.get(4 * config.batch_size)
    return rates, None if against is None else against["median"]


# The LR.


def _best_lr(
    config: RunConfig,
    data: Data,
    device: torch.device,
    *,
    seconds: float,
    rate: float,
    look: Callable[[object], None],
) -> float:
    """The best of `LRS` times the LR, by successive halving: each round doubles the training and halves the field."""
    spent = sum(len(LRS) / 2**number * (1 if number == 0 else 2 ** (number - 1)) for number in range(ROUNDS))
    most = config.epochs * (data.dataset_size // config.batch_size) // 2 ** (ROUNDS - 1)
    updates = max(1, min(most, int(seconds * rate / config.batch_size / (1.5 * spent))))
    field = {factor: Trainee(config, data, device) for factor in LRS}
    with devices.threads(config.threads), devices.entered(device):
        for number in range(ROUNDS):
            scores = {factor: _score(of, config, factor, updates * 2**number, look) for factor, of in field.items()}
            kept = sorted(field, key=lambda factor: (scores[factor], abs(math.log(factor))))
            field = {factor: field[factor] for factor in kept[: max(1, math.ceil(len(field) / 2))]}
    return config.lr * next(iter(field))


def _score(of: Trainee, config: RunConfig, factor: float, updates: int, look: Callable[[object], None]) -> float:
    """The test loss after `updates` and a cooldown; infinite if it is not finite."""
    lr, cool = config.lr * factor, max(1, round(COOLDOWN * updates))
    of.train(updates - of.updates, batch_size=config.batch_size, lr=lambda _: lr, after=look)
    place = of.here()
    of.train(cool, batch_size=config.batch_size, lr=lambda number: lr * (cool - number) / cool, after=look)
    loss = of.losses()[1]
    of.back(place)
    return math.inf if loss is None else loss


# Batch sizes.


class _Fixed(NamedTuple):
    best: int
    critical: Estimate | None


def _grid(config: RunConfig, data: Data, rates: Mapping[int, float], *, seconds: float) -> Grid:
    """Three batch sizes, trained as long as the budget lets them, at most as long as the task's own training."""
    sizes = tuple(config.batch_size * factor for factor in FACTORS if config.batch_size * factor in rates)
    if len(sizes) < 2:
        rule = "must be small enough that four times as large a batch fits into the data and the memory"
        raise ArgumentError("batch_size", rule, value=config.batch_size)
    an_epoch = CURVE_COST * sum(data.dataset_size / rates[size] for size in sizes)  # seconds for each seed
    epochs = min(config.epochs, int(seconds / an_epoch / SEEDS))
    if epochs < 1:
        least = SEEDS * an_epoch / SHARES["sizes"] / 60
        got = f"{seconds / SHARES['sizes'] / 60:.3g} min"
        rule = f"must be at least {least:.2g} min, for one pass over the data at each of {len(sizes)} batch sizes"
        raise ArgumentError("budget", rule, got=got)
    seeds = min(MOST_SEEDS, int(seconds / an_epoch / epochs))
    return Grid(
        base=config,
        batch_sizes=sizes,
        models=(config.model,),
        seeds=tuple(range(config.seed, config.seed + seeds)),
        epochs=epochs,
        max_epochs=epochs,
    )


def _curves(grid: Grid, data: Data, look: Callable[[object], None]) -> dict[int, list[Curve]]:
    """The cooled curves of each batch size, seed by seed; batch sizes take turns."""
    found: dict[int, list[Curve]] = {size: [] for size in grid.batch_sizes}
    for seed in grid.seeds:
        for size in grid.batch_sizes:
            cell = Cell(model=grid.base.model, fraction=1.0, rule=grid.rules[0], batch_size=size)
            found[size].append(cooled.train(grid.job(cell, seed=seed), grid, data))
            look(None)
    return found


def _fixed(curves: Mapping[int, Sequence[Curve]]) -> _Fixed:
    """The batch size that takes the least time to the loss that the best one reaches, and the critical batch size."""
    points = {size: [_points(run, "test") for run in runs] for size, runs in curves.items()}
    target = measures.best_batch_target(points).loss
    arrivals = {size: [measures.first_arrival(run, target) for run in runs] for size, runs in points.items()}
    seconds = {
        size: fmean(run.seconds or math.inf for run in runs)
        for size, runs in arrivals.items()
        if not any(run.censored == measures.LATER for run in runs)
    }
    fitted = fits.fit(arrivals).critical_batch
    return _Fixed(min(seconds, key=lambda size: seconds[size]), fitted)


def _points(run: Curve, loss: str) -> list[measures.Point]:
    return [
        measures.Point(point.updates, point.samples, point.seconds, getattr(point, f"{loss}_loss"))
        for point in run.points
    ]


# Schedules.


def candidates(grid: Grid, dataset_size: int, *, largest: int) -> Iterator[Candidate]:
    """The two schedules that are tried, over a training of the grid's length.

    `early` doubles the batch in equal steps from the start on, with the LR in proportion. `late` keeps the base batch
    for the first half, then doubles it in equal steps at the same LR, as in place of a falling one.
    """
    base, total = grid.batch_sizes[0], grid.epochs * dataset_size
    doublings = int(math.log2(largest / base))
    starts = {
        "early": [round(total * number / (doublings + 1)) for number in range(doublings + 1)],
        "late": [0, *(round(total * (0.5 + 0.5 * number / doublings)) for number in range(doublings))],
    }
    for name, coupling in (("early", "linear"), ("late", "none")):
        changes: dict[units.Duration | int, int] = {at: base * 2**number for number, at in enumerate(starts[name])}
        yield Candidate(name, schedules.steps(changes), coupling)


def _train_by(
    candidate: Candidate, grid: Grid, data: Data, device: torch.device, seed: int, look: Callable[[object], None]
) -> Tried:
    """A training by a schedule, whose LR falls to 0 over its end."""
    from adabatch import couplings

    base, total = grid.base, grid.epochs * data.dataset_size
    plan = candidate.schedule.plan(
        dataset_size=data.dataset_size, epochs=grid.epochs, batch_size=base.batch_size, drop_last=True
    )
    coupling, begin = couplings.get(candidate.coupling), (1 - COOLDOWN) * total
    with devices.threads(base.threads), devices.entered(device):
        of = Trainee(replace(base, seed=seed), data, device)
        for update in range(plan.updates):
            clock = plan.clock_of(update)
            size = plan.batch_size_at(clock)
            left = 1.0 if clock < begin else (total - clock) / (total - begin)
            lr = base.lr * coupling.lr_factor(size / base.batch_size) * left
            of.train(1, batch_size=size, lr=lambda _, lr=lr: lr, after=look)
        return Tried(of.seconds, *of.losses())


def forecast(runs: Sequence[Tried], fixed: Sequence[Curve], *, loss: str) -> Forecast:
    """The time of the best fixed batch over the time of a schedule, to the same loss, with intervals for an outcome.

    The schedule's loss is compared with the fixed batch's at the end, seed by seed, on logarithms. The mean difference,
    and the ends of Student's t interval for another `OUTCOME_SEEDS` seeds, are looked up on the fixed batch's mean
    curve. To that interval comes `MODEL_ERROR`, for what a short training cannot tell of a long one. Beyond the end of
    the curve there is no bound.
    """
    course = _mean_curve(fixed, loss)
    reached = [getattr(run, f"{loss}_loss") for run in runs]
    ends = [getattr(curve.points[-1], f"{loss}_loss") for curve in fixed if curve.points]
    if not course or None in (*reached, *ends):
        return Forecast(ratio=None, low_80=0.0, high_80=None, low_95=0.0, high_95=None)
    differences = [math.log(ours / theirs) for ours, theirs in zip(reached, ends, strict=True)]
    seconds, n = fmean(math.log(run.seconds) for run in runs), len(runs)
    spread = math.sqrt(variance(differences) * (1 / n + 1 / OUTCOME_SEEDS)) if n > 1 else math.inf

    def ratio(shift: float) -> float:
        """The log ratio of times if the mean difference is larger by `shift`."""
        loss = math.exp(fmean(map(math.log, ends)) + fmean(differences) + shift) if shift < math.inf else math.inf
        arrival = measures.first_arrival(course, min(loss, LARGEST))
        if arrival.censored == measures.LATER and shift < 0:
            return math.inf
        return math.log(arrival.seconds or course[0].seconds) - seconds

    middle, bounds = ratio(0.0), {}
    for confidence in (80, 95):
        t = float(stats.t.ppf((1 + confidence / 100) / 2, max(1, n - 1)))
        low, high = ratio(t * spread), ratio(-t * spread)
        more = t * MODEL_ERROR
        bounds[f"low_{confidence}"] = math.exp(middle - math.hypot(middle - low, more))
        top = middle + math.hypot(high - middle, more)
        bounds[f"high_{confidence}"] = math.exp(top) if top < 600 else None
    return Forecast(ratio=math.exp(middle), **bounds)


def _mean_curve(curves: Sequence[Curve], loss: str) -> list[measures.Point]:
    """The geometric means of losses and seconds over seeds, as far as all seeds have finite ones."""
    found = []
    for points in zip(*(_points(curve, loss) for curve in curves), strict=False):
        if any(point.loss is None for point in points):
            break
        losses, seconds = ([getattr(point, name) for point in points] for name in ("loss", "seconds"))
        middle = points[0]
        found.append(
            measures.Point(
                middle.updates,
                middle.samples,
                math.exp(fmean(map(math.log, seconds))),
                math.exp(fmean(map(math.log, losses))),
            )
        )
    return found


def _reason(found: Forecast, candidate: Candidate) -> str:
    if found.ratio is None:
        return "no schedule ended with a finite loss"
    interval = f"[{found.low_80:.2f}, {'no end' if found.high_80 is None else f'{found.high_80:.2f}'}]"
    return f"growth ({candidate.name}) is {found.ratio:.2f} times as fast as the best fixed batch, {interval} with 80 %"
