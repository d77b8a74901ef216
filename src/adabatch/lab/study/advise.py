"""Advice: in about an hour, whether growth pays on a task here, by which schedule, and how sure that is.

In shares of the budget:

1. 5/60: `probe`. If four times the batch trains fewer than 1.1 times the samples per second, growth cannot win.
2. 15/60: the LR at the base batch size, by successive halving.
3. 35/60: for each seed three constant batch sizes, as cooled curves, and two growing schedules, whose LR falls to 0
   over their end. Each schedule's loss is looked up on the best constant batch's curve: how long does that take to the
   same loss? The ratio of both times is the forecast.

There are two seeds, and more, up to 24, while their time lasts. The rest of the budget is for loading and evaluation.
What is measured is kept in the folder, and the same call goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import torch

from adabatch import _checks, couplings, memory
from adabatch._errors import ArgumentError
from adabatch.lab import training
from adabatch.lab.advice import GROW, NO_EVIDENCE, NO_GAIN, Advice, Forecast, GrowingBatch, Outcome, holds
from adabatch.lab.scaling import Estimate
from adabatch.lab.study import cooled
from adabatch.lab.study.candidates import Candidate, candidates
from adabatch.lab.study.constant import judged
from adabatch.lab.study.curve import Curve
from adabatch.lab.study.grid import COOLDOWN, SEARCH_SEED, Case, Grid
from adabatch.lab.study.kept import Kept
from adabatch.lab.study.measures import Pooled
from adabatch.lab.study.probe import probe
from adabatch.lab.study.time_ratio import Bounds, Ending, measured, noise_of, rival, time_ratio
from adabatch.lab.study.trainee import Trainee
from adabatch.lab.tasks import Data
from adabatch.lab.training import RunConfig, lock, optimizers, writing
from adabatch.lab.training import device as devices
from adabatch.lab.training.interrupt import Interrupted, Interrupts

SHARES: Final = {"probe": 5 / 60, "lr": 15 / 60, "trainings": 35 / 60}
LEAST_GAIN: Final = 1.1  # samples per second at four times the batch, against the base batch
FACTORS: Final = (1, 4, 16)  # of the three batch sizes
PROBE_SECONDS: Final = 5.0  # for each batch size in each turn, at most
SEEDS: Final = 2
MOST_SEEDS: Final = 24
LR_FACTORS: Final = tuple(2.0**power for power in range(-3, 4))  # of the task's own
ROUNDS: Final = 3  # of successive halving
OUTCOME_SEEDS: Final = 3
MODEL_STD: Final = 0.1  # of the log ratio, of a training as long as the whole one; as much again for each halving
CURVE_UPDATES: Final = 1.7  # updates of a cooled curve over those of its training
EVALUATIONS: Final = 14  # of a cooled curve
FORWARD: Final = 1 / 3  # the cost of evaluating a sample, over that of training on it
_WHOLE: Final = "whole training, seed"  # begins the names of what belongs to the outcome
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The settings of an advice.

    Attributes:
        base: with the base batch size, the task's own LR, and the epochs of a whole training.
        budget_seconds: for all of it.
        train_samples: of the training set, the first ones are taken; None: all.
        test_samples: of the test set; None: all.

    Raises:
        ValueError: if a value is out of range.
    """

    base: RunConfig
    budget_seconds: float = 3600.0
    train_samples: int | None = None
    test_samples: int | None = None

    def __post_init__(self) -> None:
        _checks.finite("budget", self.budget_seconds, above=0)
        for name in ("train_samples", "test_samples"):
            if getattr(self, name) is not None:
                _checks.whole(name, getattr(self, name))
        if self.base.grows:
            got = "the batch's own growth"
            raise ArgumentError("growth", "must be left out: the advice finds it", got=got)
        object.__setattr__(self, "base", replace(self.base, lr_schedule="constant", drop_last=True))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def advise(question: Question, data: Data, out: Path, *, tell: Tell | None = None) -> Advice:
    """Advice on a task; what is measured is kept in the folder, and the same call goes on.

    Args:
        question: the settings.
        data: of the task.
        out: the folder.
        tell: called with what is done next, in words.

    Raises:
        ValueError: if the budget is too small for one pass over the data at each batch size, the base batch is too
            large for the data, or the folder holds other settings or data.
        BlockingIOError: if another process works in the folder.
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP.
        OSError: if the folder cannot be written.
    """
    with _working(question, data, out, tell) as work:
        return work.advice()


