"""The records of a comparison; times told beside ratios agree with them, on page, picture and table."""

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from tests.lab.report.checks import comparison, made
from tests.lab.report.page_folders import write_comparison
from tests.lab.report.test_terminal import cells

from adabatch.lab.comparison import Comparison, Difference, lost_words, unjudged
from adabatch.lab.report import charts, page, picture
from adabatch.lab.report.folders import SavedRun, on_one_clock, read
from adabatch.lab.report.look import colours
from adabatch.lab.report.terminal import compare_table, plain

ROOT = Path(__file__).parents[2]
BUSY = {"fixed-small": (1118.0, 848.0, 1139.0), "adaptive": (888.0, 712.0, 689.0)}  # a machine that did other work
RATIO = 1118 / 888  # the median of 1.26, 1.19 and 1.65


def busy(folder):
    """A comparison whose medians of seconds say another ratio than the paired ones."""
    compare = write_comparison(folder, names=tuple(BUSY))
    for arm in compare["arms"]:
        values = BUSY[arm["name"]]
        arm["train_seconds"] = {"median": median(values), "min": min(values), "max": max(values), "values": values}
        for seed, seconds in enumerate(values):
            file = folder / "runs" / arm["name"] / f"seed-{seed}" / "result.json"
            found = json.loads(file.read_text())
            scale = seconds / found["history"][-1]["seconds"]
            for each in found["history"]:
                each["seconds"] *= scale
            file.write_text(json.dumps(found))
    interval = {"median": RATIO, "low": 0.88, "high": 2.1}
    compare["against_fixed_small"]["adaptive"]["seconds_ratio"] = interval
    (folder / "compare.json").write_text(json.dumps(compare))
    return json.loads((folder / "compare.json").read_text())


@pytest.fixture
def compare(tmp_path):
    return busy(tmp_path)


def test_the_medians_alone_would_say_another_ratio(compare):
    small, adaptive = (arm["train_seconds"]["median"] for arm in compare["arms"])
    assert small / adaptive == pytest.approx(1.57, abs=0.01)
    told = [made(compare).seconds(arm) for arm in made(compare).arms]
    assert told == [1118, pytest.approx(888)]
    assert told[0] / told[1] == pytest.approx(RATIO)


def test_the_terminal_table(compare):
    text = plain(compare_table(made(compare)))
    assert cells(text, "training seconds") == ["1118.00 [848.00, 1139.00]", "888.00 [689.00, 888.00]"]
    assert cells(text, "- faster")[1] == "1.26x [0.88, 2.10]"


def test_the_page(compare, tmp_path):
    text = page.write(tmp_path).read_text(encoding="utf-8").replace("&nbsp;", " ")
    (card,) = re.findall(r'<div class="card figure"><p class="label">faster</p>.*?</section>|$', text)[:1]
    assert "<em>1,118 s</em>" in card
    assert "<em>888 s</em>" in card
    assert "bars: fixed-small's median, and that divided by the ratio" in card.replace("&#x27;", "'")
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", card)]
    assert widths[0] / widths[1] == pytest.approx(RATIO, abs=0.01)
    assert "<td>1,118 [848, 1,139]</td><td>888 [689, 888]</td>" in text
    course = json.loads(re.findall(r'id="data">(.*?)</script>', text)[0])["charts"]["course"]
    ends = {t["meta"]["arm"]: xs[-1] for t, xs in zip(course["traces"], course["xs"]["seconds"], strict=True)}
    assert ends == {"fixed-small": pytest.approx(1118), "adaptive": pytest.approx(888)}


def test_the_rings_and_the_picture(compare, tmp_path, monkeypatch):
    traces = charts.every_run(read(tmp_path).compare, colours(list(BUSY)))["traces"]
    rings = [trace["x"][0] for trace in traces if trace["marker"]["symbol"].endswith("-open")]
    assert rings == [1118, pytest.approx(888)]
    drawn, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **k: drawn.append(a[0]) or plot(self, *a, **k))
    picture.compare_picture(tmp_path, tmp_path / "compare.png")
    ends = [float(xs[-1]) for xs in drawn if isinstance(xs, list) and xs[-1] < 2000]
    assert ends == [pytest.approx(1118), pytest.approx(888)]


