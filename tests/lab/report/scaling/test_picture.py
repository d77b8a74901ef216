from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tests.lab.report.page_studies import probe, study
from tests.lab.report.test_picture import colours

from adabatch.lab.report.scaling import charts, picture
from adabatch.lab.report.scaling.lines import lines
from adabatch.lab.report.scaling.machine import Machine


@pytest.mark.parametrize("name", picture.NAMES)
def test_every_line_is_drawn_in_its_colour(tmp_path, name):
    picture.draw(study(), name, tmp_path / "study.png")
    wanted = ("#1A1042", "#FB835F") if name == "curves" else ("#0072B2", "#D55E00")
    for colour in wanted:
        assert colours(tmp_path / "study.png", colour) > 150


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be saved."""
    found = []
    monkeypatch.setattr(picture, "save", lambda figure, path: found.append(figure))
    return found


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_a_row_for_each_network_and_a_column_for_each_loss(tmp_path, drawn):
    picture.draw(study(models=("mlp", "cnn_small", "lenet")), "speedup", tmp_path / "x.png")
    (figure,) = drawn
    assert len(figure.axes) == 6
    heads = [text for text in texts(figure) if " to t" in text]
    assert heads == [f"{name} to {loss}" for name in ("mlp", "cnn_small", "lenet") for loss in
                     ("test loss 0.14", "training loss 0.15")]  # fmt: skip
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["LR linear", "LR constant", "ideal"]


def test_the_headline_says_where_perfect_scaling_ends(tmp_path, drawn):
    picture.draw(study(rules=("linear",)), "updates", tmp_path / "x.png")
    (head, _) = [text for text in texts(drawn[0]) if "perfect scaling ends" in text]
    assert head.startswith("mlp to test loss 0.14; perfect scaling ends at ")
    assert texts(drawn[0])[-1] == "digits: updates to target"


def test_the_picture_shows_what_the_page_shows(tmp_path, drawn):
    """Axes, marks and lines come from the charts of the page."""
    picture.draw(study(), "cost", tmp_path / "x.png")
    chart = charts.cost(lines({"": study()}), "test")
    axes = drawn[0].axes[0]
    assert list(axes.get_xlim()) == pytest.approx([10**end for end in chart["layout"]["xaxis"]["range"]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == chart["layout"]["xaxis"]["ticktext"]
    shown = [list(line.get_ydata()) for line in axes.lines]
    for trace in chart["traces"]:
        assert trace["y"] in shown


def test_texts_stand_inside_and_apart(tmp_path, drawn):
    picture.draw(study(models=("mlp", "cnn_small", "lenet"), edge=True), "updates", tmp_path / "x.png")
    (figure,) = drawn
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    canvas: Any = figure.canvas
    renderer = canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    boxes += [text.get_window_extent(renderer) for legend in figure.legends for text in legend.get_texts()]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
    for axes in figure.axes:
        assert isinstance(axes, Axes)
        heads = [box for box in boxes if box.overlaps(axes.get_window_extent(renderer))]
        assert not heads


def test_a_picture_is_replaced_whole(tmp_path):
    (tmp_path / "study.png").write_text("old")
    picture.draw(study(), "trade", tmp_path / "study.png")
    assert [path.name for path in tmp_path.iterdir()] == ["study.png"]
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")


def test_the_limits_of_the_machine_are_drawn_below_the_borders(tmp_path, drawn):
    picture.draw(study(), "updates", tmp_path / "x.png", machines={("digits", "mlp"): Machine.of(probe())})
    strips = [axes for axes in drawn[0].axes if "machine" in [tick.get_text() for tick in axes.get_yticklabels()]]
    assert len(strips) == 2, "of both losses"
    marks = [line for line in strips[0].lines if line.get_marker() in ("^", "X")]
    assert [line.get_xdata()[0] for line in marks] == pytest.approx([64, 128 * 2**0.5])
