"""A loop in the manner of nanoGPT before and after: how many lines change, and what it trains on, seen from outside."""

from __future__ import annotations

import difflib
import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.loops import after, before

LINES = 13
ADAM: Any = importlib.import_module("torch.optim.adam")
DATA = torch.randn(200, generator=torch.Generator().manual_seed(0))


class Traced(torch.nn.Linear):
    """A model that notes the samples of each forward pass."""

    def __init__(self):
        super().__init__(4, 1)
        self.seen: list[int] = []

    def forward(self, inputs):
        self.seen.append(len(inputs))
        return super().forward(inputs).squeeze(1)


def trained(loop, **arguments):
    """The checkpoints, and for each update the samples of its forward passes and the LR that AdamW computes with."""
    torch.manual_seed(1)
    model, steps, functional = Traced(), [], ADAM.adam

    def traced(*args, lr, **more):
        steps.append((tuple(model.seen), float(lr)))
        model.seen.clear()
        return functional(*args, lr=lr, **more)

    ADAM.adam = traced
    try:
        saved = loop.train(model, DATA, **arguments)
    finally:
        ADAM.adam = functional
    return saved, steps


def test_the_lines_that_change():
    texts = [Path(module.__file__).read_text().splitlines()[1:] for module in (before, after)]
    added = [line for line in difflib.ndiff(*texts) if line.startswith("+ ") and line.strip("+ ")]
    assert len(added) <= LINES


def test_the_batch_grows_and_the_lr_follows():
    assert [sizes for sizes, _ in trained(before)[1]] == [(3, 3, 3, 3)] * 24
    steps = trained(after)[1]
    clocks = [*range(0, 72, 12), *range(72, 288, 24)]
    sizes = [12 if clock < 72 else 24 for clock in clocks]
    assert [sizes for sizes, _ in steps] == [(3,) * (size // 3) for size in sizes]
    expected = [after.get_lr(clock // 12) * math.sqrt(size / 12) for clock, size in zip(clocks, sizes, strict=True)]
    assert [lr for _, lr in steps] == pytest.approx(expected)


def test_a_checkpoint_goes_on():
    saved, steps = trained(after)
    assert [checkpoint["iter_num"] for checkpoint in saved] == [0, 10]
    for checkpoint in saved:
        state = {name: json.loads(json.dumps(checkpoint[name])) for name in ("clock", "batches")}
        assert trained(after, checkpoint={**checkpoint, **state})[1] == steps[checkpoint["iter_num"] :]
