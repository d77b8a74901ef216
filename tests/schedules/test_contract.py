import math
from collections import Counter

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tests.schedules import naive
from tests.schedules.checks import MODES, check_plan, check_prefix, check_schedule
from tests.schedules.checks import schedules as any_schedule

from adabatch import epochs, samples, schedules, tokens, updates
from adabatch.schedules import (
    Plan,
    Schedule,
    clamp,
    constant,
    from_lr,
    geometric,
    last_iterate,
    linear_ramp,
    round_to,
    steps,
    then,
    world_sizes,
)  # fmt: skip

# To add a schedule, add a row: an example of it, and the batch size that it starts from.
ROWS = [
    (constant(), 7),
    (constant(8), 8),
    (geometric(2, every=epochs(1), maximum=32), 4),
    (geometric(1.1, every=updates(3), start=5), 5),
    (geometric(1.5, every=tokens(101), maximum=40), 3),
    (steps({0: 8, epochs(1.5): 30, epochs(2): 3}), 8),
    (steps("0:6 11:12,50:7", unit="updates"), 6),
    (steps({0: 8, updates(9): 12, epochs(3): 5, tokens(1000): 60}), 8),
    (from_lr({0: 0.1, epochs(1.5): 0.05, tokens(600): 0.01, epochs(3): 0.08}, maximum=30), 4),
    (from_lr({0: 0, 30: 2, 100: 1, 101: 0.3, 200: 0}, start=6, round_to=3, maximum=50, rule="hybrid(3)"), 6),
    (from_lr(lambda clock: math.cos(clock / 200), start=3, end=300, rule="seesaw"), 3),
    (last_iterate({0: 0.1, epochs(3): 0.02}, over=epochs(5), minimum=3, maximum=20), 8),
    (
        last_iterate({0: 0, 30: 1, tokens(800): 0.2}, over=samples(280), minimum=4, maximum=40, mean=12, round_to=4),
        12,
    ),
    (linear_ramp(24, over=epochs(2)), 4),
    (linear_ramp(2, over=updates(20), start=17, increment=5), 17),
    (linear_ramp(7, over=samples(100)), 7),
    (clamp(geometric(2, every=updates(4)), maximum=20), 3),
    (clamp(linear_ramp(1, over=epochs(3)), minimum=4, maximum=12), 12),
    (round_to(geometric(1.3, every=epochs(0.7), maximum=50), 8), 8),
    (then(constant(), geometric(2, every=epochs(1), maximum=60), after=epochs(0.5)), 7),
    (then(linear_ramp(20, over=updates(9)), steps({0: 5, 70: 9}), after=updates(5)), 2),
    (
        round_to(
            clamp(then(geometric(3, every=samples(20)), linear_ramp(6, over=tokens(99)), epochs(1)), maximum=40), 6
        ),
        6,
    ),
    (world_sizes(geometric(2, every=epochs(1), maximum=32), {0: 1, 8: 2, 16: 4}), 4),
    (clamp(world_sizes(linear_ramp(24, over=updates(9)), "0:3 12:1"), maximum=20), 4),
]


@pytest.mark.parametrize(("schedule", "batch_size"), ROWS, ids=lambda value: str(value)[:60])
def test_contract(schedule, batch_size):
    check_schedule(schedule, batch_size=batch_size)
    check_schedule(schedule, batch_size=batch_size, dataset_size=61, epochs=7)


def test_every_schedule_has_a_row():
    kinds = {getattr(schedules, name) for name in schedules.__all__} - {Plan, Schedule}
    assert {type(schedule) for schedule, _ in ROWS} == kinds
    assert all(kind.__name__ in schedules.__all__ for kind in kinds)


