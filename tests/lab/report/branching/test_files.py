import csv
import io

import pytest
from matplotlib import image
from tests.lab.report.page_branches import FACTORS, FORKS, WINDOWS, branching
from tests.lab.report.test_picture import colours

from adabatch.lab.report.branching import charts, files
from adabatch.lab.report.scaling import files as shared

NAMES = [
    "branch.png", "branch-harmless.png", "branch-schedule.png", "branch.csv", "branch-harmless.csv",
    "branch-schedule.csv",
]  # fmt: skip


def rows_of(name, **more):
    return list(csv.DictReader(io.StringIO(files.sheets(branching(**more))[name])))


def test_the_files_of_a_branching(tmp_path):
    assert files.write(branching(), tmp_path) == NAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    assert image.imread(tmp_path / files.PICTURE).shape[0] > 600


def test_without_matplotlib_there_are_the_csv_files(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert files.write(branching(), tmp_path) == NAMES[3:]


@pytest.mark.parametrize("name", files.NAMES)
def test_every_line_is_drawn_in_its_colour(tmp_path, name):
    found = branching(truth=True)
    files.draw(found, name, tmp_path / "x.png")
    lines = charts.lines([found])
    wanted = {"cost": list(lines.values())[:4], "harmless": list(lines.values())[4:], "schedule": ["#D55E00"]}[name]
    for colour in wanted:
        assert colours(tmp_path / "x.png", colour) > 100


def test_the_picture_shows_what_the_page_shows(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(files, "save", lambda figure, path: saved.append(figure))
    found = branching()
    for name in files.NAMES:
        files.draw(found, name, tmp_path / "x.png")
    cost, harmless, schedule = saved
    chart = charts.CHARTS["cost"](found, list(charts.lines([found])))
    assert len(cost.axes) == len(harmless.axes) == 3
    assert list(cost.axes[0].get_xlim()) == pytest.approx([10**end for end in chart["layout"]["xaxis"]["range"]])
    assert harmless.axes[0].get_xlim() == (0, 100)
    assert [axes.get_xlabel() for axes in cost.axes] == ["", "", "batch size"], "below the last panel"
    assert [list(line.get_ydata()) for line in schedule.axes[0].lines] == [[16, 32, 128, 128], [16, 32, 128]]
    assert schedule.axes[0].lines[0].get_drawstyle() == "steps-post"
    names = [[text.get_text() for legend in figure.legends for text in legend.get_texts()] for figure in saved]
    assert names == [list(charts.lines([found]))[:4], list(charts.lines([found]))[4:], []]
    assert [figure.texts[-1].get_text() for figure in saved] == [
        "digits, mlp: what a larger batch costs", "digits, mlp: the largest batch that does no harm",
        "digits, mlp: the schedule",
    ]  # fmt: skip


@pytest.mark.parametrize("name", files.NAMES)
def test_texts_stand_inside_and_apart(tmp_path, monkeypatch, name):
    saved = []
    monkeypatch.setattr(files, "save", lambda figure, path: saved.append(figure))
    files.draw(branching(truth=True), name, tmp_path / "x.png")
    (figure,) = saved
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts if text.get_text()]
    boxes += [text.get_window_extent(renderer) for legend in figure.legends for text in legend.get_texts()]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
        assert not any(box.overlaps(axes.get_window_extent(renderer)) for axes in figure.axes)


def test_a_row_for_each_window_fork_and_batch_size():
    found, rows = branching(truth=True), rows_of("branch.csv", truth=True)
    assert len(rows) == len(WINDOWS) * len(FORKS) * len(FACTORS)
    row, cell = rows[4], found.cells[4]
    assert (row["task"], row["loss"], row["batch_size"], row["factor"]) == ("digits", "test", "64", "4")
    assert [float(row[key]) for key in ("window", "fork", "lr_factor", "samples_ratio", "samples_ratio_high")] == [
        cell.window, cell.fork, 2.0, cell.cost.estimate, cell.cost.high,
    ]  # fmt: skip
    assert float(row["true_samples_ratio"]) == cell.truth
    assert rows_of("branch.csv")[4]["true_samples_ratio"] == ""


def test_a_row_for_each_window_tolerance_and_fork():
    rows = rows_of("branch-harmless.csv")
    assert len(rows) == len(WINDOWS) * 3 * len(FORKS)
    used = [row for row in rows if row["in_schedule"] == "True"]
    assert [(row["fork"], row["batch_size"]) for row in used] == [
        ("0.05", "16"), ("0.15", "32"), ("0.35", "32"), ("0.65", "128"),
    ]  # fmt: skip


def test_a_row_for_each_batch_size_of_the_schedule():
    rows = rows_of("branch-schedule.csv")
    assert [(row["from_share"], row["batch_size"]) for row in rows] == [("0.0", "16"), ("0.15", "32"), ("0.65", "128")]


def test_files_are_replaced(tmp_path):
    (tmp_path / "a.csv").write_text("old")
    assert shared.written(tmp_path, {}, lambda name, path: None, {"a.csv": "x\n"}) == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "x\n"
