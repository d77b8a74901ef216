from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import adabatch as ab
from adabatch.schedules import lr


@given(st.floats(0, 100), st.floats(0, 20), st.floats(0, 1))
def test_warmup_is_a_line_and_then_nothing(epoch, length, start):
    expected = start + (1 - start) * epoch / length if epoch < length else 1
    assert lr.warmup(length, start=start)(epoch) == pytest.approx(expected, rel=1e-12)
    assert lr.warmup(length, start=start, then=lambda at: at)(epoch) == pytest.approx(expected * epoch, rel=1e-12)


@given(st.fractions(0, 200), st.integers(1, 200))
def test_slow_start_has_the_paper_s_steps_at_any_length(epoch, length):
    share = Fraction(epoch) / length
    wanted = 0.5 if share < Fraction(40, 90) else 0.075 if share < Fraction(70, 90) else 0.01
    assert lr.slow_start(length)(epoch) == (wanted if share < Fraction(85, 90) else 0.001)


@given(st.floats(0, 200), st.floats(1, 200), st.floats(0.1, 4), st.floats(0, 1))
def test_poly_decay_falls_to_its_end(epoch, length, power, end):
    expected = end + (1 - end) * max(0.0, 1 - epoch / length) ** power
    assert lr.poly_decay(length, power=power, end=end)(epoch) == pytest.approx(expected, rel=1e-12)


def test_serve_lambda_lr_by_epochs_and_by_updates():
    def rates(factor, steps):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=12.8)
        scheduler, seen = torch.optim.lr_scheduler.LambdaLR(optimizer, factor), []
        for _ in range(steps):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return seen

    by_epoch = rates(lr.slow_start(90), 90)
    assert by_epoch == pytest.approx([6.4] * 40 + [0.96] * 30 + [0.128] * 15 + [0.0128] * 5)
    by_update = rates(lr.per_update(lr.warmup(5, start=1 / 32, then=lr.poly_decay(9)), 7), 63)
    assert by_update == [12.8 * lr.warmup(5, start=1 / 32, then=lr.poly_decay(9))(update / 7) for update in range(63)]


def test_the_state_of_an_lr_scheduler_holds_no_object_of_ours(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr.per_update(lr.warmup(2, then=lr.slow_start(9)), 4))
    torch.save(scheduler.state_dict(), tmp_path / "state.pt")
    scheduler.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_batches_grow_where_such_a_schedule_decays():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr.slow_start(9))
    growth = ab.from_lr_scheduler(scheduler, epochs=9, batch_size=100, maximum=10_000)
    assert growth.plan(dataset_size=10**6, epochs=9).sizes[:3] == (100, 667, 5_000)


def test_bad_values():
    for make, message in (
        (lambda: lr.warmup(-1), "`epochs` must be at least 0, got -1"),
        (lambda: lr.warmup(5, start=2), "`start` must be at most 1, got 2; a warm-up rises"),
        (lambda: lr.slow_start(0), "`epochs` must be greater than 0, got 0"),
        (lambda: lr.poly_decay(9, power=0), "`power` must be greater than 0, got 0"),
        (lambda: lr.poly_decay(9, end=-1), "`end` must be at least 0, got -1"),
        (lambda: lr.per_update(lr.slow_start(9), 0), "`updates_per_epoch` must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match="`then` must be a function of the epochs passed, got 3"):
        lr.warmup(5, then=3)
