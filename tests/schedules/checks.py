"""The contract of every schedule and every plan: `check_schedule`, and the draws that feed it."""

import itertools
import json
from bisect import bisect_left
from collections import Counter

from hypothesis import strategies as st
from tests.schedules import naive

from adabatch import couplings
from adabatch.schedules import (
    Plan,
    Schedule,
    clamp,
    constant,
    geometric,
    last_iterate,
    linear_ramp,
    round_to,
    steps,
    then,
    world_sizes,
)  # fmt: skip
from adabatch.units import Duration

MODES = ({}, {"drop_last": True}, {"run_on": True})


def check_schedule(schedule: Schedule, *, batch_size: int, dataset_size: int = 60, epochs: int = 5) -> None:
    """The contract of a schedule, with plans in all three modes."""
    again = Schedule.from_json(json.loads(json.dumps(schedule.to_json())))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert again.fingerprint() == schedule.fingerprint()
    assert "\n" not in schedule.describe()
    assert schedule.initial in (None, batch_size)
    for mode in MODES:
        settings = {"dataset_size": dataset_size, "batch_size": batch_size, "tokens_per_sample": 4, **mode}
        plan = schedule.plan(epochs=epochs, **settings)
        assert plan.batch_sizes[0] == batch_size or isinstance(schedule, last_iterate)  # whose mean it is
        check_plan(plan)
        check_against_naive(schedule, plan, batch_size=batch_size)
        check_prefix(plan, schedule.plan(epochs=epochs - 1, **settings))
        if schedule.finite:
            check_prefix(schedule.plan(**settings), plan)


def check_against_naive(schedule, plan, *, batch_size, tokens=4):
    """The plan's batches are those of a loop that asks for a size at each batch start."""
    mode = {"drop_last": plan.drop_last, "run_on": plan.run_on}
    expected = naive.walk(schedule, size=batch_size, N=plan.dataset_size, epochs=plan.epochs, tokens=tokens, **mode)
    assert [(batch.clock, batch.requested, batch.size) for batch in plan] == expected


def check_plan(plan: Plan) -> None:
    """A plan agrees with itself: closed forms and iteration give the same batches."""
    N, batches = plan.dataset_size, list(plan)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert plan.updates == len(plan) == len(batches)
    assert plan.samples == sum(batch.size for batch in batches)
    assert plan.drop_last or plan.samples == plan.end_samples
    assert plan.sizes == tuple(sorted({b.size for b in batches if b.size == b.requested}))
    assert plan.tails == tuple(sorted({b.size for b in batches if b.size < b.requested}))
    assert plan.batch_counts() == dict(sorted(Counter(b.size for b in batches).items()))
    assert plan.clock_of(len(batches)) == plan.end_samples == batches[-1].end
    assert plan.update_at(plan.end_samples) == len(batches)
    for update, batch in enumerate(batches):
        assert batch == plan.batch(update)
        assert plan.clock_of(update) == batch.clock
        assert plan.update_at(batch.clock) == update
        assert plan.update_at(batch.clock + 1) == update + 1
        assert plan.batch_size_at(batch.clock) == batch.requested
        assert batch.epoch == batch.clock // N
        assert 0 < batch.size <= batch.requested
        assert batch.clock + batch.size <= batch.end
    starts = [batch.clock for batch in batches]
    assert [plan.update_at(clock) for clock in range(plan.end_samples + 1)] == [
        bisect_left(starts, clock) for clock in range(plan.end_samples + 1)
    ]
    for before, after in itertools.pairwise(batches):
        assert before.end == after.clock
    check_lengths(plan, batches)
    check_arrays(plan, batches)


def check_arrays(plan, batches):
    """`to_numpy` has a row for each update."""
    arrays = plan.to_numpy(couplings.sqrt(), batch_size=plan.batch_sizes[0])
    rows = [(b.clock, b.size, b.requested, b.epoch, (b.requested / plan.batch_sizes[0]) ** 0.5) for b in batches]
    assert list(zip(*(array.tolist() for array in arrays.values()), strict=True)) == rows
    assert {name: str(array.dtype) for name, array in arrays.items()} == {
        **dict.fromkeys(("starts_samples", "batch_sizes", "requested", "epochs"), "int64"),
        "lr_factors": "float64",
    }
    assert list(plan.to_numpy()) == ["starts_samples", "batch_sizes", "requested", "epochs"]


def check_lengths(plan, batches):
    """`batches_between` counts what the plan starts, from each batch to the end of its epoch; so by size."""
    N = plan.dataset_size
    for epoch in range(plan.epochs):
        starts = [batch.clock for batch in batches if batch.epoch == epoch]
        for index, start in enumerate(starts):
            assert plan.batches_between(start, (epoch + 1) * N) == len(starts) - index
            assert plan.batches_between(starts[0], start) == index
        sizes = Counter(batch.size for batch in batches if batch.epoch == epoch)
        if starts:
            assert plan.sizes_between(starts[0], (epoch + 1) * N) == sizes


