"""What a run tells while it trains; `test_loop.py` tests it in whole runs."""

from __future__ import annotations

import time

import pytest
import torch

from adabatch.lab.training import Evaluation, RunConfig, reporting
from adabatch.lab.training.reporting import Reporter
from adabatch.lab.training.tally import Tally

CONFIG = RunConfig.for_task("digits", model="mlp", batch_size=16, epochs=4, growth=2.0, every="1", max_batch_size=64)
AT_HALF = Evaluation(
    samples=600,
    epoch=2,
    updates=30,
    seconds=1.5,
    batch_size=32,
    lr=0.01,
    train_loss=0.5,
    test_loss=0.6,
    test_accuracy=0.8,
)


def reporter(told, **more):
    return Reporter(told, CONFIG, **{"plan": CONFIG.plan(300), "dataset_size": 300, "world": 1} | more)


def test_nobody_is_told_where_nobody_asks():
    found = reporter(None)
    assert not found.is_due
    found.evaluated(AT_HALF, samples_per_second=1.0)


def test_it_is_due_a_few_times_per_second(monkeypatch):
    seen = []
    found = reporter(seen.append)
    assert found.is_due
    found.note("work", 0, seconds=0.0, batch_size=16, lr=0.1)
    assert not found.is_due
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 0.0)
    found.note("more", 0, seconds=0.0, batch_size=16, lr=0.1)
    assert found.is_due
    assert [now.note for now in seen] == ["work", "more"]


def test_between_evaluations():
    seen, tally = [], Tally(torch.device("cpu"))
    tally.start(32)
    tally.add(torch.tensor(1.0), 32)
    time.sleep(0.01)
    found = reporter(seen.append)
    found.begin(300, accuracy=0.5)
    found.stands(364, tally, began=332, lr=0.02)
    (now,) = seen
    assert (now.samples, now.total_samples, now.epoch, now.epochs) == (364, 1200, 1, 4)
    assert (now.batch_size, now.lr, now.test_accuracy, now.evaluation) == (32, 0.02, 0.5, None)
    assert 0 < now.samples_per_second < 32 / 0.01
    assert now.seconds >= 0.01


def test_an_evaluation_tells_the_time_left(monkeypatch):
    seen, clock = [], iter([100.0, 103.0, 103.0, 109.0, 109.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    found = reporter(seen.append)
    found.begin(300, accuracy=None)
    found.evaluated(AT_HALF, samples_per_second=200.0)
    (now,) = seen
    assert now.seconds_left == pytest.approx(600 * 3.0 / 300)
    assert (now.evaluation, now.test_accuracy, now.samples_per_second) == (AT_HALF, 0.8, 200.0)


@pytest.mark.parametrize(("world", "wants"), [(1, 2), (2, None)])
def test_the_processes_that_the_schedule_wants(world, wants):
    config = RunConfig.for_task(
        "digits", batch_size=16, epochs=4, growth=2.0, every="1", max_batch_size=64, world_sizes="0:1 32:2"
    )
    seen = []
    reporter(seen.append, plan=config.plan(300), world=world).note("", 300, seconds=0.0, batch_size=16, lr=0.1)
    assert seen[0].wants == wants
