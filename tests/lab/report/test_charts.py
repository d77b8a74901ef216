import json
import re
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from tests.lab.report.page_folders import GROWING, N, write_comparison, write_run

from adabatch.lab.report import charts, page
from adabatch.lab.report.charts import AXES, lines, spread_words
from adabatch.lab.report.folders import read
from adabatch.lab.report.look import colours

PANELS = ("accuracy", "batch", "lr")


@pytest.fixture
def found(tmp_path):
    write_comparison(tmp_path)
    return read(tmp_path)


def drawn(found, **changes):
    return lines(found.runs, PANELS, colours(list(found.runs)), **{"target": 0.95, **changes})


def curve(chart, arm, panel):
    """The trace of an arm that answers the pointer, in the panel with that number, and its place among all traces."""
    axis = "y" if panel == 0 else f"y{panel + 1}"
    ((place, trace),) = [
        (place, trace)
        for place, trace in enumerate(chart["traces"])
        if trace["meta"]["arm"] == arm and trace["yaxis"] == axis and "text" in trace
    ]
    return place, trace


def test_accuracy_is_the_mean_over_seeds_with_its_spread(found):
    chart = drawn(found)
    place, trace = curve(chart, "adaptive", 0)
    histories = [run.history for run in found.runs["adaptive"]]
    values = [[100 * history[k]["test_accuracy"] for history in histories] for k in range(14)]
    assert trace["y"] == pytest.approx([fmean(value) for value in values])
    assert f"{fmean(values[3]):.2f} ± {stdev(values[3]):.2f} %" in trace["text"][3]
    assert chart["xs"]["seconds"][place] == pytest.approx(
        [fmean(history[k]["seconds"] for history in histories) for k in range(14)]
    )
    (band,) = [t for t in chart["traces"] if t["meta"]["arm"] == "adaptive" and t.get("fill") == "toself"]
    assert band["y"][3] == pytest.approx(fmean(values[3]) - stdev(values[3]))
    assert band["y"][-4] == pytest.approx(fmean(values[3]) + stdev(values[3]))


def test_every_trace_has_its_places_on_every_axis(found):
    chart = drawn(found)
    for key in AXES:
        assert [len(xs) for xs in chart["xs"][key]] == [len(trace["y"]) for trace in chart["traces"]]
    assert [trace["x"] for trace in chart["traces"]] == chart["xs"]["samples"]


def test_the_batch_size_is_a_staircase_where_it_grew(found):
    chart = drawn(found)
    place, trace = curve(chart, "adaptive", 1)
    assert trace["line"]["shape"] == "hv"
    sizes = dict(zip(trace["x"], trace["y"], strict=True))
    assert [sizes[k * N] for k in (0, 1, 2, 3, 4, 6, 8, 14)] == [16, 16, 32, 32, 64, 128, 256, 256]
    updates = dict(zip(trace["x"], chart["xs"]["updates"][place], strict=True))
    assert [updates[k * N] for k in (2, 4, 14)] == [180, 270, 376]


def test_the_lr_is_that_in_force(found):
    _, trace = curve(drawn(found), "adaptive", 2)
    assert trace["mode"] == "lines+markers"
    # 0.006 x 0.7 every two epochs, doubled with the batch: x1.4 until the batch stops growing.
    assert trace["y"][:5] == pytest.approx([0.006, 0.006, 0.0084, 0.0084, 0.01176])
    _, trace = curve(drawn(found), "uncoupled", 2)
    assert trace["y"][2] == pytest.approx(0.0042)


def test_the_target_is_a_line(found):
    layout = drawn(found)["layout"]
    assert layout["shapes"][0]["y0"] == 95
    assert any(note["text"] == "target 95 %" for note in layout["annotations"])
    assert "shapes" not in drawn(found, target=None)["layout"]


def test_panels_do_not_overlap(found):
    layout = drawn(found)["layout"]
    domains = [layout[key]["domain"] for key in ("yaxis", "yaxis2", "yaxis3")]
    assert domains[0][1] == 1
    assert domains[2][0] == pytest.approx(0)
    assert domains[0][0] > domains[1][1] > domains[1][0] > domains[2][1] > domains[2][0]


def test_the_ends_can_be_told_apart(found):
    low, high = drawn(found)["layout"]["yaxis"]["range"]
    ends = [fmean(100 * run.history[-1]["test_accuracy"] for run in runs) for runs in found.runs.values()]
    assert low % 5 == 0
    assert min(ends) - 20 < low <= min(ends) - 15
    assert high > max(ends)


