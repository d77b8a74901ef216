from tests.lab.report.page_branches import branching

from adabatch.lab.report.branching.terminal import tables
from adabatch.lab.report.terminal import plain, whole_width


def test_the_tables():
    harmless, costs = (plain(table) for table in tables(branching()))
    assert harmless.startswith("digits, mlp: the largest batch that does no harm to the test loss\n")
    assert [row.split() for row in harmless.splitlines() if "6.25 %" in row and " 1 % " in row] == [
        ["|", "6.25", "%", "|", "1", "%", "|", "16", "|", "32", "|", "32", "|", "128", "|"]
    ]
    assert costs.startswith("What a larger batch costs: samples over those of the base batch to the same loss\n")
    assert "LR x" in costs
    assert costs.count("\n| ") == 1 + 3 * 4 * 3


def test_a_terminal_of_100_columns_is_enough():
    assert all(whole_width(table) <= 100 for table in tables(branching(truth=True)))
