import pytest

from adabatch.lr_clock import Baseline
from adabatch.schedules import constant


@pytest.mark.parametrize("mode", [{}, {"drop_last": True}, {"run_on": True}])
@pytest.mark.parametrize(("size", "N"), [(4, 10), (3, 9), (7, 10), (10, 10), (1, 3)])
def test_it_is_the_plan_of_the_constant_batch(size, N, mode):
    base, plan = Baseline(size, N, **mode), constant(size).plan(dataset_size=N, epochs=5, **mode)
    for update, batch in enumerate(plan):
        assert base.clock_of(update) == batch.clock
        for clock in range(batch.clock, batch.clock + batch.size):
            assert base.update_at(clock) == update
        for clock in range(batch.clock + batch.size, batch.end):  # dropped
            assert base.update_at(clock) == update + 1
    assert base.updates(5) == plan.updates
    assert base.update_at(5 * N) == plan.updates or mode == {"run_on": True}


def test_a_stream_has_no_epochs():
    base = Baseline(4, None)
    assert [base.clock_of(3), base.update_at(12), base.update_at(15)] == [12, 3, 3]