def test_runs_evaluated_at_different_samples_are_drawn_one_by_one(tmp_path):
    write_comparison(tmp_path, names=("fixed-small", "adaptive"))
    file = tmp_path / "runs" / "adaptive" / "seed-1" / "result.json"
    values = json.loads(file.read_text())
    del values["history"][4]
    values["decisions"].pop()
    file.write_text(json.dumps(values))
    chart = drawn(read(tmp_path))
    own = [t for t in chart["traces"] if t["meta"]["arm"] == "adaptive" and t["yaxis"] == "y" and "text" in t]
    assert sorted(len(trace["y"]) for trace in own) == [13, 14, 14]
    assert not any(trace.get("fill") for trace in chart["traces"] if trace["meta"]["arm"] == "adaptive")
    place, _ = curve(chart, "adaptive", 1)
    assert chart["xs"]["seconds"][place][-1] == read(tmp_path).runs["adaptive"][0].history[-1]["seconds"]


def test_loss_of_a_run(tmp_path):
    write_run(tmp_path)
    run = read(tmp_path)
    chart = lines({"this run": [run]}, ("accuracy", "loss", "batch", "lr"), {"this run": "#D55E00"}, target=None)
    losses = [trace for trace in chart["traces"] if trace["yaxis"] == "y2"]
    assert [trace["line"]["dash"] for trace in losses] == ["solid", "dot"]
    assert losses[0]["y"] == [found["test_loss"] for found in run.history]
    assert losses[1]["y"] == [found["train_loss"] for found in run.history]


def test_lr_of_a_run_is_told_where_it_was_measured(tmp_path):
    write_run(tmp_path)
    run = read(tmp_path)
    chart = lines({"this run": [run]}, ("accuracy", "lr"), {"this run": "#D55E00"}, target=None)
    (trace,) = [trace for trace in chart["traces"] if trace["yaxis"] == "y2"]
    assert trace["y"] == [found["lr"] for found in run.history]
    assert trace["x"] == [found["samples"] for found in run.history]
    assert trace["mode"] == "lines+markers"


def test_the_pointer_is_told_batch_size_and_lr(found):
    _, trace = curve(drawn(found), "adaptive", 0)
    assert trace["text"][2].endswith(" %<br>batch 32, LR 0.0084")


def test_a_cut_axis_says_so(found):
    layout = drawn(found)["layout"]
    assert layout["yaxis"]["cut"] is True
    assert layout["annotations"][0]["text"] == "<b>Test accuracy</b>, % (axis cut at 75)"
    whole = {"adaptive": [_lost(run) for run in found.runs["adaptive"]]}
    layout = lines(whole, PANELS, colours(list(whole)), target=None)["layout"]
    assert layout["yaxis"]["cut"] is False
    assert layout["annotations"][0]["text"] == "<b>Test accuracy</b>, %"


def _lost(run):
    return replace(
        run, history=[entry | {"test_accuracy": 0.1 * (place == 3)} for place, entry in enumerate(run.history)]
    )


def test_one_evaluation_is_a_mark_with_its_value(found):
    once = {name: [replace(run, history=run.history[-1:]) for run in runs] for name, runs in found.runs.items()}
    chart = lines(once, PANELS, colours(list(once)), target=None)
    told = [trace["texttemplate"] for trace in chart["traces"] if "texttemplate" in trace]
    assert told == [
        f"{name} {fmean(ends):.1f} ± {stdev(ends):.1f} %"
        for name, runs in once.items()
        for ends in [[100 * run.history[0]["test_accuracy"] for run in runs]]
    ]
    assert not any("texttemplate" in trace for trace in drawn(found)["traces"])
    run = once["adaptive"][0]
    chart = lines({"this run": [run]}, PANELS, {"this run": "#D55E00"}, target=None)
    told = [trace["texttemplate"] for trace in chart["traces"] if "texttemplate" in trace]
    assert told == [f"{100 * run.history[0]['test_accuracy']:.1f} %"]


def test_a_mark_beside_curves_is_told_by_the_legend_alone(found):
    some = {**found.runs, "adaptive": [replace(run, history=run.history[-1:]) for run in found.runs["adaptive"]]}
    chart = lines(some, PANELS, colours(list(some)), target=None)
    assert not any("texttemplate" in trace for trace in chart["traces"])


def test_a_target_a_little_above_the_curves_is_on_the_axis(found):
    ends = [100 * entry["test_accuracy"] for runs in found.runs.values() for run in runs for entry in run.history]
    for target, shown in ((max(ends) + 1, True), (max(ends) + 30, False)):
        low, high = drawn(found, target=target / 100)["layout"]["yaxis"]["range"]
        assert (high > target) is shown
        assert high - max(ends) < 0.4 * (high - low)


