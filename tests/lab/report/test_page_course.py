import json
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from tests.lab.report.page_folders import N, write_comparison, write_run

from adabatch.lab.report.page_course import AXES, course, spread_words
from adabatch.lab.report.page_data import read
from adabatch.lab.report.page_plot import colours

PANELS = ("accuracy", "batch", "lr")


@pytest.fixture
def found(tmp_path):
    write_comparison(tmp_path)
    return read(tmp_path)


def drawn(found, **changes):
    return course(found.runs, PANELS, colours(list(found.runs)), **{"target": 0.95, **changes})


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
    chart = course({"this run": [run]}, ("accuracy", "loss", "batch", "lr"), {"this run": "#D55E00"}, target=None)
    losses = [trace for trace in chart["traces"] if trace["yaxis"] == "y2"]
    assert [trace["line"]["dash"] for trace in losses] == ["solid", "dot"]
    assert losses[0]["y"] == [found["test_loss"] for found in run.history]
    assert losses[1]["y"] == [found["train_loss"] for found in run.history]


def test_lr_of_a_run_is_told_where_it_was_measured(tmp_path):
    write_run(tmp_path)
    run = read(tmp_path)
    chart = course({"this run": [run]}, ("accuracy", "lr"), {"this run": "#D55E00"}, target=None)
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
    layout = course(whole, PANELS, colours(list(whole)), target=None)["layout"]
    assert layout["yaxis"]["cut"] is False
    assert layout["annotations"][0]["text"] == "<b>Test accuracy</b>, %"


def _lost(run):
    return replace(
        run, history=[entry | {"test_accuracy": 0.1 * (place == 3)} for place, entry in enumerate(run.history)]
    )


def test_one_evaluation_is_a_mark_with_its_value(found):
    once = {name: [replace(run, history=run.history[-1:]) for run in runs] for name, runs in found.runs.items()}
    chart = course(once, PANELS, colours(list(once)), target=None)
    told = [trace["texttemplate"] for trace in chart["traces"] if "texttemplate" in trace]
    assert told == [
        f"{name} {fmean(ends):.1f} ± {stdev(ends):.1f} %"
        for name, runs in once.items()
        for ends in [[100 * run.history[0]["test_accuracy"] for run in runs]]
    ]
    assert not any("texttemplate" in trace for trace in drawn(found)["traces"])
    run = once["adaptive"][0]
    chart = course({"this run": [run]}, PANELS, {"this run": "#D55E00"}, target=None)
    told = [trace["texttemplate"] for trace in chart["traces"] if "texttemplate" in trace]
    assert told == [f"{100 * run.history[0]['test_accuracy']:.1f} %"]


def test_a_mark_beside_curves_is_told_by_the_legend_alone(found):
    some = {**found.runs, "adaptive": [replace(run, history=run.history[-1:]) for run in found.runs["adaptive"]]}
    chart = course(some, PANELS, colours(list(some)), target=None)
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
    chart = course(runs, PANELS, colours(list(runs)), target=None)
    marks = [trace["marker"]["symbol"] for trace in chart["traces"] if trace["yaxis"] == "y" and "marker" in trace]
    assert len(set(marks)) == 10
    dashes = {trace["line"]["dash"] for trace in chart["traces"] if trace["yaxis"] == "y" and "line" in trace}
    assert len(dashes) == 5
