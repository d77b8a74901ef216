"""The grid of a study: which batch sizes, networks, LR rules, shares of the data and seeds are trained, and how far."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Final

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.lab.training import RunConfig

RULES: Final = ("constant", "linear", "sqrt", "tuned")
TARGETS: Final = ("best", "paper")
SEARCH_SEED: Final = 1_000_003  # of trials that only search for an LR: no seed of a claim
COOLDOWN: Final = 1 / 6  # the share of a point's updates in which the LR falls to 0: a fifth of those before
RATIO: Final = 1.3  # of the updates of one point to those of the point before
SPAN: Final = 32  # the first point lies at this part of the budget
OTHERWISE: Final = "give the former settings, or another `out`"  # the remedy where a folder holds other settings
WARM_UP: Final = 0.05  # the share of the budget in which an LR above the base LR is reached


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One square of the grid, trained over seeds: a network, a share of the data, an LR rule and a batch size."""

    model: str
    fraction: float
    rule: str
    batch_size: int

    @property
    def panel(self) -> tuple[str, float]:
        """Network and share of the data: cases with the same ones are compared, and share a target."""
        return self.model, self.fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training of a study; cases that ask for the same training share it.

    Attributes:
        model: network by name.
        fraction: share of the data.
        batch_size: in samples.
        seed: of initial weights and order of samples.
        lr: learning rate after warm-up.
        momentum: of the optimizer.
        epochs: budget, in passes over its share of the data.
        searches: whether it only searches for an LR; it has a seed of its own.
        train_target: training loss at which it may stop; None: it trains to the end of its budget.
        test_target: the same of the test loss; it stops when both are reached.
        turn: how many trainings to this budget arrived at higher targets, as those of other seeds were.
    """

    model: str
    fraction: float
    batch_size: int
    seed: int
    lr: float
    momentum: float
    epochs: int
    searches: bool = False
    train_target: float | None = None
    test_target: float | None = None
    turn: int = 0

    @property
    def run(self) -> str:
        """The training, of any length: where its state lies. An LR rule is no part of it, the LR is."""
        where = f"{self.model}-{self.batch_size}-{self.fraction}"
        return f"{where}-lr{self.lr}-m{self.momentum}-seed{self.seed}"

    @property
    def key(self) -> str:
        """The name by which workers know whether anybody does it."""
        return f"{self.run}-{self.epochs}epochs" + (f"-{self.turn}" if self.turn else "")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Job:
        """The job that `to_json` wrote."""
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Course:
    """The LR of a training, update by update, and of the cooldowns that branch off.

    Attributes:
        lr: after warm-up.
        start: at the first update.
        warm_up: updates in which it rises from `start` to `lr`.
    """

    lr: float
    start: float
    warm_up: int

    def at(self, update: int) -> float:
        """The LR of an update, from 0 on.

        Example:
            >>> course = Course(lr=1.0, start=0.5, warm_up=2)
            >>> [course.at(update) for update in range(4)]
            [0.5, 0.75, 1.0, 1.0]
        """
        if update >= self.warm_up:
            return self.lr
        return self.start + (self.lr - self.start) * update / self.warm_up

    def cooling(self, total: int) -> list[float]:
        """The LRs of the cooldown that ends after `total` updates.

        Example:
            >>> Course(lr=1.0, start=1.0, warm_up=0).cooling(12)
            [1.0, 0.5]
        """
        cool = cooldown(total)
        lr = self.at(total - cool)
        return [lr * (cool - number) / cool for number in range(cool)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The settings of a study.

    Attributes:
        base: the settings that all trainings share; its LR, momentum and batch size are those of the base batch size.
        batch_sizes: increasing, in samples; at least two.
        models: networks of the task.
        rules: how the LR follows the batch size: `"constant"`, `"linear"` and `"sqrt"` from the base batch size on, or
            `"tuned"`: LR and momentum searched at each batch size.
        fractions: shares of the training set, in (0, 1], largest first.
        seeds: of the claims.
        epochs: the budget in which the target is set.
        max_epochs: the budget up to which a training that has not arrived goes on.
        target: `"best"`: the loss that the best fixed batch reaches within `epochs`; `"paper"`: the lower quartile of
            the losses of the largest batch.
        train_samples: of the training set, the first ones are taken; None: all.
        test_samples: of the test set; None: all.

    Raises:
        ValueError: if a value is out of range.
    """

    base: RunConfig
    batch_sizes: tuple[int, ...]
    models: tuple[str, ...]
    rules: tuple[str, ...] = ("linear",)
    fractions: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int
    max_epochs: int
    target: str = "best"
    train_samples: int | None = None
    test_samples: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "seeds"):
            for value in getattr(self, name):
                _checks.whole(name, value, minimum=0 if name == "seeds" else 1)
        for name in ("batch_sizes", "models", "rules", "fractions", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ArgumentError(name, "must hold at least one value, each once", value=list(values))
        if len(self.batch_sizes) < 2:
            remedy = "one batch size tells nothing about a larger one; give three or more"
            raise ArgumentError("batch_sizes", "must be at least two", value=list(self.batch_sizes), remedy=remedy)
        if list(self.batch_sizes) != sorted(self.batch_sizes):
            raise ArgumentError("batch_sizes", "must increase", value=list(self.batch_sizes))
        for rule in self.rules:
            _checks.one_of("rules", rule, RULES)
        for fraction in self.fractions:
            _checks.finite("fractions", fraction, above=0)
            if fraction > 1:
                raise ArgumentError("fractions", "must be at most 1", value=fraction)
        if list(self.fractions) != sorted(self.fractions, reverse=True):
            raise ArgumentError("fractions", "must decrease", value=list(self.fractions))
        for name in ("train_samples", "test_samples"):
            if getattr(self, name) is not None:
                _checks.whole(name, getattr(self, name))
        _checks.one_of("target", self.target, TARGETS)
        _checks.whole("epochs", self.epochs)
        _checks.whole("max_epochs", self.max_epochs, minimum=self.epochs, remedy="it is at least `epochs`")
        if SEARCH_SEED in self.seeds:
            raise ArgumentError("seeds", "must not hold the seed of the search", value=SEARCH_SEED)
        if self.base.grows:
            raise ArgumentError("growth", "must be left out: a study trains at constant batch sizes", got="growth")

    @property
    def panels(self) -> list[tuple[str, float]]:
        """Networks and shares of the data."""
        return list(product(self.models, self.fractions))

    def cases(self, panel: tuple[str, float]) -> Iterator[Case]:
        """The cases of a panel."""
        for rule, size in product(self.rules, self.batch_sizes):
            yield Case(model=panel[0], fraction=panel[1], rule=rule, batch_size=size)

    def scaled_lr(self, rule: str, batch_size: int) -> float:
        """The LR by which a rule follows the batch size; for `"tuned"` the LR around which the search begins."""
        ratio = batch_size / self.batch_sizes[0]
        power = {"constant": 0.0, "linear": 1.0, "sqrt": 0.5, "tuned": 0.5}[rule]
        return float(self.base.lr * math.pow(ratio, power))

    def job(self, case: Case, *, seed: int, lr: float | None = None, momentum: float | None = None, **more: Any) -> Job:
        """A training of a case; LR and momentum are those of its rule unless given."""
        return Job(
            model=case.model,
            fraction=case.fraction,
            batch_size=case.batch_size,
            seed=seed,
            lr=self.scaled_lr(case.rule, case.batch_size) if lr is None else lr,
            momentum=float(self.base.momentum if momentum is None else momentum),
            **{"epochs": self.epochs, **more},
        )

    def course(self, lr: float, *, base_updates: int) -> Course:
        """The LR of a training.

        Args:
            lr: after warm-up.
            base_updates: of the budget in which the target is set.
        """
        rises = lr > self.base.lr
        return Course(lr, self.base.lr if rises else lr, round(WARM_UP * base_updates) if rises else 0)

    def config(self, job: Job) -> RunConfig:
        """The settings of a training."""
        return replace(
            self.base,
            model=job.model,
            batch_size=job.batch_size,
            lr=job.lr,
            momentum=job.momentum,
            seed=job.seed,
            epochs=self.max_epochs,
            lr_schedule="constant",
            drop_last=True,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """The settings on which results depend, by name."""
        return _settings(self.to_json())

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """The settings in which a study that `other` describes differs, in words; seeds may be added at any time."""
        return differences(self.identity(), _settings(other))


# Settings of the base that no training takes over, or on which no result depends.
_FREE: Final = (
    "seed", "data", "device", "threads", "workers", "save_every", "epochs", "batch_size", "model", "lr_schedule",
)  # fmt: skip


def _settings(study: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a study, as `to_json` gives them or as they were stored, without those that may differ."""
    found = {name: value for name, value in study.items() if name not in ("base", "seeds")}
    found |= {f"base.{name}": value for name, value in study["base"].items() if name not in _FREE}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The settings that differ, in words; of two tasks, whose defaults differ too, the task alone.

    Args:
        mine: by name; `base.` before a name is not told.
        theirs: the same, from a file.

    Example:
        >>> differences({"base.lr": 0.1, "seed": 3}, {"base.lr": 0.2, "seed": 3})
        ['lr 0.2 there and 0.1 here']
    """
    found = {
        name.removeprefix("base."): f"{theirs.get(name)} there and {mine.get(name)} here"
        for name in sorted({*mine, *theirs})
        if mine.get(name) != theirs.get(name)
    }
    return [f"{name} {words}" for name, words in found.items() if name == "task" or "task" not in found]


def checkpoints(*, base_updates: int, updates: int) -> list[int]:
    """The updates after which a cooled loss is measured: a geometric sequence, and the ends of both budgets.

    The sequence does not depend on the budgets, so a training that goes on longer only adds to it.

    Args:
        base_updates: of the budget in which the target is set.
        updates: of this training's budget.

    Example:
        >>> checkpoints(base_updates=100, updates=100)
        [4, 5, 6, 8, 11, 14, 18, 23, 30, 39, 51, 67, 87, 100]
    """
    first = base_updates / SPAN
    found = {min(base_updates, updates), updates}
    power = 0
    while (total := round(math.pow(RATIO, power))) <= updates:
        if total >= first:
            found.add(total)
        power += 1
    return sorted(found)


def cooldown(total: int) -> int:
    """The updates of a cooldown that ends after `total` updates."""
    return max(1, round(COOLDOWN * total))
