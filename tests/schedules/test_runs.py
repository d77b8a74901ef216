"""Runs and the walk that makes them, against a loop over the batches."""

from hypothesis import given
from hypothesis import strategies as st

from adabatch.schedules._runs import Walk, ceil_div

N, EPOCHS = 12, 5


def batches(stages, *, drop_last, run_on):
    """Clock and samples of every batch, one after the other."""
    clock, end, found = 0, N * EPOCHS, []
    while clock < end:
        size = [size for start, size in stages if start <= clock][-1]
        rest = (end if run_on else (clock // N + 1) * N) - clock
        if not (drop_last and size > rest):
            found.append((clock, min(size, rest)))
        clock += min(size, rest)
    return found


@given(
    st.lists(st.tuples(st.integers(1, 59), st.integers(1, N)), max_size=4, unique_by=lambda stage: stage[0]),
    st.integers(1, N),
    st.sampled_from([(False, False), (True, False), (False, True)]),
)
def test_every_update_and_every_clock_are_found(later, first, mode):
    stages = [(0, first), *sorted(later)]
    drop_last, run_on = mode
    walk = Walk(dataset_size=N, epochs=EPOCHS, drop_last=drop_last, run_on=run_on)
    for start, size in stages:
        walk.register(start, size)
    runs, expected = walk.finish(), batches(stages, drop_last=drop_last, run_on=run_on)
    assert [runs.find(update)[1:] for update in range(len(expected))] == expected
    for clock in range(N * EPOCHS + 1):
        assert runs.update_at(clock) == sum(start < clock for start, _ in expected)
    assert sum(run.per_block * run.repeat for run in runs.items) == len(expected)


def test_a_stream_is_one_run_for_ever():
    walk = Walk(dataset_size=None, epochs=None, drop_last=False, run_on=False)
    walk.register(0, 4)
    walk.register(10, 6)
    runs = walk.finish()
    assert [(run.clock, run.size, run.repeat) for run in runs.items] == [(0, 4, 3), (12, 6, None)]
    assert runs.find(10**9)[1:] == (12 + 6 * (10**9 - 3), 6)
    assert walk.end_of(3) == 18
    assert ceil_div(7, 2) == 4
