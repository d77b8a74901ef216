import io

from rich.console import Console
from tests.lab.study.test_branch_findings import LATE, made, setting

from adabatch.lab.report import branching
from adabatch.lab.study.branch_findings import findings


def found(costs=LATE, **more):
    of = setting()
    return findings(of, made(of, costs, noise=1e-9), loss="train", dataset_size=1000, **more)


def text(table):
    stream = io.StringIO()
    Console(file=stream, width=200).print(table)
    return stream.getvalue()


def test_the_grid_of_windows_and_tolerances():
    shown = text(next(iter(branching.tables(found()))))
    assert "the largest batch that does no harm to the train loss" in " ".join(shown.split())
    assert [row.split() for row in shown.splitlines() if "0.3 %" in row] == [
        ["12.5", "%", "0.3", "%", "16", "32", "64", "128"]
    ]
    assert "at 10 %" in shown


def test_what_a_larger_batch_costs():
    shown = text(list(branching.tables(found()))[1])
    rows = {tuple(row.split()[:5]): row for row in shown.splitlines() if "12.5 %" in row}
    assert len(rows) == 12
    row = rows["10", "%", "12.5", "%", "128"]
    assert row.split()[5:7] == ["8", "1.21"]  # LR, and the loss: 1.9 times the samples at a slope of 0.3
    assert "1.9 [1.9, 1.9]" in row


def test_the_answer_in_a_sentence():
    first, second = branching.sentences(found())
    assert first.startswith(
        "With a window of 12.5 % of the training and a tolerance of 1 %: Late growth suits this task"
    )
    assert "depends on both" in second
    assert "Early growth" in next(branching.sentences(found(LATE[::-1])))
    assert "at any time" in next(branching.sentences(found([LATE[3]] * 4)))
    assert "more seeds" in next(branching.sentences(found([{2: 1.4, 4: 1.5, 8: 1.9}] * 4)))
