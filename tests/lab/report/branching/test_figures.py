from tests.lab.report.page_branches import branching

from adabatch.lab.report.branching import figures
from adabatch.lab.report.scaling.words import number, told


def test_the_grid_of_windows_and_tolerances():
    table = figures.harmless(branching())
    assert (table.corner, *table.columns) == ("window", "tolerance", "at 5 %", "at 15 %", "at 35 %", "at 65 %")
    ((_, rows),) = table.groups
    assert len(rows) == 3 * 3
    assert rows[0] == ("1.56 %", ["0.3 %", "16", "16", "32", "32"])
    assert rows[-2] == ("6.25 %", ["1 %", "16", "32", "32", "128"])


def test_what_each_branch_costs():
    found = branching()
    table = figures.costs(found)
    ((_, rows),) = table.groups
    assert len(rows) == 3 * 4 * 3
    cell = found.cells[4]
    assert rows[4] == ("15 %", ["1.56 %", "64", "2", told(cell.loss_ratio), told(cell.cost)])
    assert len(table.columns) == 5
    assert rows[2][1][-1] == "over 2"


def test_truths_where_they_are_known():
    found = branching(truth=True)
    table = figures.costs(found)
    assert table.columns[-1] == "truth"
    assert table.groups[0][1][4][1][-1] == number(found.cells[4].truth)
