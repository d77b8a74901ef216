from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch

from adabatch.lab.training import Evaluation, RunResult
from adabatch.lab.training.records import packed, unpacked
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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"test_accuracy": "x"}, "`test_accuracy` must be a number from 0 on, got 'x'"),
        ({"best_accuracy": 1.5}, "`best_accuracy` must be at most 1, got 1.5"),
        ({"updates": -1}, "`updates` must be a whole number from 0 on, got -1"),
        ({"updates": 0}, "`updates` must not be empty or 0"),
        ({"train_seconds": -0.5}, "`train_seconds` must be a number from 0 on, got -0.5"),
        ({"target": None}, "`target` must be a number from 0 on, got None"),
        ({"updates_to_target": 1.5}, "`updates_to_target` must be a whole number from 0 on or null, got 1.5"),
        ({"history": []}, "`history` must not be empty or 0"),
        ({"history": [{"samples": 1}]}, "missing 8 required positional arguments"),
        ({"batch_sizes": [0]}, "`batch_sizes` must be whole numbers from 1 on"),
        ({"samples_per_second": {"16": None}}, "`samples_per_second` must be numbers above 0"),
        ({"samples_per_second": {"x": 1.0}}, "invalid literal for int"),
        (
            {"decisions": [{"clock": -1, "batch_size": 2, "reason": ""}]},
            "`clock` must be a whole number from 0 on, got -1",
        ),
        ({"decisions": [{"clock": 1, "batch_size": 2, "reason": None}]}, "`reason` must be text, got None"),
        ({"test_right": 5}, "`test_right` must be text or null, got 5"),
        ({"test_right": "3:?"}, "`test_right` must be what `packed` wrote, got '3:[?]'"),
    ],
    ids=str,
)
def test_a_value_of_another_kind(changes, reason):
    with pytest.raises(ValueError, match=rf"`result` must be what `to_json` wrote, got something else \(.*{reason}"):
        RunResult.from_json(RESULT.to_json() | changes)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 360])
def test_what_was_right_goes_there_and_back_as_text(count):
    right = torch.rand(count, generator=torch.Generator().manual_seed(count)) < 0.5
    text = packed(right)
    assert unpacked(text) == right.tolist()
    result = replace(RESULT, test_right=text)
    assert RunResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_of_text_nothing_is_kept_and_a_result_of_before_has_nothing():
    assert packed(torch.ones(4, 7, dtype=torch.bool)) is None
    before = RESULT.to_json()
    del before["test_right"]
    assert RunResult.from_json(before).test_right is None


@pytest.mark.parametrize("text", ["oA==", "9:oA==", "0:oA==", "-1:oA==", ":oA==", "3:?", "3"])
def test_damaged_bits(text):
    with pytest.raises(ValueError, match=f"`test_right` must be what `packed` wrote, got {re.escape(repr(text))}"):
        unpacked(text)


@pytest.mark.parametrize("key", ["train_loss", "test_loss"])
def test_a_result_says_whether_its_run_diverged(key):
    lost = replace(RESULT.history[1], **{key: None})
    found = replace(RESULT, history=(RESULT.history[0], lost), chance=0.1, at_chance=True)
    assert (RESULT.diverged, found.diverged, found.diverged_at) == (False, True, lost)
    values = json.loads(json.dumps(found.to_json()))
    assert (values["diverged"], values["at_chance"], values["chance"]) == (True, True, 0.1)
    assert RunResult.from_json(values) == found
    for name in ("diverged", "at_chance", "chance"):  # as a run wrote it before these were kept
        del values[name]
    assert RunResult.from_json(values) == replace(found, chance=None, at_chance=False)
