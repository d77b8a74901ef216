import math

import pytest
from tests.lab.study.studies import grid

from adabatch.lab.study.constant import judged
from adabatch.lab.study.curve import Curve, CurvePoint


def curve(size, *, updates, second=0.01, losses=(1.0, 0.7, 0.5)):
    """Falls to its last loss after so many updates."""
    places = (updates // 4, updates // 2, updates)
    points = (CurvePoint(n, n * size, second * n, loss, loss) for n, loss in zip(places, losses, strict=True))
    return Curve(tuple(points))


def test_the_best_takes_the_least_time_to_what_the_best_reaches():
    curves = {10: [curve(10, updates=400), curve(10, updates=440)], 30: [curve(30, updates=200)] * 2}
    found = judged(grid(), curves, (0, 1))
    assert found.best == 30
    assert found.seconds == pytest.approx({10: 4.2, 30: 2.0}, rel=1e-6)
    assert list(found.rows) == [10, 30]
    assert found.rows[30].lr == pytest.approx(3 * found.rows[10].lr)
    assert found.rows[10].seconds_to_target.estimate == pytest.approx(math.sqrt(4.0 * 4.4))
    assert [[run.seed for run in row.curves] for row in found.rows.values()] == [[0, 1], [0, 1]]
    assert found.critical.estimate == pytest.approx(36.5, rel=0.01)  # 420 = s (1 + c / 10), 200 = s (1 + c / 30)


def test_a_batch_size_that_does_not_arrive_is_not_the_best():
    curves = {10: [curve(10, updates=400)] * 2, 30: [curve(30, updates=20, losses=(1.0, 0.8, 0.7))] * 2}
    found = judged(grid(), curves, (0, 1))
    assert (found.best, found.seconds[30]) == (10, math.inf)


def test_a_batch_size_that_left_nothing_has_a_row():
    found = judged(grid(), {10: [curve(10, updates=400)] * 2, 30: [Curve((), "diverged")] * 2}, (0, 1))
    assert (found.best, found.seconds[30]) == (10, math.inf)
    assert found.rows[30].curves[0].points == []
    assert found.rows[30].seconds_to_target.estimate is None
    assert found.critical.estimate is None


def test_without_any_finite_loss_there_is_no_answer():
    with pytest.raises(ValueError, match="must have a batch size with a finite loss"):
        judged(grid(), {10: [curve(10, updates=400, losses=(None, None, None))], 30: [Curve(())]}, (0,))
