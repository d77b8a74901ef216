"""Times agree with the ratios beside them in the table, on the page and in the picture."""

import json
import re
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from tests.lab.report.checks import made
from tests.lab.report.page_folders import BUSY, RATIO, write_busy_comparison
from tests.lab.report.test_terminal import cells

from adabatch.lab.report import charts, page, picture
from adabatch.lab.report.folders import SavedRun, on_one_clock, read
from adabatch.lab.report.look import colours
from adabatch.lab.report.terminal import compare_table, plain


@pytest.fixture
def compare(tmp_path):
    return write_busy_comparison(tmp_path)


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


def clocked(histories):
    """The evaluations of each arm's runs with the times that are shown."""
    runs = {name: [SavedRun({}, {}, history, [], None) for history in seeds] for name, seeds in histories.items()}
    return {name: [run.history for run in seeds] for name, seeds in on_one_clock(runs).items()}


def test_without_fixed_small_each_time_is_its_median():
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