def check(question: Question, data: Data, out: Path, advice: Advice, *, tell: Tell | None = None) -> Advice:
    """The advice with its outcome: whole trainings with seeds that it had not seen; raises as `advise` does.

    Raises:
        ValueError: also if the advice chose no schedule, so that there is no forecast.
    """
    if advice.choice is None:
        got = f"one that says {advice.verdict!r}"
        raise ArgumentError("check", "must follow an advice with a forecast", got=got, remedy="leave it out")
    with _working(question, data, out, tell) as work:
        return replace(advice, outcome=work.outcome(advice))


@contextmanager
def _working(question: Question, data: Data, out: Path, tell: Tell | None) -> Iterator[_Work]:
    device = devices.pick_device(question.base.device)
    if device.type == "cpu":
        memory.tune_allocator()
    cooled.first_samples(data, train=question.train_samples, test=question.test_samples)  # or it raises
    with ExitStack() as around:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        around.enter_context(lock.held(out))
        settings = {**question.to_json(), "machine": training.versions(device)["device_name"]}
        kept = Kept(out, settings=settings, data=data.fingerprint())
        yield _Work(question, data, device, kept, tell or (lambda _: None))


class _Runs(NamedTuple):
    """Trainings of the same length: cooled curves by batch size, endings by schedule; a value for each seed."""

    seeds: Sequence[int]
    curves: Mapping[int, Sequence[Curve]]
    endings: Mapping[str, Sequence[Ending]]

    def noise(self) -> Pooled:
        """The noise of log test losses."""
        last = {
            str(size): [curve.points[-1].test_loss if curve.points else None for curve in curves]
            for size, curves in self.curves.items()
        }
        return noise_of(last | {name: [each.test_loss for each in found] for name, found in self.endings.items()})

    def clock(self) -> Pooled:
        """The noise of log seconds of a training, or of its updates where that may have ended early."""
        paces = {
            str(size): [
                curve.points[-1].seconds / curve.points[-1].updates if curve.points else None for curve in curves
            ]
            for size, curves in self.curves.items()
        }
        return noise_of(paces | {name: [each.seconds for each in found] for name, found in self.endings.items()})