@settings(max_examples=600, deadline=None)
@given(
    schedule=any_schedule(),
    batch_size=st.integers(1, 20),
    dataset_size=st.integers(1, 60),
    epochs=st.integers(2, 6),
    mode=st.sampled_from(MODES),
)
# A rest that is dropped only because the size before the change would not fit into it.
@example(steps({0: 30, updates(3): 10}), 30, 100, 2, {"drop_last": True})
@example(then(steps({0: 30, 95: 50}), constant(), samples(99)), 30, 100, 2, {"drop_last": True})
# A size that is too large for the data set but holds for no batch.
@example(then(steps({0: 1, epochs(0.1): 2, epochs(0.2): 1}), constant(), updates(2)), 1, 1, 2, {})
def test_any_plan_is_the_naive_walk(schedule, batch_size, dataset_size, epochs, mode):
    batch_size = schedule.initial or batch_size
    arguments = {"dataset_size": dataset_size, "batch_size": batch_size, "tokens_per_sample": 4, **mode}
    refused = ""
    try:
        plan = schedule.plan(epochs=epochs, **arguments)
    except ValueError as error:
        refused = str(error)
    assume(not refused or "samples of the data set" in refused)
    expected = naive.walk(schedule, size=batch_size, N=dataset_size, epochs=epochs, tokens=4, **mode)
    if refused:
        assert expected is None
        return
    assert [(batch.clock, batch.requested, batch.size) for batch in plan] == expected
    check_plan(plan)
    check_prefix(plan, schedule.plan(epochs=epochs - 1, **arguments))


@settings(max_examples=200, deadline=None)
@given(schedule=any_schedule(units=("samples", "updates", "tokens")), batch_size=st.integers(1, 20))
def test_any_plan_of_a_stream_is_the_naive_walk(schedule, batch_size):
    batch_size = schedule.initial or batch_size
    assume(schedule.finite)
    try:
        plan = schedule.plan(dataset_size=None, batch_size=batch_size, tokens_per_sample=4)
    except ValueError:  # a bound that changes the start, increments that miss the end
        assume(False)
    batches = naive.walk(schedule, size=batch_size, N=None, epochs=None, tokens=4, limit=100)
    for update, (clock, requested, size) in enumerate(batches):
        batch = plan.batch(update)
        assert (batch.clock, batch.requested, batch.size, batch.epoch) == (clock, requested, size, 0)
        assert batch.end == clock + size
        assert plan.update_at(clock) == update
        assert plan.update_at(clock + size) == update + 1
        assert plan.batches_between(0, clock) == update


@settings(max_examples=200, deadline=None)
@given(
    schedule=any_schedule(),
    batch_size=st.integers(1, 20),
    dataset_size=st.integers(1, 60),
    mode=st.sampled_from(MODES),
    data=st.data(),
)
def test_batches_between_walks_from_anywhere(schedule, batch_size, dataset_size, mode, data):
    batch_size = schedule.initial or batch_size
    try:
        plan = schedule.plan(dataset_size=dataset_size, epochs=4, batch_size=batch_size, tokens_per_sample=4, **mode)
    except ValueError:
        assume(False)
    start = data.draw(st.integers(0, plan.end_samples - 1))
    end = plan.end_samples if mode.get("run_on") else (start // dataset_size + 1) * dataset_size
    stop = data.draw(st.integers(start, end))
    sizes, clock = [], start
    while clock < stop:
        size = plan.batch_size_at(clock)
        if mode.get("drop_last") and clock + size > end:
            break
        sizes.append(min(size, end - clock))
        clock += size
    assert plan.batches_between(start, stop) == len(sizes)
    assert plan.sizes_between(start, stop) == Counter(sizes)


def test_the_reference_rounds_and_counts_as_the_paper_would():
    # The reference itself, on numbers worked out by hand.
    walked = naive.walk(geometric(2, every=epochs(1), maximum=8), size=3, N=10, epochs=2)
    assert walked == [(0, 3, 3), (3, 3, 3), (6, 3, 3), (9, 3, 1), (10, 6, 6), (16, 6, 4)]
    walked = naive.walk(round_to(steps({0: 4, 4: 6}), 4), size=4, N=12, epochs=1)
    assert walked == [(0, 4, 4), (4, 8, 8)]
    assert naive.walk(constant(11), size=11, N=10, epochs=1) is None


def test_the_reference_refuses_a_schedule_that_it_does_not_know():
    with pytest.raises(NotImplementedError, match="a branch for object is missing"):
        naive.walk(object(), size=4, N=10, epochs=1)
