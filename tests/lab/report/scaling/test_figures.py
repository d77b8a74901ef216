from tests.lab.report.page_studies import probe, study

from adabatch.lab.report.scaling import figures
from adabatch.lab.report.scaling.lines import lines
from adabatch.lab.report.scaling.machine import Machine
from adabatch.lab.report.scaling.words import believed, told


def test_what_each_batch_size_needs():
    found = lines({"": study()})
    table = figures.needs(found, "test")
    assert [title for title, _ in table.groups] == ["LR linear: to test loss 0.14", "LR constant: to test loss 0.14"]
    label, cells = table.groups[0][1][1]
    row = found[0].rule.test.to_target[1]
    assert label == "32"
    assert len(cells) == len(table.columns)
    assert cells[:4] == ["3 of 3", told(row.updates), told(row.speedup).replace(" [", " of 2 ["), told(row.samples)]
    last = table.groups[1][1][-1][1]
    assert last[0] == "0 of 3"
    assert last[1].startswith("over ")
    assert last[2].startswith("under ")


def test_the_form_to_believe_is_marked():
    (line,) = lines({"": study(rules=("linear",))})
    ((title, rows),) = figures.fits([line], "train").groups
    assert title.startswith("LR linear: to training loss 0.15; exponent needed: p = ")
    used = believed(line.rule.train.fits).form
    assert [label for label, _ in rows] == [f"{form} (used)" if form == used else str(form) for form in (1, 2)]


def test_borders_of_all_lines():
    found = lines({"": study()})
    table = figures.borders(found)
    assert [title for title, _ in table.groups] == ["test loss", "training loss"]
    assert [label for label, _ in table.groups[0][1]] == ["LR linear", "LR constant"]
    assert table.groups[0][1][0][1][-1] == "256"


def test_how_trainings_ended_and_whether_a_search_was_at_its_edge():
    table = figures.trainings(lines({"": study(rules=("tuned", "constant"), edge=True)}))
    assert [cells[2] for _, cells in table.groups[0][1]] == ["no"] * 4 + ["yes"]
    assert table.groups[1][1][-1][1][-1] == "3 at the end of the budget"


def test_borders_beside_the_limits_of_a_machine():
    both = study(models=("mlp", "lenet"), rules=("linear",))
    found = lines({"": both}, {("digits", "mlp"): Machine.of(probe())})
    table = figures.borders(found, ["train"])
    assert table.columns[-2:] == ["95 % of speed at", "memory full at"]
    ((title, rows),) = table.groups
    assert title == "training loss"
    assert [cells[-2:] for _, cells in rows] == [["64", "128 to 256"], ["256", "–"]]
    assert all(len(cells) == len(table.columns) for _, cells in rows)


def test_errors_of_the_linear_approximation():
    table = figures.trainings(lines({"": study(rules=("linear",))}))
    place = table.columns.index("linear-approximation error")
    assert [cells[place] for _, cells in table.groups[0][1]][-1] == "2.56 [2.33, 2.84]"
