import json

import pytest

from adabatch import epochs
from adabatch.schedules import Plan, Schedule, clamp, constant, from_lr, geometric, steps, then, world_sizes

GROWTH = geometric(2, every=epochs(1), maximum=32)


@pytest.mark.parametrize("table", ["0:1 8:2, 16:4", {0: 1, 8: 2, 16: 4}, [(0, 1), (8, 2), (16, 4)]])
def test_a_plan_tells_the_ranks_wanted_at_each_batch_size(table):
    schedule = world_sizes(GROWTH, table)
    plan = schedule.plan(dataset_size=60, epochs=5, batch_size=4)
    plain = GROWTH.plan(dataset_size=60, epochs=5, batch_size=4)
    assert list(plan) == list(plain)  # no size changes
    sizes_and_ranks = [(plan.batch_size_at(clock), plan.world_size_at(clock)) for clock in plan.starts_samples]
    assert sizes_and_ranks == [(4, 1), (8, 2), (16, 4), (32, 4)]
    assert plan.world_size_at(59) == 1
    assert plain.world_size_at(0) is None
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert "world_sizes" not in plain.to_json()  # as plans of earlier versions
    assert Schedule.from_json(json.loads(json.dumps(schedule.to_json()))) == schedule


def test_batches_are_counted_by_the_ranks_wanted():
    plan = world_sizes(GROWTH, {0: 1, 8: 2, 16: 4}).plan(dataset_size=60, epochs=5, batch_size=4)
    counts = {ranks: plan.batch_counts(ranks) for ranks in (1, 2, 3, 4)}
    # 60 = 15 * 4 = 7 * 8 + 4 = 3 * 16 + 12 = 32 + 28, and the last size holds for two epochs
    assert counts == {1: {4: 15}, 2: {4: 1, 8: 7}, 3: {}, 4: {12: 1, 16: 3, 28: 2, 32: 2}}
    merged = sum(sum(found.values()) for found in counts.values())
    assert merged == plan.updates == sum(plan.batch_counts().values())


def test_it_is_described_and_found_within_other_schedules():
    inner = world_sizes(constant(), "0:1 2K:4")
    assert inner.describe() == "(constant at the loader's batch size), ranks wanted: 1, 4 from batch 2,000"
    around = clamp(then(GROWTH, inner, epochs(2)), maximum=24)
    assert around.world_sizes == inner.table == ((0, 1), (2000, 4))
    assert world_sizes(from_lr([(0, 0.1)], rule="seesaw"), "0:1").coupling == "sqrt"
    assert then(inner, world_sizes(GROWTH, "0:1 2K:4"), epochs(1)).world_sizes == inner.table


def test_two_tables_are_refused():
    inner = world_sizes(GROWTH, "0:1 8:4")
    with pytest.raises(ValueError, match=r"`schedule` must name its world sizes once, .*; name them around the whole"):
        world_sizes(clamp(inner, maximum=16), "0:2")
    both = then(inner, world_sizes(GROWTH, "0:2"), epochs(1))
    with pytest.raises(ValueError, match="`schedule` must name its world sizes once"):
        both.plan(dataset_size=60, epochs=5, batch_size=4)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("0:0", "`table` must be at least 1, got 0"),
        ({0: 1, 8: 0}, "`table` must be at least 1, got 0"),
        ("0:1 8:2 8:3", "`table` must have increasing thresholds, got 8 samples after 8 samples"),
        ("8:2", "`table` must begin at threshold 0, got 8 samples"),
        ("", "`table` must begin at threshold 0, got nothing"),
        ("four", "`table` must be thresholds and sizes"),
        ({0: 1, epochs(2): 3}, "`table` must have batch sizes in samples, whole numbers, got 2 epochs"),
    ],
)
def test_tables_that_are_refused(table, words):
    with pytest.raises(ValueError, match=words):
        world_sizes(GROWTH, table)
    with pytest.raises(TypeError, match="`schedule` must be a schedule"):
        world_sizes(steps, table)


def test_a_plan_checks_its_table():
    horizon = {"starts_samples": (0,), "batch_sizes": (4,), "dataset_size": 60, "epochs": 1}
    for table in (((1, 1),), ((0, 1), (0, 2)), ((0, 1), (8, 2), (4, 1))):
        with pytest.raises(ValueError, match="`world_sizes` must begin at batch size 0 and increase"):
            Plan(**horizon, world_sizes=table)
    with pytest.raises(ValueError, match="`world_sizes` must be at least 1, got 0"):
        Plan(**horizon, world_sizes=((0, 0),))
