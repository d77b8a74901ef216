"""A training on any number of workers, over the turns of a probe."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
from tests.lab.planner.test_performance import model, probe_of

from adabatch import schedules
from adabatch.lab.planner import LINKS, of_probes
from adabatch.lab.study.workers import on_workers


@pytest.fixture
def models():
    return of_probes(probe_of(model(), [8, 64, 512]), link=LINKS["infiniband-fdr"])


PLAN = schedules.steps({0: 64, 6400: 256}).plan(dataset_size=6400, epochs=2)
CONSTANT = schedules.constant(32).plan(dataset_size=6400, epochs=2)


def test_rows_hold_the_median_over_turns_and_its_interval(models):
    found = on_workers(PLAN, CONSTANT, models, [1, 8, 32], price=2.0)
    assert [row["workers"] for row in found["rows"]] == [1, 8, 32]
    for row in found["rows"]:
        seconds = [one.seconds(PLAN, row["workers"]) for one in models]
        assert row["seconds"]["median"] == statistics.median(seconds)
        assert row["seconds"]["low"] < min(seconds) < max(seconds) < row["seconds"]["high"]
        hours = row["workers"] * row["seconds"]["median"] / 3600
        assert row["worker_hours"]["median"] == pytest.approx(hours)
        assert row["cost"]["median"] == pytest.approx(2 * hours)
        assert row["constant_seconds"]["median"] == models[1].seconds(CONSTANT, row["workers"])
    assert found["rows"][0]["efficiency"]["median"] == 1
    assert ["node_efficiency" in row for row in found["rows"]] == [False, False, True], "a node has 8"
    assert found["rows"][2]["node_efficiency"]["median"] == models[1].efficiency(PLAN, 32, of=8)


def test_each_batch_size_says_how_many_pay(models):
    found = on_workers(PLAN, CONSTANT, models, [1, 2])
    assert [size["batch_size"] for size in found["sizes"]] == [64, 256]
    ends = [size["pays_up_to"]["median"] for size in found["sizes"]]
    assert ends == [models[1].pays_up_to(64), models[1].pays_up_to(256)]
    assert ends[0] < ends[1], "growth moves the point"
    for size in found["sizes"]:
        assert size["updates"][0]["exposed"] == 0
        for update in size["updates"]:
            parts = sum(update[name] for name in ("passes", "exposed", "coordination", "optimizer"))
            assert update["seconds"] == pytest.approx(parts)
    assert "cost" not in found["rows"][0]


def test_workers_that_pay_are_powers_of_two_that_have_samples(models):
    """Of an even number of turns too, and of few, whose interval is wide."""
    slow = [replace(each, optimizer_seconds=seconds) for each, seconds in zip(models, (0.0, 0.01, 0.05), strict=True)]
    for some in (slow[:2], slow, [*slow, *models[:1]]):
        for size in on_workers(PLAN, CONSTANT, some, [1])["sizes"]:
            ends = size["pays_up_to"]
            assert all(ends[name] in [2**power for power in range(9)] for name in ("low", "median", "high")), ends
            assert ends["low"] <= ends["median"] <= ends["high"] <= size["batch_size"]
    low, *_, high = sorted(one.pays_up_to(256) for one in slow)
    assert low < high


def test_one_turn_has_no_interval(models):
    row = on_workers(PLAN, CONSTANT, models[:1], [2])["rows"][0]
    assert (row["seconds"]["low"], row["seconds"]["high"]) == (None, None)
