from __future__ import annotations

import time

import pytest

from adabatch import schedules, units
from adabatch.lab.training.saving import Timer, interval, next_clock


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5min", 300), ("5 min", 300), ("1 minute", 60), ("90 s", 90),
     ("0.5s", 0.5), ("30 sec", 30), ("2 h", 7200), ("1.5hours", 5400)],
)  # fmt: skip
def test_times(text, seconds):
    assert interval(text) == seconds


@pytest.mark.parametrize(
    ("text", "duration"),
    [("2", units.epochs(2)), ("0.5 epochs", units.epochs(0.5)), ("500 updates", units.updates(500)),
     ("5M samples", units.samples(5_000_000)), ("1M tokens", units.tokens(10**6))],
)  # fmt: skip
def test_durations(text, duration):
    assert interval(text) == duration


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5m", "`save_every` must say what '5m' is, minutes or millions; write a time such as '5 min', or a duration"),
        ("5 M", "`save_every` must say what '5 M' is"),
        ("often", "`save_every` must be a time or a duration, got 'often'; write a time such as '5 min'"),
        ("5 days", "`save_every` must be a time or a duration, got '5 days'"),
        ("1.2.3 s", "`save_every` must be a time or a duration, got '1.2.3 s'"),
        ("-5 min", "`save_every` must be a time or a duration, got '-5 min'"),
        ("0 min", "`save_every` must be longer than 0, got '0 min'"),
        ("0 updates", "`save_every` must be longer than 0, got '0 updates'"),
    ],
)
def test_something_else(text, message):
    with pytest.raises(ValueError, match=message):
        interval(text)
    with pytest.raises(TypeError, match=r"`save_every` must be text, got 5; write a time"):
        interval(5)


@pytest.mark.parametrize(
    ("every", "last", "expected"),
    [
        (units.epochs(2), (0, 0), 200),
        (units.epochs(2), (250, 25), 400),
        (units.epochs(0.333), (0, 0), 34),
        (units.samples(70), (140, 14), 210),
        (units.updates(7), (0, 0), 70),
        (units.updates(7), (70, 7), 140),
        (units.updates(7), (80, 8), 140),
        (units.updates(999), (0, 0), 300),
        (units.tokens(500), (0, 0), 50),
    ],
    ids=str,
)
def test_the_next_time_is_counted_from_the_start_of_the_training(every, last, expected):
    plan = schedules.constant().plan(dataset_size=100, epochs=3, batch_size=10)
    how = {"clock": last[0], "updates": last[1], "dataset_size": 100, "tokens_per_sample": 10}
    assert next_clock(every, lambda update: plan.clock_of(min(update, 30)), **how) == expected


def test_a_timer():
    assert not Timer(None).over
    assert not Timer(1000.0).over
    timer = Timer(0.001)
    time.sleep(0.002)
    assert timer.over
    timer.restart()
    assert Timer(0.0).over
