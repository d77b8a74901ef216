import math
from dataclasses import replace

import pytest
from tests.lab.report.page_studies import SIZES, probe, study, updates

from adabatch.lab.report.scaling import charts
from adabatch.lab.report.scaling.lines import lines
from adabatch.lab.report.scaling.machine import Machine
from adabatch.lab.report.scaling.words import believed
from adabatch.lab.scaling import Estimate, ToLoss


@pytest.fixture(scope="module")
def found():
    return lines({"": study(rules=("linear", "constant"))})


def of(chart, name, **wanted):
    """The traces of a line that have these values."""
    return [
        trace
        for trace in chart["traces"]
        if trace["name"] == name and all(trace.get(key) == value for key, value in wanted.items())
    ]


def symbols(chart, name):
    return {trace["marker"]["symbol"]: trace for trace in of(chart, name) if "marker" in trace}


def test_means_seeds_and_bounds_of_updates(found):
    chart = charts.updates(found, "test")
    mean = symbols(chart, "LR linear")["circle"]  # drawn first, then the seeds, then the border
    marks = [trace for trace in of(chart, "LR linear") if "error_y" in trace]
    assert len(marks) == 1
    rows = found[0].rule.test.to_target
    assert marks[0]["x"] == list(SIZES)
    assert marks[0]["y"] == [row.updates.estimate for row in rows]
    assert marks[0]["error_y"] == {
        "low": [row.updates.low for row in rows],
        "high": [row.updates.high for row in rows],
    }
    dots = [trace for trace in of(chart, "LR linear") if trace.get("marker", {}).get("size") == 4]
    assert len(dots[0]["x"]) == 3 * len(SIZES)
    assert sorted(dots[0]["y"]) == sorted(updates(size, critical=300, seed=seed) for size in SIZES for seed in range(3))
    late = symbols(chart, "LR constant")["bound-up-open"]
    assert late["x"] == [64] * 3 + [128] * 3 + [256] * 3
    assert mean is not None


def test_the_ideal_line_falls_in_proportion(found):
    (ideal,) = of(charts.updates(found, "test"), charts.IDEAL)
    first = found[0].rule.test.to_target[0].updates.estimate
    assert ideal["y"][0] == pytest.approx(first)
    assert ideal["y"][0] * ideal["x"][0] == pytest.approx(ideal["y"][1] * ideal["x"][1])
    (speedup,) = of(charts.speedup(found, "test"), charts.IDEAL)
    assert (speedup["y"][0], speedup["y"][1]) == (1, 16)
    (flat,) = of(charts.cost(found, "test"), charts.IDEAL)
    assert flat["y"][0] == flat["y"][1] == found[0].rule.test.to_target[0].samples.estimate


def test_both_forms_are_drawn_and_the_one_to_believe_stronger(found):
    curves = [trace for trace in of(charts.updates(found, "test"), "LR linear") if trace["mode"] == "lines"]
    assert [trace["line"]["dash"] for trace in curves] == ["solid", "dot"]
    fits = found[0].rule.test.fits
    strong = [trace["line"]["width"] == 2 for trace in curves]
    assert strong == [believed(fits).form == 1, believed(fits).form == 2]
    for fit, trace in zip((fits.form_1, fits.form_2), curves, strict=True):
        assert trace["y"] == [fit.updates(x) for x in trace["x"]]


def test_borders_with_their_intervals(found):
    chart = charts.updates(found[:1], "test")
    fit = believed(found[0].rule.test.fits)
    marks = {t["marker"]["symbol"]: t for t in chart["traces"] if t["yaxis"] == "y2"}
    assert list(marks) == ["circle", "square"]
    for symbol, value in (("circle", fit.batch_at_20_percent_more_samples), ("square", fit.stagnation_batch)):
        error = marks[symbol]["error_x"]
        assert marks[symbol]["x"] == [value.estimate]
        assert marks[symbol]["x"][0] - error["arrayminus"][0] == pytest.approx(value.low)
        assert marks[symbol]["x"][0] + error["array"][0] == pytest.approx(value.high)
    (line,) = chart["layout"]["shapes"]
    assert line["x0"] == pytest.approx(256 * 1.02)


def changed(line, **values):
    fits = line.rule.test.fits
    fit = replace(fits.form_1, **values)
    test = replace(line.rule.test, fits=replace(fits, form_1=fit, exponent_needed=None))
    return replace(line, rule=replace(line.rule, test=test))


@pytest.mark.parametrize(
    ("value", "symbol", "at"),
    [(Estimate(1e6, 1e5, None), "arrow-right", 256.0), (Estimate(1.0, 0.0, 3.0), "arrow-left", 16.0)],
)
def test_a_border_far_away_is_an_arrow_at_the_end(found, value, symbol, at):
    line = changed(found[0], batch_at_20_percent_more_samples=Estimate(40.0, 30.0, 50.0), stagnation_batch=value)
    chart = charts.updates([line], "test")
    _, mark = [trace for trace in chart["traces"] if trace["yaxis"] == "y2"]
    assert mark["marker"]["symbol"] == symbol
    assert mark["x"] == [at]
    assert all(math.isfinite(end) for end in (*mark["error_x"]["array"], *mark["error_x"]["arrayminus"]))


