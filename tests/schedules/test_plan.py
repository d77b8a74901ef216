import copy
import itertools
import json
import pickle

import pytest
from tests.schedules.checks import check_plan

from adabatch import epochs, samples, updates
from adabatch.schedules import Plan, clamp, constant, geometric, linear_ramp, steps
from adabatch.schedules.plan import PlannedBatch


def plan_of(**changes):
    return Plan(**{"starts_samples": (0, 100), "batch_sizes": (32, 64), "dataset_size": 100, "epochs": 2} | changes)


def test_the_three_ends_of_an_epoch():
    kept, dropped, run_on = plan_of(), plan_of(drop_last=True), plan_of(run_on=True)
    assert [batch.size for batch in kept] == [32, 32, 32, 4, 64, 36]
    assert [batch.size for batch in dropped] == [32, 32, 32, 64]
    assert [batch.size for batch in run_on] == [32, 32, 32, 32, 64, 8]
    assert (kept.samples, dropped.samples, run_on.samples) == (200, 160, 200)
    assert (kept.tails, dropped.tails, run_on.tails) == ((4, 36), (), (8,))
    for plan in (kept, dropped, run_on):
        check_plan(plan)


def test_what_is_dropped_counts_as_passed():
    plan = plan_of(drop_last=True)
    assert plan.batch(2) == PlannedBatch(clock=64, end=100, epoch=0, requested=32, size=32)
    assert plan.batch(3) == PlannedBatch(clock=100, end=200, epoch=1, requested=64, size=64)
    assert plan.clock_of(4) == 200


def test_a_rest_is_dropped_at_the_size_in_force_where_it_begins():
    # At 96 the size is 8: too large for the 4 that are left, although at 98 it would be 2.
    plan = steps("0:32 90:8 98:2").plan(dataset_size=100, epochs=2, drop_last=True)
    assert [batch.clock for batch in plan][:5] == [0, 32, 64, 100, 102]
    assert plan.batches_between(0, 100) == 3
    assert plan.batches_between(96, 100) == 0


def test_a_batch_that_begins_in_one_epoch_and_ends_in_the_next_belongs_to_the_first():
    plan = plan_of(run_on=True)
    assert plan.batch(3) == PlannedBatch(clock=96, end=128, epoch=0, requested=32, size=32)


def test_a_training_without_end():
    plan = plan_of(epochs=None)
    far = 10**12
    assert plan.update_at(100 * far) == 4 + 2 * (far - 1)
    assert plan.clock_of(4 + 2 * (far - 1)) == 100 * far
    assert plan.batch(3 + 2 * far) == PlannedBatch(100 * far + 64, 100 * (far + 1), far, 64, 36)
    assert (plan.sizes, plan.tails, plan.end_samples) == ((32, 64), (4, 36), None)
    for what, query in {
        "updates": lambda: plan.updates,
        "samples": lambda: plan.samples,
        "iteration": lambda: iter(plan),
        "batch_counts": plan.batch_counts,
        "to_numpy": plan.to_numpy,
    }.items():
        with pytest.raises(
            TypeError, match=f"a plan without end has no `{what}`: plan with `dataset_size` and `epochs`"
        ):
            query()
    with pytest.raises(TypeError, match="a plan without end has no `updates`"):
        len(plan)


def test_a_stream_is_one_epoch_without_end():
    plan = steps("0:10 25:40").plan(dataset_size=None, drop_last=True)
    assert [plan.batch(update).clock for update in range(5)] == [0, 10, 20, 30, 70]
    assert plan.batch(10**9).epoch == 0
    assert plan.batches_between(0, 31) == 4
    with pytest.raises(
        ValueError, match="`epochs` must be None for a stream, got 3; give `dataset_size` to count epochs"
    ):
        constant(8).plan(dataset_size=None, epochs=3)


def test_batches_of_each_size_are_counted_without_a_walk():
    plan = plan_of(dataset_size=10**18, starts_samples=(0, 10**18))
    assert plan.batch_counts() == {32: 10**18 // 32, 64: 10**18 // 64}


def test_questions_after_the_end():
    plan = plan_of()
    assert plan.batch_size_at(200) == 64
    assert plan.batches_between(200, 200) == 0
    assert (plan.clock_of(6), plan.update_at(200)) == (200, 6)
    message = "must be at most 200, the end of 2 epochs, got 201; plan with more `epochs`"
    for query in (plan.batch_size_at, plan.update_at, lambda clock: plan.batches_between(clock, clock)):
        with pytest.raises(ValueError, match=message):
            query(201)
        with pytest.raises(ValueError, match="must be at least 0, got -1"):
            query(-1)
    with pytest.raises(ValueError, match="`update` must be below 7, the end of 2 epochs, got 7; plan with more"):
        plan.clock_of(7)
    with pytest.raises(ValueError, match="`update` must be below 6, the end of 2 epochs, got 6; plan with more"):
        plan.batch(6)
    with pytest.raises(ValueError, match="`update` must be at least 0, got -1"):
        plan.batch(-1)


def test_batches_between_stays_in_an_epoch():
    assert plan_of(run_on=True).batches_between(0, 200) == 6
    with pytest.raises(ValueError, match="`stop` must be at most 100, the end of the epoch of `start`, got 101"):
        plan_of().batches_between(50, 101)
    with pytest.raises(ValueError, match="`stop` must be at least `start` = 50, got 49"):
        plan_of().batches_between(50, 49)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts_samples": ()}, "`batch_sizes` must be one per start, got 2 for 0 `starts_samples`"),
        (
            {"starts_samples": (), "batch_sizes": ()},
            "`batch_sizes` must be one per start, got 0 for 0 `starts_samples`",
        ),
        ({"starts_samples": (1, 100)}, r"`starts_samples` must be 0 and then strictly increasing, got \(1, 100\)"),
        ({"starts_samples": (0, 0)}, r"`starts_samples` must be 0 and then strictly increasing, got \(0, 0\)"),
        ({"starts_samples": (0, 200)}, "`starts_samples` must be below the end, 200, got 200"),
        ({"starts_samples": (-1, 0)}, "`starts_samples` must be at least 0, got -1"),
        ({"batch_sizes": (32, 0)}, "`batch_sizes` must be at least 1, got 0"),
        ({"batch_sizes": (32, 101)}, r"at most the 100 samples of the data set, got 101 from epoch 1 \(clock 100\) on"),
        ({"batch_sizes": (101, 1)}, "at most the 100 samples of the data set, got 101; bound the schedule with"),
        ({"dataset_size": 0}, "`dataset_size` must be at least 1, got 0"),
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"drop_last": True, "run_on": True}, "`drop_last` and `run_on` must not both be True"),
    ],
)
def test_parts_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        plan_of(**changes)


