from tests.lab.advices import advice, growing, no_gain, outcome

from adabatch.lab.report.advising import charts


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
        ("one", "forecast", 1.6), ("one", "forecast", 1.6), ("one, outcome", "outcome", 1.5),
        ("two", "forecast", 1.6), ("two", "forecast", 1.6),
    ]  # fmt: skip
    wide, narrow = chart["traces"][:2]
    ends = [(1.6 - each["error_x"]["arrayminus"][0], 1.6 + each["error_x"]["array"][0]) for each in (wide, narrow)]
    assert [tuple(round(end, 9) for end in pair) for pair in ends] == [(0.9, 2.8), (1.2, 2.1)]


def test_what_is_known_by_a_bound_alone_is_an_arrow():
    far = growing("early", (None, 1.8, None), (None, 1.5, None))
    wide, narrow = charts.forecasts({"one": advice(growing=(far,))})["traces"]
    assert (wide["x"], narrow["x"]) == ([1.5], [1.8])
    assert {trace["marker"]["symbol"] for trace in (wide, narrow)} == {"arrow-right"}
    nothing = growing("early", (None, 0.0, None), (None, 0.0, None))
    assert charts.forecasts({"one": advice(growing=(nothing,))})["traces"] == []
