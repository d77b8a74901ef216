from dataclasses import replace

from tests.lab.advices import advice, no_gain, outcome

from adabatch.lab.report.advising import figures
from adabatch.lab.scaling import Estimate


def test_constant_batch_sizes():
    ((_, rows),) = figures.constant(advice()).groups
    assert [label for label, _ in rows] == ["32", "128 (best)", "512"]
    assert rows[0][1] == ["0.05", "0.1005", "10 [8, 12]"]


def test_a_time_that_two_seeds_leave_open():
    first, *others = advice().fixed

    def told(*seconds):
        changed = replace(advice(), fixed=(replace(first, seconds_to_target=Estimate(*seconds)), *others))
        return figures.constant(changed).groups[0][1][0][1][2]

    assert told(1.77, 0.00764, 410.0) == told(1.77, 0.0, 2.0) == "not known from 2 seeds"
    assert told(1.77, 0.2, 20.0) == "1.77 [0.2, 20]"
    assert told(1.77, 1.2, None) == "1.77 [1.2, no end]"
    assert told(None, 0.0, 5.0) == "under 5"


def test_schedules():
    ((_, rows),) = figures.growing(advice()).groups
    assert [label for label, _ in rows] == ["early (chosen)", "late"]
    assert rows[0][1] == ["linear", "0.1149", "5.1", "1.6× [1.3, 1.9]", "1.6× [0.9, 2.8]"]


def test_forecasts_beside_outcomes():
    ((_, rows),) = figures.beside({"a": advice(outcome=outcome()), "b": advice(), "c": no_gain()}).groups
    assert [label for label, _ in rows] == ["a", "b", "c"]
    assert rows[0][1] == [
        "grow",
        "early",
        "1.6× [1.2, 2.1]",
        "1.6× [0.9, 2.8]",
        "1.5× [1.3, 1.8]",
        "yes",
        "yes",
        "0.714",
    ]
    assert rows[1][1][4:] == ["–"] * 4
    assert rows[2][1] == ["no gain in speed", *["–"] * 7]


def test_a_loss_that_is_missing_has_no_mean():
    assert figures.mean([0.1, None]) == "–"
    assert figures.mean([]) == "–"