class _Work:
    """The measurements of an advice, one after another."""

    def __init__(self, question: Question, data: Data, device: torch.device, kept: Kept, tell: Tell) -> None:
        self._question, self._base, self._device = question, question.base, device
        self._data, self._kept, self._tell = data, kept, tell
        self._size = min(question.train_samples or data.dataset_size, data.dataset_size)
        known = couplings.get("linear").optimizers
        self._rule = "linear" if known is None or optimizers.CLASSES[self._base.optimizer] in known else "sqrt"

    def advice(self) -> Advice:
        """The advice, from all measurements."""
        budget = self._question.budget_seconds
        if FACTORS[1] * self._base.batch_size > self._size:
            self._too_large()
        rates, gain = self._throughput(SHARES["probe"] * budget)
        facts: dict[str, Any] = {"task": self._base.task, "model": self._base.model, "gain": gain}
        facts |= {"settings": self._question.to_json(), "versions": training.versions(self._device)}
        facts |= {"whole_epochs": self._base.epochs, "whole_samples": self._data.dataset_size, "samples": self._size}
        if gain is not None and gain < LEAST_GAIN:
            return Advice(verdict=NO_GAIN, lr=self._base.lr, seconds=self._spent, **facts)
        sizes, epochs = self._affordable(rates, SHARES["trainings"] * budget)
        with Interrupts() as interrupts:
            self._interrupts = interrupts
            factor = self._best_lr(SHARES["lr"] * budget, rates[self._base.batch_size])
            base = replace(self._base, lr=self._base.lr * factor)
            seeds = tuple(range(base.seed, base.seed + MOST_SEEDS))
            grid = self._grid(base, sizes, epochs, seeds)
            runs = self._trainings(grid, grid.seeds, "seed", within=SHARES["trainings"] * budget)
        at_edge = factor in (LR_FACTORS[0], LR_FACTORS[-1])
        return self._found(grid, runs, lr=base.lr, lr_at_edge=at_edge, seconds=self._spent, **facts)

    def outcome(self, advice: Advice) -> Outcome:
        """Whole trainings, and how the forecast did."""
        assert advice.choice is not None
        assert advice.best_fixed is not None
        seeds = tuple(range(advice.seeds[0] + MOST_SEEDS, advice.seeds[0] + MOST_SEEDS + OUTCOME_SEEDS))
        sizes = tuple(row.batch_size for row in advice.fixed)
        grid = self._grid(replace(self._base, lr=advice.lr), sizes, self._base.epochs, seeds)
        with Interrupts() as interrupts:
            self._interrupts = interrupts
            runs = self._trainings(grid, seeds, _WHOLE, only=advice.choice.name)
        fixed, endings = judged(grid, runs.curves, runs.seeds), runs.endings[advice.choice.name]
        noise, clock = runs.noise(), runs.clock()
        forecast = advice.choice.forecast
        others = (advice.choice.against, rival(endings, runs.curves, default=fixed.best))
        against = [time_ratio(endings, runs.curves[size], noise, clock, confidence=0.95) for size in others]
        ends, best_ends = (_ends(measured(endings, runs.curves[size])) for size in others)
        share = fixed.seconds[fixed.best] / fixed.seconds[advice.best_fixed]
        return Outcome(
            seeds=seeds,
            epochs=self._base.epochs,
            ratio=against[0],
            low=ends[0],
            high=ends[1],
            within_80=holds(forecast.at_80, *ends),
            within_95=holds(forecast.at_95, *ends),
            best_fixed=fixed.best,
            against_best=against[1],
            best_low=best_ends[0],
            best_high=best_ends[1],
            fixed_against_best=share or None,
            seconds=self._kept.seconds(_WHOLE),
        )

    def _found(self, grid: Grid, runs: _Runs, **facts: Any) -> Advice:
        """The advice that the trainings give."""
        fixed, noise, clock = judged(grid, runs.curves, runs.seeds), runs.noise(), runs.clock()
        std = MODEL_STD * (1 + math.log2(self._base.epochs / grid.epochs))

        def at(endings: Sequence[Ending], against: int, confidence: float, others: int | None) -> Estimate:
            curves = runs.curves[against]
            return time_ratio(endings, curves, noise, clock, confidence=confidence, others=others, model_std=std)

        tried = []
        for candidate in self._candidates(grid):
            endings = runs.endings[candidate.name]
            against = rival(endings, runs.curves, default=fixed.best)
            tried.append(
                GrowingBatch(
                    name=candidate.name,
                    words=candidate.schedule.describe(),
                    schedule=candidate.schedule.to_json(),
                    coupling=candidate.coupling,
                    seconds=tuple(ending.seconds for ending in endings),
                    train_losses=tuple(ending.train_loss for ending in endings),
                    test_losses=tuple(ending.test_loss for ending in endings),
                    against=against,
                    ratio=at(endings, against, 0.8, None),
                    forecast=Forecast(*(at(endings, against, each, OUTCOME_SEEDS) for each in (0.8, 0.95))),
                )
            )
        best = max(tried, key=lambda one: (one.ratio.low, one.ratio.estimate or 0.0))
        total = self._base.epochs * self._data.dataset_size
        whole = {each.name: each for each in self._candidates(grid, total)}
        return Advice(
            verdict=GROW if best.ratio.low > 1 else NO_EVIDENCE,
            epochs=grid.epochs,
            seeds=tuple(runs.seeds),
            fixed=tuple(fixed.rows.values()),
            best_fixed=fixed.best,
            critical_batch=fixed.critical,
            growing=tuple(tried),
            chosen=best.name,
            schedule=whole[best.name].schedule.to_json(),
            **facts,
        )

    # What is measured.

    @property
    def _spent(self) -> float:
        return self._kept.seconds("throughput", "learning rate", "seed")

    def _throughput(self, seconds: float) -> tuple[dict[int, float], float | None]:
        """Samples per second by batch size, and the gain at four times the base batch."""
        base = self._base
        largest = min(FACTORS[-1] * base.batch_size, self._size)
        turns, sizes = 6, 1 + int(math.log2(largest / base.batch_size))
        each = min(PROBE_SECONDS, max(0.02, seconds / (3 * turns * sizes)))

        def do() -> Any:
            self._tell("how fast larger batches train")
            found = probe(base, max_batch_size=largest, repeats=turns, seconds=each, data=self._data)
            return [
                [row["batch_size"], row["samples_per_second"]["median"], row["against_first"]] for row in found["curve"]
            ]

        rows = self._kept.of("throughput", do)
        gains = {size: None if ratio is None else ratio["median"] for size, _, ratio in rows}
        return {size: rate for size, rate, _ in rows}, gains.get(4 * base.batch_size)

    def _best_lr(self, seconds: float, rate: float) -> float:
        """The best of `LR_FACTORS`, by successive halving: each round doubles the trainings and halves their number."""
        counts = [math.ceil(len(LR_FACTORS) / 2**number) for number in range(ROUNDS)]
        updates_of_one = sum(count * max(1, 2 ** (number - 1)) for number, count in enumerate(counts))
        samples = seconds * rate / (1 + COOLDOWN * 2) - FORWARD * sum(counts) * self._tests
        most = self._base.epochs * (self._size // self._base.batch_size) // 2 ** (ROUNDS - 1)
        first = max(1, min(most, int(samples / self._base.batch_size / updates_of_one)))

        def do() -> float:
            with self._on_device():
                base, share = replace(self._base, seed=SEARCH_SEED), self._share().to(self._device)
                field = {factor: Trainee(base, share, self._device) for factor in LR_FACTORS}
                for number in range(ROUNDS):
                    self._tell(f"the learning rate, {len(field)} of them")
                    scores = {factor: self._score(of, factor, first * 2**number) for factor, of in field.items()}
                    if min(scores.values()) == math.inf:
                        lrs = f"{self._base.lr * LR_FACTORS[0]:.3g} to {self._base.lr * LR_FACTORS[-1]:.3g}"
                        raise ArgumentError("lr", f"must train, and of LRs from {lrs} none ended with a finite loss")
                    order = sorted(field, key=lambda factor: (scores[factor], abs(math.log(factor))))
                    field = {factor: field[factor] for factor in order[: math.ceil(len(field) / 2)]}
            return order[0]

        return float(self._kept.of("learning rate", do))

    def _score(self, of: Trainee, factor: float, updates: int) -> float:
        """The test loss after `updates` and a cooldown; infinite if it is not finite."""
        lr, cool = self._base.lr * factor, max(1, round(COOLDOWN * updates))
        size = self._base.batch_size
        of.train(updates - of.updates, batch_size=size, lr=lambda _: lr, after=self._look)
        place = of.here()
        of.train(cool, batch_size=size, lr=lambda number: lr * (cool - number) / cool, after=self._look)
        loss = of.setup.evaluate()[0]
        of.back(place)
        return loss if math.isfinite(loss) else math.inf

    def _affordable(self, rates: Mapping[int, float], seconds: float) -> tuple[tuple[int, ...], int]:
        """Three batch sizes, and the epochs that the budget pays, at most those of a whole training."""
        base = self._base
        sizes = tuple(base.batch_size * factor for factor in FACTORS if base.batch_size * factor in rates)
        if len(sizes) < 2:
            self._too_large()
        passes = sum(1 / rates[size] for size in sizes) * CURVE_UPDATES + 2 / max(rates.values())
        looks = len(sizes) * EVALUATIONS * FORWARD * (self._tests + self._watched) / max(rates.values())
        epochs = min(base.epochs, int((seconds / SEEDS - looks) / (passes * self._size)))
        if epochs < 1:
            least = 1.05 * SEEDS * (passes * self._size + looks) / SHARES["trainings"]
            rule = (
                f"must be at least {in_words(least)}, by the speed measured now, for one pass over the data at each of "
            )
            rule += f"{len(sizes)} batch sizes"
            got, remedy = in_words(self._question.budget_seconds), "give more, or fewer `train_samples`"
            self._kept.forget()  # so that another budget is taken in the same folder
            raise ArgumentError("budget", rule, got=got, remedy=remedy)
        return sizes, epochs

    def _too_large(self) -> NoReturn:
        rule = "must be so small that four times as large a batch fits into the data and the memory"
        raise ArgumentError("batch_size", rule, value=self._base.batch_size)

    def _grid(self, base: RunConfig, sizes: tuple[int, ...], epochs: int, seeds: tuple[int, ...]) -> Grid:
        return Grid(
            base=base,
            batch_sizes=sizes,
            models=(base.model,),
            rules=(self._rule,),
            seeds=seeds,
            epochs=epochs,
            max_epochs=epochs,
            train_samples=self._question.train_samples,
            test_samples=self._question.test_samples,
        )

    def _trainings(
        self, grid: Grid, seeds: Sequence[int], words: str, *, within: float = math.inf, only: str | None = None
    ) -> _Runs:
        """All trainings of each seed; seeds after the first two only if their time fits into `within` seconds."""
        curves: dict[int, list[Curve]] = {size: [] for size in grid.batch_sizes}
        tried = [each for each in self._candidates(grid) if only in (None, each.name)]
        endings: dict[str, list[Ending]] = {each.name: [] for each in tried}
        done: list[int] = []
        for seed in seeds:
            spent = self._kept.seconds(*(f"{words} {each}," for each in done))
            if len(done) >= SEEDS and spent * (len(done) + 1) / len(done) > within:
                break
            for size in grid.batch_sizes:
                name = f"{words} {seed}, batch size {size}"
                found = self._kept.of(name, lambda: self._curve(grid, seed, size, name).to_json())  # noqa: B023
                curves[size].append(Curve.of_json(found))
            for each in tried:
                name = f"{words} {seed}, growing {each.name}"
                endings[each.name].append(Ending(*self._kept.of(name, lambda: self._ending(grid, seed, each, name))))  # noqa: B023
            done.append(seed)
        return _Runs(done, curves, endings)

    def _curve(self, grid: Grid, seed: int, size: int, name: str) -> Curve:
        self._look()
        self._tell(name)
        case = Case(model=self._base.model, fraction=1.0, rule=self._rule, batch_size=size)
        return cooled.train(grid.job(case, seed=seed), grid, self._data)

    def _candidates(self, grid: Grid, total_samples: int | None = None) -> Iterator[Candidate]:
        """The schedules over as many samples; None: over a training of the grid."""
        sizes, total = grid.batch_sizes, total_samples or grid.epochs * self._size
        return candidates(base=sizes[0], largest=sizes[-1], total_samples=total, rule=self._rule)

    def _ending(self, grid: Grid, seed: int, candidate: Candidate, name: str) -> Ending:
        """A training by a schedule, whose LR falls to 0 over its end."""
        self._look()
        self._tell(name)
        base, coupling = grid.base, couplings.get(candidate.coupling)
        plan = candidate.schedule.plan(
            dataset_size=self._size, epochs=grid.epochs, batch_size=base.batch_size, drop_last=True
        )
        clocks = [plan.clock_of(update) for update in range(plan.updates)]
        sizes = [plan.batch_size_at(clock) for clock in clocks]
        end = clocks[-1] + sizes[-1]
        lrs = [
            base.lr * coupling.lr_factor(size / base.batch_size) * min(1.0, (end - clock) / (COOLDOWN * end))
            for clock, size in zip(clocks, sizes, strict=True)
        ]
        with self._on_device():
            of = Trainee(replace(base, seed=seed), self._share(), self._device)
            before = of.here()
            for size in dict.fromkeys(sizes):  # the first updates of a shape take longer, and do not count
                of.train(cooled.TRIED, batch_size=size, lr=lambda _: base.lr, after=self._look)
            of.back(before)
            for size, updates in groupby(range(plan.updates), key=sizes.__getitem__):
                first, *rest = updates
                of.train(1 + len(rest), batch_size=size, lr=lrs[first:].__getitem__, after=self._look)
            return Ending(of.seconds, *of.losses())

    def _share(self) -> Data:
        question = self._question
        return cooled.first_samples(self._data, train=question.train_samples, test=question.test_samples)

    @property
    def _tests(self) -> int:
        return min(self._question.test_samples or len(self._data.x_test), len(self._data.x_test))

    @property
    def _watched(self) -> int:
        """Samples on which the training loss is taken."""
        return min(self._size, max(self._tests, 2048))

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        with devices.threads(self._base.threads), devices.entered(self._device):
            yield

    def _look(self, _: object = None) -> None:
        if self._interrupts.seen:
            raise Interrupted(None, self._interrupts.number or 0, kept="what is measured is kept")


def _ends(found: Bounds | None) -> tuple[float, float | None]:
    """The ends of a ratio from those of its logarithm; None is infinite."""
    low, high = found or Bounds(-math.inf, math.inf)
    return math.exp(low), math.exp(high) if math.isfinite(high) else None


def in_words(seconds: float) -> str:
    """A time as `--budget` takes it.

    Example:
        >>> in_words(3600), in_words(200), in_words(12.3)
        ('1h', '3.3min', '12s')
    """
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.2g}{unit}"
    return f"{seconds:.2g}s"
