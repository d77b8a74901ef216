"""Finished studies whose answers are known, without training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from adabatch.lab.scaling import Arrival, Cell, LearningCurve, Panel, Rule, Study, Target, ToLoss
from adabatch.lab.study import fits, measures

SIZES = tuple(8 * 2**power for power in range(9))


def form(critical: float, *, least: float = 50.0) -> dict[int, float]:
    """Updates by batch size after form 1."""
    return {size: least * (1 + critical / size) for size in SIZES}


def rule(updates: dict[int, float], *, name: str = "tuned", noise: float = 0.01, diverged: Any = ()) -> Rule:
    """A rule whose three runs lie around a mean by noise; those at sizes that diverged never arrive."""
    arrivals, cells = {}, []
    for size, middle in updates.items():
        ended = size in diverged
        runs = [3.0] * 3 if ended else [middle * math.exp(noise * (seed - 1)) for seed in range(3)]
        arrivals[size] = [Arrival(k, k * size, k, "later" if ended else "") for k in runs]
        stopped = {"diverged" if ended else "arrived": len(runs)}
        curves = tuple(LearningCurve(seed, []) for seed in range(len(runs)))
        cells.append(Cell(batch_size=size, lr=0.1, momentum=0.9, stopped=stopped, curves=curves))
    way = ToLoss(target=Target(0.5, SIZES[0]), to_target=measures.to_target(arrivals), fits=fits.fits(arrivals))
    return Rule(rule=name, cells=tuple(cells), train=way, test=way)


def study(*rules: Rule, **models: list[Rule]) -> Study:
    """A study of one network under some rules, or of several networks with rules of their own."""
    panels = {"small_cnn": list(rules)} if rules else models
    return Study(
        task="digits",
        panels=tuple(
            Panel(model=model, fraction=1.0, samples=8000, rules=tuple(found)) for model, found in panels.items()
        ),
    )


def of_critical(critical: float, **more: Any) -> Study:
    """A study whose critical batch size is known."""
    return study(rule(form(critical), **more))


def of_rules(linear: Any, sqrt: Any, *, constant: float = 1000.0, diverged: Any = ()) -> Study:
    """A study in which a constant LR needs as many updates at every size.

    Args:
        linear: how many times fewer the linear rule needs, by how many times the smallest batch size.
        sqrt: likewise.
        constant: updates.
        diverged: batch sizes at which the linear rule diverges.
    """
    updates = {
        name: {size: constant / of(size / 8) for size in SIZES} for name, of in (("linear", linear), ("sqrt", sqrt))
    }
    return study(
        rule(dict.fromkeys(SIZES, constant), name="constant"),
        rule(updates["linear"], name="linear", diverged=diverged),
        rule(updates["sqrt"], name="sqrt"),
        rule(form(180), name="tuned"),
    )


def until(size: int, power: float) -> Callable[[float], float]:
    """Fewer updates by a power of the batch size until one, then twice as many as a constant LR."""
    return lambda times: times**power if 8 * times <= size else 0.5
