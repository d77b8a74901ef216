import re
from dataclasses import replace

import pytest
from tests.lab.report.page_folders import GROWING, write_comparison, write_run

from adabatch.lab.report import page
from adabatch.lab.report import page_charts as charts
from adabatch.lab.report.page_data import read
from adabatch.lab.report.page_plot import colours


@pytest.fixture
def found(tmp_path):
    write_comparison(tmp_path)
    return read(tmp_path)


@pytest.fixture
def paint(found):
    return colours(list(found.runs))


def test_throughput_by_batch_size(found, paint):
    rates = {arm["name"]: arm["samples_per_second"] for arm in found.compare["arms"]}
    chart = charts.throughput(rates, paint)
    by_arm = {trace["meta"]["arm"]: trace for trace in chart["traces"]}
    assert by_arm["adaptive"]["x"] == [16, 32, 64, 128, 256]
    assert by_arm["adaptive"]["y"] == [rates["adaptive"][str(size)] for size in (16, 32, 64, 128, 256)]
    assert by_arm["fixed-large"]["x"] == [256]
    assert chart["layout"]["xaxis"]["ticktext"] == ["16", "32", "64", "128", "256"]
    assert {name: trace["line"]["dash"] for name, trace in by_arm.items()} == {
        "fixed-small": "solid",
        "fixed-large": "dot",
        "adaptive": "solid",
        "uncoupled": "dash",
    }


def test_a_mark_for_every_run_and_a_ring_for_every_arm(found, paint):
    traces = charts.every_run(found, paint)["traces"]
    dots = [trace for trace in traces if len(trace["x"]) == 3]
    rings = [trace for trace in traces if trace["marker"]["symbol"].endswith("-open")]
    assert [trace["meta"]["arm"] for trace in dots] == [trace["meta"]["arm"] for trace in rings] == list(paint)
    assert dots[0]["x"] == found.compare["arms"][0]["train_seconds"]["values"]
    assert dots[0]["y"] == [100 * value for value in found.compare["arms"][0]["test_accuracy"]["values"]]
    assert dots[0]["text"][1].startswith("<b>fixed-small</b>, seed 1<br>")
    assert rings[0]["y"] == [100 * found.compare["arms"][0]["test_accuracy"]["mean"]]
    assert len({trace["marker"]["symbol"] for trace in dots}) == 4


def test_intervals_are_those_of_the_comparison(found, paint):
    compare = found.compare
    chart = charts.accuracy_intervals(compare, paint)
    (trace,) = [trace for trace in chart["traces"] if trace["meta"]["arm"] == "adaptive"]
    difference = compare["against_fixed_small"]["adaptive"]["accuracy_difference"]
    assert trace["x"] == [pytest.approx(100 * difference["mean"])]
    assert trace["x"][0] + trace["error_x"]["array"][0] == pytest.approx(100 * difference["high"])
    assert trace["x"][0] - trace["error_x"]["arrayminus"][0] == pytest.approx(100 * difference["low"])
    assert [line["x0"] for line in chart["layout"]["shapes"]] == [0, -1]
    low, high = chart["layout"]["xaxis"]["range"]
    assert low < 100 * min(arm["accuracy_difference"]["low"] for arm in compare["against_fixed_small"].values())
    assert high > 0


def test_time_ratios(found, paint):
    chart = charts.time_intervals(found.compare, paint)
    assert [trace["meta"]["arm"] for trace in chart["traces"]] == ["fixed-large", "adaptive", "uncoupled"]
    ratio = found.compare["against_fixed_small"]["adaptive"]["seconds_ratio"]
    assert chart["traces"][1]["x"] == [ratio["median"]]
    assert chart["traces"][1]["texttemplate"] == f"{ratio['median']:.2f}× [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    assert chart["layout"]["shapes"][0]["x0"] == 1


def test_one_seed_draws_no_interval(tmp_path, paint):
    write_comparison(tmp_path, seeds=1)
    found = read(tmp_path)
    for chart in (charts.accuracy_intervals(found.compare, paint), charts.time_intervals(found.compare, paint)):
        assert not any("error_x" in trace for trace in chart["traces"])
    assert len(charts.every_run(found, paint)["traces"]) == 4


def test_an_arm_has_one_mark_in_all_charts(found):
    """Also in one that tells of some arms only."""
    paint = colours(list(found.runs))
    (trace,) = charts.throughput({"uncoupled": {"16": 1.0}}, paint)["traces"]
    dots = [trace for trace in charts.every_run(found, paint)["traces"] if trace["name"] == "uncoupled"]
    assert dots[0]["marker"]["symbol"] == trace["marker"]["symbol"]


def test_intervals_of_many_arms_have_room(found, paint):
    chart = charts.time_intervals(found.compare, paint)
    assert chart["layout"]["height"] >= 45 * 3


def test_throughput_is_drawn_of_more_than_one_batch_size(tmp_path):
    write_comparison(tmp_path / "one", names=("fixed-small",))
    write_comparison(tmp_path / "two", names=("fixed-small", "fixed-large"))
    write_run(tmp_path / "run", replace(GROWING, growth=None))
    for name, drawn in (("one", False), ("two", True), ("run", False)):
        text = page.write(tmp_path / name).read_text()
        assert ('id="throughput"' in text) is drawn
        assert re.search("amples per second", text)
    assert charts.differ_in_size([{"16": 1.0}, {"16": 2.0}, {"32": 1.0}])
    assert not charts.differ_in_size([{"16": 1.0}, {}])