def test_parts_of_the_wrong_kind():
    with pytest.raises(TypeError, match=r"`epochs` must be a whole number, got 1.5"):
        plan_of(epochs=1.5)
    with pytest.raises(TypeError, match="`drop_last` must be True or False, got 'no'"):
        plan_of(drop_last="no")


def test_a_size_above_the_data_set_matters_only_where_a_batch_starts():
    plan = steps("0:60 80:120 100:10").plan(dataset_size=100, epochs=2)
    assert plan.batch_size_at(80) == 120
    assert plan.sizes == (10, 60)
    with pytest.raises(ValueError, match=r"got 120 from epoch 0 \(clock 60\) on"):
        steps("0:60 60:120 100:10").plan(dataset_size=100, epochs=2)


def test_json_and_back():
    plan = geometric(2, every=epochs(1), maximum=64).plan(dataset_size=100, epochs=5, batch_size=8, run_on=True)
    data = json.loads(json.dumps(plan.to_json()))
    assert data["format"] == 1
    assert Plan.from_json(data) == plan
    assert Plan.from_json(data).fingerprint() == plan.fingerprint() != plan_of().fingerprint()
    assert pickle.loads(pickle.dumps(plan)) == copy.deepcopy(plan) == plan
    assert list(copy.deepcopy(plan)) == list(plan)


@pytest.mark.parametrize("data", [{}, {"format": 2}, None, "plan", [1]])
def test_json_of_something_else(data):
    with pytest.raises(ValueError, match=r"`data` must be a plan of format 1 with \['batch_sizes', 'dataset_size', "):
        Plan.from_json(data)


def test_json_with_a_field_missing_too_many_or_damaged():
    data = plan_of().to_json()
    for damaged in ({k: v for k, v in data.items() if k != "epochs"}, data | {"colour": 1}):
        with pytest.raises(ValueError, match="`data` must be a plan of format 1 with"):
            Plan.from_json(damaged)
    with pytest.raises(TypeError, match="`batch_sizes` must be a whole number, got '32'"):
        Plan.from_json(data | {"batch_sizes": ["32", 64]})


def test_it_says_what_it_is():
    assert plan_of().describe() == "2 epochs of 100 samples, short batches kept: 6 updates, batch sizes 32 64"
    assert "short batches dropped" in plan_of(drop_last=True).describe()
    assert plan_of(epochs=None, run_on=True).describe() == (
        "epochs of 100 samples without end, batches run on: batch sizes 32 64"
    )
    assert steps("0:8 9:10").plan(dataset_size=None).describe() == "a stream without end: batch sizes 8 10"
    ramp = linear_ramp(20, over=samples(100), start=1).plan(dataset_size=None)
    assert ramp.describe() == "a stream without end: batch sizes 1 2 3 4 5 6 7 8 ..."


def test_a_plan_is_as_long_as_its_changes_not_as_its_training():
    assert len(constant(1).plan(dataset_size=10**9, epochs=1000)._runs.items) == 1
    assert constant(1).plan(dataset_size=10**9, epochs=1000).updates == 10**12
    growth = clamp(geometric(2, every=updates(5 * 10**8)), maximum=10**6)
    assert len(growth.plan(dataset_size=10**9 + 7, epochs=1000, batch_size=3)._runs.items) < 3 * 20
    ramp = linear_ramp(4096, over=epochs(200), start=96).plan(dataset_size=50_000, epochs=200)
    assert len(ramp.starts_samples) == 4000
    assert len(ramp._runs.items) <= 4000 + 200


def test_queries_far_into_a_long_training_agree_with_its_neighbourhood():
    plan = linear_ramp(4096, over=epochs(200), start=96).plan(dataset_size=50_000, epochs=200, drop_last=True)
    for update in range(0, plan.updates - 1, 97):
        here, after = plan.batch(update), plan.batch(update + 1)
        assert here.end == after.clock
        assert plan.update_at(here.clock) == update
    assert plan.updates == sum(1 for _ in plan)
    assert plan.samples == sum(batch.size for batch in itertools.islice(plan, plan.updates))