def check_prefix(longer: Plan, shorter: Plan) -> None:
    """Two lengths of one training have the same batches, but for the one that the end of the shorter one cuts."""
    for update, batch in enumerate(shorter):
        other = longer.batch(update)
        assert (batch.clock, batch.epoch, batch.requested) == (other.clock, other.epoch, other.requested)
        assert batch.size == other.size or (shorter.run_on and batch.end == shorter.end_samples)


def durations(units=("epochs", "samples", "updates", "tokens")):
    """Lengths up to a few epochs of at most 60 samples, fractions of an epoch and of a sample's tokens included."""
    return st.one_of(
        [
            {
                "epochs": st.sampled_from([0.1, 0.25, 1 / 3, 0.7, 1, 1.5, 2]),
                "samples": st.integers(1, 150),
                "updates": st.integers(1, 20),
                "tokens": st.sampled_from([1, 2.5, 50, 101, 300]),
            }[unit].map(lambda count, unit=unit: Duration(count, unit))
            for unit in units
        ]
    )


def step_changes(units):
    """Thresholds in one unit with sizes."""
    sizes = st.lists(st.integers(1, 30), min_size=1, max_size=5)
    thresholds = durations(units).flatmap(
        lambda first: st.lists(st.integers(1, 5), max_size=4).map(
            lambda gaps: [Duration(first.count * count, first.unit) for count in itertools.accumulate(gaps, initial=1)]
        )
    )
    return st.tuples(sizes, thresholds).map(
        lambda drawn: tuple(zip([Duration(0, "samples"), *drawn[1]], drawn[0], strict=False))
    )


@st.composite
def last_iterates(draw, units):
    """Schedules over a part of the data, all of it or more."""
    unit = draw(st.sampled_from([unit for unit in units if unit != "updates"]))
    lengths = {"epochs": [1.5, 3.0, 5.0], "samples": [60.0, 150.0, 240.0], "tokens": [250.0, 801.0]}[unit]
    length = draw(st.sampled_from(lengths))
    over = Duration(length if unit == "epochs" else int(length), unit)
    parts = sorted(draw(st.sets(st.sampled_from([0.25, 0.5, 0.75, 0.9]), max_size=3)))
    places = [0, *(over.count * part if unit == "epochs" else int(over.count * part) for part in parts)]
    lrs = draw(st.lists(st.sampled_from([0, 0.01, 0.3, 1, 1.7]), min_size=len(places), max_size=len(places)))
    lrs[0] = lrs[0] if any(lrs) else 1
    step = draw(st.sampled_from([1, 1, 3]))
    minimum, more = draw(st.integers(1, 3)) * step, draw(st.integers(0, 12)) * step
    mean = draw(st.none() | st.integers(minimum, minimum + more))
    table = [(Duration(at, unit), lr) for at, lr in zip(places, lrs, strict=True)]
    return last_iterate(table, over=over, minimum=minimum, maximum=minimum + more, mean=mean, round_to=step)


def schedules(units=("epochs", "samples", "updates", "tokens")):
    """Any schedule, nested up to a few levels; some cannot be planned, or not from every batch size."""
    size = st.none() | st.integers(1, 20)
    leaves = st.one_of(
        st.builds(constant, size),
        st.builds(
            geometric,
            st.sampled_from([1.1, 1.5, 2, 3]),
            durations(units),
            start=size,
            maximum=st.none() | st.integers(20, 70),
        ),
        st.builds(steps, step_changes(units)),
        last_iterates(units),
        st.builds(linear_ramp, st.integers(1, 60), durations(units), start=st.none()),
        st.integers(1, 4).flatmap(
            lambda step: st.builds(
                lambda start, count, over: linear_ramp(start + step * count, over, start=start, increment=step),
                st.integers(1, 20),
                st.integers(0, 10),
                durations(units),
            )
        ),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(then, inner, inner, durations(units)),
            st.tuples(inner, st.none() | st.integers(1, 5), st.integers(10, 50)).map(lambda drawn: bounded(*drawn)),
            st.tuples(inner, st.integers(2, 7)).map(lambda drawn: rounded(*drawn)),
            inner.map(lambda schedule: schedule if schedule.world_sizes else world_sizes(schedule, "0:1 9:2 30:5")),
        ),
        max_leaves=4,
    )


def bounded(schedule, minimum, maximum):
    """`clamp` of the schedule, or the schedule itself if that would change the start."""
    try:
        return clamp(schedule, minimum=minimum, maximum=maximum)
    except ValueError:
        return schedule


def rounded(schedule, multiple):
    """`round_to` of the schedule, or the schedule itself if that would change the start."""
    try:
        return round_to(schedule, multiple)
    except ValueError:
        return schedule