def test_what_is_drawn_of_seeds_is_said(found):
    once = {name: [replace(run, history=run.history[-1:]) for run in runs] for name, runs in found.runs.items()}
    assert spread_words(found.runs) == "Mean over seeds; the band is one standard deviation."
    assert spread_words(once, "the seeds") == "Mean over the seeds ± one standard deviation."


def test_ten_arms_differ_in_dashes_and_marks(found):
    runs = {f"mine-{place}": found.runs["adaptive"] for place in range(10)}
    chart = lines(runs, PANELS, colours(list(runs)), target=None)
    marks = [trace["marker"]["symbol"] for trace in chart["traces"] if trace["yaxis"] == "y" and "marker" in trace]
    assert len(set(marks)) == 10
    dashes = {trace["line"]["dash"] for trace in chart["traces"] if trace["yaxis"] == "y" and "line" in trace}
    assert len(dashes) == 5


# The small charts.


@pytest.fixture
def paint(found):
    return colours(list(found.runs))


def test_throughput_by_batch_size(found, paint):
    rates = {arm.name: arm.samples_per_second for arm in found.compare.arms}
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
    traces = charts.every_run(found.compare, paint)["traces"]
    dots = [trace for trace in traces if len(trace["x"]) == 3]
    rings = [trace for trace in traces if trace["marker"]["symbol"].endswith("-open")]
    assert [trace["meta"]["arm"] for trace in dots] == [trace["meta"]["arm"] for trace in rings] == list(paint)
    assert dots[0]["x"] == list(found.compare.arms[0].train_seconds.values)
    assert dots[0]["y"] == [100 * value for value in found.compare.arms[0].test_accuracy.values]
    assert dots[0]["text"][1].startswith("<b>fixed-small</b>, seed 1<br>")
    assert rings[0]["y"] == [100 * found.compare.arms[0].test_accuracy.mean]
    assert len({trace["marker"]["symbol"] for trace in dots}) == 4


def test_intervals_are_those_of_the_comparison(found, paint):
    against = found.compare.against_fixed_small
    chart = charts.accuracy_intervals(against, found.compare.margin, paint)
    (trace,) = [trace for trace in chart["traces"] if trace["meta"]["arm"] == "adaptive"]
    difference = against["adaptive"].accuracy_difference
    assert trace["x"] == [pytest.approx(100 * difference.mean)]
    assert trace["x"][0] + trace["error_x"]["array"][0] == pytest.approx(100 * difference.high)
    assert trace["x"][0] - trace["error_x"]["arrayminus"][0] == pytest.approx(100 * difference.low)
    assert [line["x0"] for line in chart["layout"]["shapes"]] == [0, -1]
    low, high = chart["layout"]["xaxis"]["range"]
    assert low < 100 * min(arm.accuracy_difference.low for arm in against.values())
    assert high > 0


def test_time_ratios(found, paint):
    chart = charts.time_intervals(found.compare.against_fixed_small, paint)
    assert [trace["meta"]["arm"] for trace in chart["traces"]] == ["fixed-large", "adaptive", "uncoupled"]
    ratio = found.compare.against_fixed_small["adaptive"].seconds_ratio
    assert chart["traces"][1]["x"] == [ratio.median]
    assert chart["traces"][1]["texttemplate"] == f"{ratio.median:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}]"
    assert chart["layout"]["shapes"][0]["x0"] == 1


def test_one_seed_draws_no_interval(tmp_path, paint):
    write_comparison(tmp_path, seeds=1)
    found = read(tmp_path)
    against = found.compare.against_fixed_small
    intervals = charts.accuracy_intervals(against, found.compare.margin, paint), charts.time_intervals(against, paint)
    for chart in intervals:
        assert not any("error_x" in trace for trace in chart["traces"])
    assert len(charts.every_run(found.compare, paint)["traces"]) == 4


def test_an_arm_has_one_mark_in_all_charts(found):
    """So it is in a chart of only some arms."""
    paint = colours(list(found.runs))
    (trace,) = charts.throughput({"uncoupled": {"16": 1.0}}, paint)["traces"]
    dots = [trace for trace in charts.every_run(found.compare, paint)["traces"] if trace["name"] == "uncoupled"]
    assert dots[0]["marker"]["symbol"] == trace["marker"]["symbol"]


def test_intervals_of_many_arms_have_room(found, paint):
    chart = charts.time_intervals(found.compare.against_fixed_small, paint)
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
