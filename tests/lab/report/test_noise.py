"""The gradient's noise and a policy's decisions on pages."""

import json

import pytest
from tests.lab.report.page_folders import DECIDED, N, write_comparison, write_run

from adabatch.lab.report import charts, contents, figures, headline
from adabatch.lab.report.folders import Together, read
from adabatch.lab.report.look import colours

PANELS = ("accuracy", "batch", "noise", "lr")


@pytest.fixture(params=[True, False], ids=["finished", "unfinished"])
def run(request, tmp_path):
    write_run(tmp_path, DECIDED, finished=request.param)
    return read(tmp_path)


def drawn(run):
    return charts.lines({"mine": [run]}, PANELS, colours(["mine"]), target=None)


def test_the_noise_is_that_of_evaluations_and_decisions(run):
    found = run.noise()
    assert [clock for clock, *_ in found] == [one["samples"] for one in run.history]  # decisions are at these
    assert found[0] == (N, -300.0, 12.0, None)
    assert found[2] == (3 * N, 60.0, 36.0, 150.0)
    assert [one["batch_size"] for one in run.decided()] == [size for _, size, _ in run.staircase()][1:]


def test_a_decision_between_two_evaluations_is_a_place_of_its_own(tmp_path):
    write_run(tmp_path, DECIDED)
    values = json.loads((tmp_path / "result.json").read_text())
    values["decisions"][0]["clock"] -= 100
    values["decisions"][0]["observation"]["noise"] = {"noise_scale": None, "low": 5.0, "high": None}
    (tmp_path / "result.json").write_text(json.dumps(values))
    assert read(tmp_path).noise()[1] == (2 * N - 100, None, 5.0, None)


def test_the_band_leaves_the_panel_where_it_has_no_end(run):
    chart = drawn(run)
    band, line = (trace for trace in chart["traces"] if trace["yaxis"] == "y3")
    count = len(run.history)
    assert band["fill"] == "toself"
    assert band["y"][:3] == [12.0, 24.0, 36.0]
    assert band["y"][-3:] == [150.0, 100.0, 1e30]
    assert line["y"][:3] == [None, 40.0, 60.0]
    assert line["text"][0] == "<b>mine</b> noise scale not told from inf<br>95 %: 12 to inf"
    assert line["text"][2] == "<b>mine</b> noise scale 60<br>95 %: 36 to 150"
    assert (len(line["y"]), len(band["y"])) == (count, 2 * count)
    for key, xs in chart["xs"].items():
        assert [len(each) for each in xs] == [len(trace["y"]) for trace in chart["traces"]], key
    low, high = chart["layout"]["yaxis3"]["range"]
    assert low < 1.0792  # log10 of 12
    assert high < 4  # the open end does not stretch the axis


def test_a_decision_is_a_mark_that_says_why(run):
    marks = [trace for trace in drawn(run)["traces"] if trace["yaxis"] == "y2" and trace["mode"] == "markers"]
    ((xs, ys, text),) = [(trace["x"], trace["y"], trace["text"]) for trace in marks]
    changes = run.staircase()[1:]
    assert list(zip(xs, ys, strict=True)) == [(clock, size) for clock, size, _ in changes]
    assert text == [f"<b>mine</b> {reason}" for *_, reason in changes]


def test_without_a_policy_there_is_neither(tmp_path):
    write_run(tmp_path)
    run = read(tmp_path)
    assert (run.noise(), run.decided()) == ([], [])
    assert contents._panels({"mine": [run]}) == ("accuracy", "batch", "lr")
    assert not [t for t in drawn(run)["traces"] if t["yaxis"] == "y3"]
    assert "oise" not in contents.of_run(run).body.partition("<details")[0]


def test_the_page_says_what_was_measured(run):
    body = contents.of_run(run).body
    assert 'class="chart tallest" id="course"' in body
    assert "where its band has no upper end, the gradient is not told from noise." in body
    table = figures.history(run)
    assert table.columns[-2:] == ["noise scale", "of it 95 %"]
    assert [cells[-2:] for _, cells in table.groups[0][1]][:2] == [["–", "12 to infinite"], ["40", "24 to 100"]]
    lead = headline.of_run(run).lead
    if run.result is None:
        assert lead.endswith("The noise scale at the end is 100 samples, 95 %: 60 to 250.")
    else:
        end = "The noise scale at the end is 280 samples, 95 %: 168 to infinite, from halves of one of 4 updates."
        assert lead.endswith(end)


def test_a_batch_that_stayed_says_why(tmp_path):
    write_run(tmp_path, DECIDED)
    values = json.loads((tmp_path / "result.json").read_text())
    values["decisions"] = []
    (tmp_path / "result.json").write_text(json.dumps(values))
    lead = headline.of_run(read(tmp_path)).lead
    assert lead.startswith("The batch stayed at 16 samples: noise scale 280, noise_scale asks for 150 to inf: stays")


def test_arms_and_runs_side_by_side_have_it_too(tmp_path):
    write_comparison(tmp_path / "compare", seeds=2)
    for seed in range(2):
        write_run(tmp_path / "compare" / "runs" / "adaptive" / f"seed-{seed}", DECIDED)
    found = contents.of_comparison(read(tmp_path / "compare"))
    assert {trace["meta"]["arm"] for trace in found.charts["course"]["traces"] if trace["yaxis"] == "y3"} == {
        "adaptive"
    }
    assert "The noise scale of the first seed was measured for the policy" in found.body
    write_run(tmp_path / "other")
    both = Together({"a": read(tmp_path / "compare" / "runs" / "adaptive" / "seed-0"), "b": read(tmp_path / "other")})
    assert [trace["meta"]["arm"] for trace in contents.of_together(both).charts["course"]["traces"]].count("a") == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation": 3}, "with observation 3, which must be a record or null"),
        ({"observation": {"noise": [1]}}, r"with noise \[1\], which must be a record or null"),
        ({"observation": {"noise": {"low": 1.0, "high": 2.0}}}, "without noise_scale"),
        (
            {"observation": {"noise": {"noise_scale": 3.0, "low": -1.0, "high": 2.0}}},
            "with low -1.0, which must be a number from 0 on",
        ),
    ],
)
def test_a_damaged_decision_is_named(tmp_path, change, message):
    write_run(tmp_path, DECIDED)
    values = json.loads((tmp_path / "result.json").read_text())
    values["decisions"][0] |= change
    (tmp_path / "result.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"`folder` must hold files of this package, got .* {message}"):
        read(tmp_path)
