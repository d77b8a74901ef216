import io

import pytest
from rich.console import Console
from tests.lab.report.page_studies import probe, study

from adabatch.lab.report.scaling.machine import Machine
from adabatch.lab.report.scaling.terminal import borders, tables
from adabatch.lab.report.terminal import plain, whole_width


def test_a_table_for_each_rule_and_loss_then_the_borders():
    found = [plain(table) for table in tables(study())]
    assert [text.splitlines()[0] for text in found] == [
        "digits, mlp, LR linear: to test loss 0.14",
        "digits, mlp, LR linear: to training loss 0.15",
        "digits, mlp, LR constant: to test loss 0.14",
        "digits, mlp, LR constant: to training loss 0.15",
        "digits: borders, in batch sizes",
    ]
    assert found[0].count("\n| ") == 6
    assert "0 of 3" in found[2]
    assert "over " in found[2]


def test_of_many_lines_only_the_borders():
    found = list(tables(study(models=("mlp", "cnn_small", "lenet"), rules=("linear", "sqrt"))))
    assert len(found) == 1
    assert "- cnn_small, LR sqrt" in plain(found[0])


@pytest.mark.parametrize("edge", [False, True])
def test_a_terminal_of_100_columns_is_enough(edge):
    for table in tables(study(rules=("linear", "tuned"), edge=edge, noise=0.2), narrow=True):
        assert whole_width(table) <= 100
        stream = io.StringIO()
        Console(file=stream, width=100).print(table)
        assert "…" not in stream.getvalue()


def test_an_edge_stands_beside_its_lr():
    assert "0.006 [edge]" in plain(next(tables(study(rules=("tuned",), edge=True))))


def test_borders_beside_the_limits_of_a_machine():
    found = study(rules=("linear", "tuned"))
    limits = {("digits", "mlp"): Machine.of(probe())}
    (row, _) = [row for row in plain(borders(found, limits)).splitlines() if "LR linear" in row]
    assert [cell.strip() for cell in row.split("|")][-3:-1] == ["64", "128 to 256"]
    assert whole_width(borders(found, limits, narrow=True)) <= 100
