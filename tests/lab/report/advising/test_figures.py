import io

from rich.console import Console
from tests.lab.advices import advice, no_gain, outcome

from adabatch.lab.report.advising import charts, figures
from adabatch.lab.report.advising.terminal import tables


def test_constant_batch_sizes():
    ((_, rows),) = figures.constant(advice()).groups
    assert [label for label, _ in rows] == ["32", "128 (best)", "512"]
    assert rows[0][1] == ["0.05", "0.1005", "10 [8, 12]"]


def test_schedules():
    ((_, rows),) = figures.growing(advice()).groups
    assert [label for label, _ in rows] == ["early (chosen)", "late"]
    assert rows[0][1] == ["linear", "0.1149", "5.1", "1.6× [1.2, 2.1]", "1.6× [0.9, 2.8]"]


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


def test_tables_of_the_terminal():
    stream = io.StringIO()
    for table in tables(advice()):
        Console(file=stream, width=200).print(table)
    said = stream.getvalue()
    assert "digits, mlp: constant batch sizes" in said
    assert "early (chosen)" in said
    assert "1.6x [1.2, 2.1]" in said
    assert list(tables(no_gain())) == []


def test_the_chart_of_losses_has_a_line_for_each_training_and_a_mark_for_each_end():
    chart = charts.losses(advice())
    names = [trace["name"] for trace in chart["traces"]]
    assert names == ["batch 32"] * 2 + ["batch 128"] * 2 + ["batch 512"] * 2 + ["early", "late"]
    assert chart["traces"][-2]["x"] == [5.0, 5.2]
    assert chart["traces"][-2]["y"] == [0.11, 0.12]
    assert len(set(charts.symbols(advice()).values())) == 3


def test_the_chart_of_ratios_has_both_intervals_and_the_outcome():
    chart = charts.forecasts({"one": advice(outcome=outcome()), "two": advice(), "none": no_gain()})
    rows = [(trace["y"][0], trace["name"], trace["x"][0]) for trace in chart["traces"]]
    assert rows == [
        ("one", "forecast", 1.6), ("one", "forecast", 1.6), ("one", "outcome", 1.5),
        ("two", "forecast", 1.6), ("two", "forecast", 1.6),
    ]  # fmt: skip
    wide, narrow = chart["traces"][:2]
    ends = [(1.6 - each["error_x"]["arrayminus"][0], 1.6 + each["error_x"]["array"][0]) for each in (wide, narrow)]
    assert [tuple(round(end, 9) for end in pair) for pair in ends] == [(0.9, 2.8), (1.2, 2.1)]
