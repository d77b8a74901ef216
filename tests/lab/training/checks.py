"""Helpers that several tests of training share."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from adabatch.lab import tasks
from adabatch.lab.training import RunConfig, RunResult, checkpoint

# 45 updates over 300 samples; the batch grows in the middle of epochs, and not where a batch would end by itself.
SMALL = RunConfig.for_task(
    "digits", model="mlp", batch_size=16, growth=2.0, every="390 samples", max_batch_size=64, epochs=4,
    lr=0.005, lr_schedule="warmup:2+step:0.5:2", device="cpu",
)  # fmt: skip


@cache
def small_data() -> tasks.Data:
    """The first 300 scans to train on, 100 to test on."""
    data = tasks.get("digits").load(None)
    return replace(
        data, x_train=data.x_train[:300], y_train=data.y_train[:300], x_test=data.x_test[:100], y_test=data.y_test[:100]
    )


OF_THE_MACHINE = {"seconds", "communication_bytes", "communication_seconds"}  # of a record: time and ranks decide them


def without_seconds(result: RunResult) -> dict[str, Any]:
    """All of a result that a run determines, whatever the ranks."""
    values = result.to_json()
    for name in ("train_seconds", "samples_per_second", "seconds_to_target"):
        values.pop(name)
    for found in values["history"]:
        for name in OF_THE_MACHINE:
            found.pop(name)
    return values


def logged(out: Path) -> list[dict[str, Any]]:
    """The log of a run folder, without what time and ranks decide."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in OF_THE_MACHINE} for line in lines]


def weights(out: Path, name: str = "last") -> dict[str, torch.Tensor]:
    """The network's weights in a checkpoint of a run folder, whoever wrote it; in a process without ranks."""
    path = out / "checkpoints" / f"{name}.pt"
    state = checkpoint.read(path)
    found: dict[str, torch.Tensor] = state["parts"]["model"]
    if (folder := checkpoint.shards_in(state, path)) is not None:
        found = checkpoint.joined(state["parts"], folder, model=found, parameters=[*found.values()])["model"]
    return found


def same(first: Any, second: Any) -> bool:
    """Whether two states are equal bit for bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return (
            isinstance(second, dict) and first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
        )
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


def near(record):
    """A record whose numbers may differ in the last digits; what is missing must be missing."""
    return {
        name: pytest.approx(value, rel=1e-9) if isinstance(value, int | float) else value
        for name, value in record.items()
    }