def test_time_to_the_target_too(compare):
    found = made(compare)
    small, adaptive = found.arms
    ratio = found.against_fixed_small["adaptive"].seconds_to_target_ratio.median
    assert small.seconds_to_target / found.seconds_to_target(adaptive) == pytest.approx(ratio)
    assert found.seconds_to_target(small) == small.seconds_to_target
    compare["against_fixed_small"]["adaptive"]["seconds_to_target_ratio"]["median"] = None
    assert made(compare).seconds_to_target(adaptive) == adaptive.seconds_to_target


def clocked(histories):
    """The evaluations of each arm's runs at the times that are told of them."""
    runs = {name: [SavedRun({}, {}, history, [], None) for history in seeds] for name, seeds in histories.items()}
    return {name: [run.history for run in seeds] for name, seeds in on_one_clock(runs).items()}


def test_without_fixed_small_each_time_is_its_median(compare):
    alone = compare | {"arms": compare["arms"][1:], "against_fixed_small": {}}
    assert made(alone).seconds(made(alone).arms[0]) == 712
    histories = {"adaptive": [[{"samples": 1, "seconds": second}] for second in (1.0, 2.0, 9.0)]}
    assert [run[0]["seconds"] for run in clocked(histories)["adaptive"]] == [2.0] * 3


def test_runs_of_another_length_stay_as_they_were_measured():
    histories = {
        "fixed-small": [
            [{"samples": 1, "seconds": 1.0}, {"samples": 2, "seconds": 2.0}],
            [{"samples": 1, "seconds": 9.0}],
        ]
    }
    assert clocked(histories) == histories


positive = st.floats(1e-3, 1e6)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=9))
def test_any_times_end_where_the_median_ratio_says(pairs):
    bases, times = zip(*pairs, strict=True)
    histories = {
        "fixed-small": [[{"samples": 1, "seconds": second}] for second in bases],
        "mine": [[{"samples": 1, "seconds": second / 2}, {"samples": 2, "seconds": second}] for second in times],
    }
    found = clocked(histories)
    base, (half, end) = found["fixed-small"][0][0], found["mine"][0]
    assert base["seconds"] == pytest.approx(median(bases))
    assert base["seconds"] / end["seconds"] == pytest.approx(median(b / t for b, t in pairs))
    assert half["seconds"] == pytest.approx(end["seconds"] / 2)


def test_what_is_read_is_what_was_written():
    compare = comparison() | {"format": 1, "settings": {"adaptive": {"lr": 0.1}}}
    found = made(compare)
    again = found.to_json()
    assert made(again) == found
    for name in ("task", "model", "device", "seeds", "target", "margin", "settings"):
        assert again[name] == compare[name]
    for arm, same in zip(again["arms"], compare["arms"], strict=True):
        assert {name: arm[name] for name in same} == same
    assert list(again) == ["format", "task", "model", "device", "versions", "seeds", "target", "margin", "settings",
                           "arms", "against_fixed_small", "against_fixed_large"]  # fmt: skip


def test_the_kept_demo_is_read_and_written_as_it_is():
    demo = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text())
    assert list(Comparison.faults(demo)) == []
    assert json.dumps(made(demo).to_json()) == json.dumps(demo)


def test_a_whole_comparison_has_no_faults_and_others_are_named():
    assert list(Comparison.faults(comparison())) == []
    (fault,) = Comparison.faults(comparison() | {"margin": None})
    assert fault == "with margin None, which must be a number from 0 on"
    assert "without the arm 'fixed-small'" in Comparison.faults(comparison() | {"arms": comparison()["arms"][1:]})
    assert "without a value for each seed of fixed-small" in Comparison.faults(comparison() | {"seeds": [0, 1]})


def test_why_an_interval_shows_nothing():
    assert unjudged(Difference(0.0, -0.1, 0.1)) == ""
    assert unjudged(Difference(0.0, None, None)) == "one seed gives no interval"
    assert unjudged(Difference(0.0, 0.0, 0.0)) == "the seeds do not differ, so their spread is unknown"
    assert unjudged(Difference(0.0, -0.1, 0.1), "1 of its 3 runs diverged") == "1 of its 3 runs diverged"


def test_runs_that_learned_nothing_in_words():
    arm, base = made(comparison()).arms[:2]
    assert lost_words(arm, base) == ""
    assert lost_words(replace(arm, diverged=1), base) == "1 of its 3 runs diverged"
    both = "1 of its 3 runs and 3 of the baseline's 3 runs diverged"
    assert lost_words(replace(arm, diverged=1), replace(base, diverged=3)) == both
    assert lost_words(replace(arm, at_chance=3), base) == ""
    assert lost_words(arm, replace(base, at_chance=2)) == "2 of the baseline's 3 runs ended no better than chance"
