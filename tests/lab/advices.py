"""Pieces of advice, made without training."""

from __future__ import annotations

import math
from typing import Any

from adabatch.lab.advice import Advice, FixedBatch, Forecast, GrowingBatch, Outcome
from adabatch.lab.scaling import Estimate, LearningCurve

SCHEDULE = {"kind": "steps", "changes": [[{"count": 0, "unit": "samples"}, 32]]}


def fixed(size: int, *, seeds: int = 2, seconds: float = 10.0) -> FixedBatch:
    """A constant batch size whose loss falls as the root of time."""
    curves = tuple(
        LearningCurve(
            seed,
            [
                [n, n * size, seconds * n / 100, 0.9 / math.sqrt(n), 1.0 / math.sqrt(n) + 0.001 * seed]
                for n in (10, 30, 100)
            ],
        )
        for seed in range(seeds)
    )
    return FixedBatch(
        batch_size=size, lr=0.05 * size / 32, curves=curves, seconds_to_target=Estimate(seconds, 8.0, 12.0)
    )


def growing(
    name: str,
    ratio: tuple[Any, ...] = (1.6, 1.2, 2.1),
    wide: tuple[Any, ...] = (1.6, 0.9, 2.8),
    mean: tuple[Any, ...] | None = None,
) -> GrowingBatch:
    return GrowingBatch(
        name=name,
        words=f"32 to 512, {name}",
        schedule=SCHEDULE,
        coupling="linear",
        seconds=(5.0, 5.2),
        train_losses=(0.1, 0.1),
        test_losses=(0.11, 0.12),
        against=128,
        ratio=Estimate(*(mean or ratio)),
        forecast=Forecast(Estimate(*ratio), Estimate(*wide)),
    )


def outcome(**more: Any) -> Outcome:
    values: dict[str, Any] = {
        "seeds": (6, 7, 8),
        "epochs": 20,
        "ratio": Estimate(1.5, 1.3, 1.8),
        "low": 1.5,
        "high": 1.5,
        "within_80": True,
        "within_95": True,
        "best_fixed": 128,
        "against_best": Estimate(1.4, 1.2, 1.7),
        "best_low": 1.4,
        "best_high": 1.4,
        "fixed_against_best": 0.93,
        "seconds": 100.0,
    }
    return Outcome(**{**values, **more})


def advice(**more: Any) -> Advice:
    values: dict[str, Any] = {
        "task": "digits",
        "model": "mlp",
        "settings": {"base": {"task": "digits", "model": "mlp", "batch_size": 32}, "budget_seconds": 180.0},
        "versions": {"torch": "2.13", "device": "cpu"},
        "seconds": 170.0,
        "verdict": "grow",
        "gain": 2.5,
        "lr": 0.05,
        "epochs": 5,
        "whole_epochs": 20,
        "samples": 1437,
        "whole_samples": 1437,
        "seeds": (0, 1),
        "fixed": (fixed(32), fixed(128, seconds=6.0), fixed(512, seconds=7.0)),
        "best_fixed": 128,
        "critical_batch": Estimate(300.0, 200.0, 500.0),
        "growing": (growing("early", mean=(1.6, 1.3, 1.9)), growing("late", (1.1, 0.8, 1.4))),
        "chosen": "early",
        "schedule": SCHEDULE,
    }
    return Advice(**{**values, **more})


def no_gain() -> Advice:
    none: dict[str, Any] = dict.fromkeys(("epochs", "best_fixed", "critical_batch", "chosen", "schedule"))
    return advice(verdict="no gain in speed", gain=1.03, seeds=(), fixed=(), growing=(), **none)
