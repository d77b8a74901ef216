import pytest
from tests.lab.report.page_branches import FACTORS, FORKS, HARMLESS, WINDOWS, branching, cost_of

from adabatch.lab.report.branching import charts


def drawn(name, **more):
    found = branching(**more)
    return charts.CHARTS[name](found, list(charts.lines([found])))


def of(chart, name, axis, **wanted):
    """The traces of a line in a panel that have these values."""
    return [
        trace
        for trace in chart["traces"]
        if (trace["name"], trace["yaxis"]) == (name, axis) and all(trace.get(k) == v for k, v in wanted.items())
    ]


def test_every_line_has_a_colour_and_forks_come_first():
    names = list(charts.lines([branching()]))
    assert names[:4] == ["at 5 %", "at 15 %", "at 35 %", "at 65 %"]
    assert names[4:] == ["tolerance 0.3 %", "tolerance 1 %", "tolerance 3 %"]
    assert len(set(charts.lines([branching()]).values())) == 7
    more = charts.lines([branching(), branching(forks=(0.1, 0.2))])
    assert list(more)[:3] == ["at 5 %", "at 10 %", "at 15 %"]


def test_costs_with_their_intervals():
    """A panel for each window; marks of forks stand side by side at each batch size."""
    found, chart = branching(), drawn("cost")
    layout = chart["layout"]
    assert [note["text"] for note in layout["annotations"]] == [
        "<b>Window of 1.56 %</b>", "<b>Window of 3.12 %</b>", "<b>Window of 6.25 %</b>",
    ]  # fmt: skip
    (trace,) = of(chart, "at 15 %", "y3")
    cells = [cell for cell in found.cells if (cell.window, cell.fork) == (1 / 16, 0.15)]
    assert trace["y"] == [cell.cost.estimate for cell in cells]
    assert trace["error_y"] == {"low": [c.cost.low for c in cells], "high": [c.cost.high for c in cells]}
    assert trace["mode"] == "lines+markers"
    for number in range(3):
        places = [of(chart, f"at {share} %", "y3")[0]["x"][number] for share in (5, 15, 35, 65)]
        assert places == sorted(places)
        size = 16 * FACTORS[number]
        assert places[0] * places[-1] == pytest.approx(size**2)
        assert places[-1] < 1.2 * size
    assert "batch 128, LR ×2.83" in trace["text"][2]
    assert [shape["y0"] for shape in layout["shapes"]] == [1.0] * 3
    ranges = [layout[axis]["range"] for axis in ("yaxis", "yaxis2", "yaxis3")]
    assert ranges[0] == ranges[1] == ranges[2], "windows are compared on one axis"
    assert {"1", "1.2", "1.4"} <= set(layout["yaxis"]["ticktext"])


def test_costs_that_are_bounds_are_open_marks():
    chart = drawn("cost")
    up = of(chart, "at 5 %", "y")[1]
    assert (up["marker"]["symbol"], up["y"]) == ("bound-up-open", [2.0])
    down = of(chart, "at 65 %", "y")[1]
    assert (down["marker"]["symbol"], down["y"]) == ("bound-down-open", [0.889])


def test_crosses_at_the_truth():
    chart = drawn("cost", truth=True)
    marks, truth = of(chart, "at 35 %", "y2")
    assert truth["marker"]["symbol"] == "x"
    assert truth["y"] == [cost_of(0.35, factor) for factor in FACTORS]
    assert truth["x"] == marks["x"]
    assert truth["text"][0].endswith("in truth 1.08 times the samples")


def test_the_harmless_batches_are_staircases_over_the_training():
    chart = drawn("harmless")
    for axis in ("y", "y2", "y3"):
        for tolerance, factors in HARMLESS.items():
            line, marks = of(chart, f"tolerance {100 * tolerance:g} %", axis)
            sizes = [16 * factor for factor in factors]
            assert line["line"]["shape"] == "hv"
            assert line["x"] == [*(100 * fork for fork in FORKS), 100]
            assert line["y"] == [*sizes, sizes[-1]]
            assert (marks["x"], marks["y"]) == ([100 * fork for fork in FORKS], sizes)
    widths = [of(chart, f"tolerance {share} %", "y")[0]["line"]["width"] for share in ("0.3", "1", "3")]
    assert widths == sorted(widths, reverse=True), "what lies below is wider"
    assert chart["layout"]["yaxis"]["tickvals"] == [16, 32, 64, 128]
    assert len(chart["layout"]["annotations"]) == len(WINDOWS)


def test_the_schedule_is_a_staircase():
    line, marks = drawn("schedule")["traces"]
    assert (line["x"], line["y"]) == ([0, 15, 65, 100], [16, 32, 128, 128])
    assert (marks["x"], marks["y"]) == ([0, 15, 65], [16, 32, 128])
    assert marks["text"][1] == "<b>from 15 % on</b><br>batch 32"


def test_one_window_and_a_schedule_that_does_not_grow():
    assert drawn("cost", windows=(1 / 16,))["layout"]["yaxis"]["domain"] == [0, 1]
    line, _ = drawn("schedule", growth="none")["traces"]
    assert line["y"] == [16, 16]


@pytest.mark.parametrize("name", charts.CHARTS)
def test_every_axis_has_ticks(name):
    layout = drawn(name)["layout"]
    for key in (key for key in layout if key[1:].startswith("axis")):
        assert len(layout[key]["tickvals"]) > 1
    assert charts.TITLES[name]
