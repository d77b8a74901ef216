from __future__ import annotations

import json

import pytest

from adabatch.training import Evaluation, RunResult
from adabatch.types import Decision


def evaluation(samples: int, accuracy: float) -> Evaluation:
    return Evaluation(
        samples=samples, epoch=1, updates=samples // 16, seconds=samples / 1000, batch_size=16, lr=0.1,
        train_loss=1.0, test_loss=0.5, test_accuracy=accuracy,
    )  # fmt: skip


RESULT = RunResult(
    test_accuracy=0.8,
    best_accuracy=0.9,
    updates=30,
    samples=480,
    epochs=3,
    train_seconds=0.48,
    samples_per_second={16: 1000.0, 32: 1500.5},
    batch_sizes=(16, 32),
    history=(evaluation(160, 0.7), evaluation(320, 0.9), evaluation(480, 0.8)),
    decisions=(Decision(160, 32, "why"),),
    target=0.9,
    updates_to_target=20,
    seconds_to_target=0.32,
)


def test_round_trip_through_text():
    assert RunResult.from_json(json.loads(json.dumps(RESULT.to_json()))) == RESULT


def test_first_evaluation_at_an_accuracy():
    assert RESULT.first_at(0.9) == RESULT.history[1]
    assert RESULT.first_at(0.95) is None


@pytest.mark.parametrize("values", [{}, {"history": []}, {**RESULT.to_json(), "more": 1}, [], None])
def test_something_else(values):
    with pytest.raises(ValueError, match="`result` must be what `to_json` wrote"):
        RunResult.from_json(values)