def test_bounds_of_a_speedup_point_down(found):
    down = symbols(charts.speedup(found, "test"), "LR constant")["bound-down-open"]
    rows = [row for row in found[1].rule.test.to_target if row.arrived == 0]
    assert down["x"] == [row.batch_size for row in rows]
    assert down["y"] == [row.speedup.high for row in rows]
    up = symbols(charts.seconds(found, "test"), "LR constant")["bound-up-open"]
    assert up["y"] == [row.seconds.low for row in rows]


def test_the_trade_off_has_a_mark_for_each_batch_size_and_curves_through_them(found):
    chart = charts.trade(found, "test")
    (marks,) = of(chart, "LR linear", mode="markers")
    rows = found[0].rule.test.to_target
    assert marks["x"] == [row.updates.estimate for row in rows]
    assert marks["y"] == [row.samples.estimate for row in rows]
    assert "batch 64" in marks["text"][2]
    first = of(chart, "LR linear", mode="lines")[0]
    assert first["y"][0] == pytest.approx(16 * first["x"][0])


def test_learning_curves_by_line_and_batch_size(found):
    chart = charts.curves(found, "train")
    assert len(chart["traces"]) == 2 * len(SIZES) * 3
    assert {trace["yaxis"] for trace in chart["traces"]} == {"y", "y2"}
    place = next(n for n, trace in enumerate(chart["traces"]) if trace["name"] == "batch 64")
    curve = found[0].rule.cells[2].curves[0]
    assert chart["traces"][place]["y"] == [point[3] for point in curve.points]
    for key, column in (("updates", 0), ("samples", 1), ("seconds", 2)):
        assert chart["xs"][key][place] == [point[column] for point in curve.points]
        assert chart["xaxes"][key]["type"] == "log"
    assert [shape["y0"] for shape in chart["layout"]["shapes"]] == [0.15, 0.15]
    other = charts.curves(found, "test")
    assert other["traces"][place]["y"] == [point[4] for point in curve.points]


def test_a_line_without_a_target_is_left_out(found):
    nothing = replace(found[0], rule=replace(found[0].rule, test=ToLoss(target=None)))
    for name, draw in charts.CHARTS.items():
        chart = draw([nothing, found[1]], "test")
        if name != "curves":
            assert of(chart, "LR linear") == [] or not any(trace["y"] for trace in of(chart, "LR linear"))
        assert draw([nothing], "test")["layout"]


@pytest.mark.parametrize("name", charts.CHARTS)
def test_every_chart_has_axes_with_ticks(found, name):
    layout = charts.CHARTS[name](found, "test")["layout"]
    assert len(layout["yaxis"]["tickvals"]) > 1
    assert charts.TITLES[name]


def probed(**changes):
    machine = Machine.of(probe(**changes))
    return lines({"": study(rules=("linear", "constant"))}, {("digits", "mlp"): machine})


def test_the_limits_of_the_machine_stand_below_the_borders():
    chart = charts.updates(probed(), "test")
    below = {trace["marker"]["symbol"]: trace for trace in chart["traces"] if trace["y"] == ["machine"]}
    assert {symbol: trace["x"] for symbol, trace in below.items()} == {
        "triangle-up": [64],
        "x": [pytest.approx(math.sqrt(128 * 256))],
    }
    assert {(trace["name"], trace["yaxis"]) for trace in below.values()} == {(charts.IDEAL, "y2")}
    assert below["x"]["text"] == ["<b>machine</b><br>memory is full at batch 128 to 256"]
    rows = list(dict.fromkeys(trace["y"][0] for trace in chart["traces"] if trace["yaxis"] == "y2"))
    assert (rows[0], rows[-1]) == ("LR linear", "machine")
    assert chart["layout"]["yaxis2"]["range"][0] == len(rows) - 0.5


def test_limits_that_were_not_found_or_lie_far_away_are_not_drawn():
    none = charts.updates(probed(rates={16: 400.0, 256: 1000.0}, full=None), "test")
    far = charts.updates(probed(rates={16: 400.0, 8192: 1000.0}, full=16_384), "test")
    for chart in (none, far):
        assert not [trace for trace in chart["traces"] if trace["y"] == ["machine"]]
    assert charts.span(probed(rates={16: 400.0, 256: 1000.0}, full=512), "test")[1] >= 512


def test_machines_of_several_networks_are_told_apart():
    both = study(models=("mlp", "lenet"), rules=("linear",))
    limits = {("digits", model): Machine.of(probe(model=model)) for model in ("mlp", "lenet")}
    chart = charts.updates(lines({"": both}, limits), "test")
    names = {trace["y"][0] for trace in chart["traces"] if trace.get("yaxis") == "y2"}
    assert names >= {"machine, digits, mlp", "machine, digits, lenet"}
