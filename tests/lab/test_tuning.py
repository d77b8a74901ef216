"""The record of a tuning: what a file must hold."""

from __future__ import annotations

import json

import pytest

from adabatch.lab.comparison import Ratio
from adabatch.lab.tuning import SWITCHES, Tried, Tuning

TRIED = Tried(
    name="channels last", settings={"channels_last": True}, by_batch_size={"16": Ratio(1.2, 1.1, 1.3)},
    training=Ratio(1.2, 1.1, 1.3), saved_seconds=2.5, pairs=9, taken=True, reason="it saves at least 2.5 s of 27 s",
)  # fmt: skip
TUNING = Tuning(
    task="digits", model="small_cnn", device="cpu", device_name="Some(R) Processor", batch_sizes=(16, 256),
    updates=(90.0, 12.5), training_seconds=27.5, seconds=20.25,
    tried=(TRIED, Tried(name="compile", settings={"compile": True}, reason="it failed: no compiler")),
    left={"bf16": "it is given"}, settings={"channels_last": True},
)  # fmt: skip


def test_json_round_trip():
    values = json.loads(json.dumps(TUNING.to_json()))
    assert list(Tuning.faults(values)) == []
    assert Tuning.of_json(values) == TUNING


def test_what_may_be_missing():
    values = {key: value for key, value in TUNING.to_json().items() if key not in ("tried", "left", "settings")}
    assert list(Tuning.faults(values)) == []
    assert Tuning.of_json(values).tried == ()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"batch_sizes": []}, "with batch_sizes [], which must be a list that is not empty"),
        ({"seconds": "2"}, "with seconds '2', which must be a number from 0 on"),
        ({"tried": [{"name": "x"}]}, "without tried[0].settings"),
        ({"left": {"bf16": 3}}, "with left.bf16 3, which must be text"),
    ],
)
def test_faults(change, fault):
    assert list(Tuning.faults(TUNING.to_json() | change)) == [fault]


def test_switches_are_settings_of_speed():
    from adabatch.lab.training.config import SETTINGS, SPEED

    assert {SETTINGS[name].panel for name in SWITCHES} == {SPEED}
