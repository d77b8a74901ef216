import pytest
from tests.lab.report.page_branches import branching

from adabatch.lab.report.branching.words import (
    answer,
    chosen,
    cost_words,
    fork_name,
    percent,
    schedule_words,
    sentences,
    steps,
    tolerance_name,
)


def test_shares_and_names():
    assert [percent(share) for share in (1 / 64, 0.05, 0.003, 1.0)] == ["1.56 %", "5 %", "0.3 %", "100 %"]
    assert (fork_name(0.65), tolerance_name(0.01)) == ("at 65 %", "tolerance 1 %")


def test_the_schedule_is_that_of_its_window_and_tolerance():
    found = branching()
    assert (chosen(found).window, chosen(found).tolerance) == (1 / 16, 0.01)
    assert steps(found) == [(0.0, 16), (0.15, 32), (0.65, 128)]
    assert schedule_words(found) == (
        "The schedule: batch size 16, from 15 % of the training on 32, from 65 % of the training on 128."
    )


def test_a_schedule_that_does_not_grow():
    found = branching(growth="none")
    assert steps(found) == [(0.0, 16)]
    assert schedule_words(found) == "The schedule stays at batch size 16."


@pytest.mark.parametrize(
    ("growth", "words"),
    [
        ("late", "Late growth suits"),
        ("early", "Early growth"),
        ("any time", "at any time alike"),
        ("none", "more seeds"),
    ],
)
def test_the_answer(growth, words):
    assert words in answer(branching(growth=growth))


def test_all_sentences():
    first, second, third = sentences(branching())
    assert first.startswith(
        "With a window of 6.25 % of the training and a tolerance of 1 %: Late growth suits this task"
    )
    assert second.startswith("The schedule: batch size 16")
    assert "depends on both" in third


def test_costs_and_their_bounds():
    found = {(cell.window, cell.fork, cell.factor): cost_words(cell) for cell in branching().cells}
    assert found[1 / 64, 0.05, 8] == "over 2"
    assert found[1 / 64, 0.65, 2] == "under 0.889"
    assert found[1 / 16, 0.05, 2] == "1.13 [1.07, 1.19]"
