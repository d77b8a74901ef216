from hypothesis import given
from hypothesis import strategies as st

from adabatch.lab.study.candidates import candidates


@given(
    base=st.integers(1, 16),
    doublings=st.integers(1, 4),
    size=st.integers(6_000, 60_000),
    epochs=st.integers(1, 30),
)
def test_both_grow_from_the_base_to_the_largest_over_the_whole_training(base, doublings, size, epochs):
    largest = base * 2**doublings
    early, late = candidates(base=base, largest=largest, total_samples=epochs * size, rule="sqrt")
    assert [(each.name, each.coupling) for each in (early, late)] == [("early", "sqrt"), ("late", "none")]
    for each in (early, late):
        plan = each.schedule.plan(dataset_size=size, epochs=epochs, batch_size=base, drop_last=True)
        assert plan.sizes == tuple(base * 2**power for power in range(doublings + 1))
    assert late.schedule.changes[1][0].count >= epochs * size // 2


def test_without_room_they_stay():
    early, late = candidates(base=32, largest=32, total_samples=1000, rule="linear")
    assert [len(each.schedule.changes) for each in (early, late)] == [1, 1]
