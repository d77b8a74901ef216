import json
from pathlib import Path

import pytest

from adabatch.lab.recipes import _pictures

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


@pytest.fixture
def figure_of(monkeypatch, tmp_path):
    figures = []
    save = _pictures._save

    def keep(figure, path):
        save(figure, path)
        figures.append(figure)

    monkeypatch.setattr(_pictures, "_save", keep)

    def draw(drawing, name):
        drawing(json.loads((RESULTS / f"{name}.json").read_text()), tmp_path / f"{name}.png")
        return figures[-1]

    return draw


def test_the_batch_grows_in_steps_at_the_tokens_of_the_ramp(figure_of):
    size = figure_of(_pictures.gpt_ramp_picture, "gpt_ramp").axes[2]
    ramp = size.lines[1]
    assert ramp.get_drawstyle() == "steps-pre"
    xs, ys = ramp.get_xdata(), ramp.get_ydata()
    jumps = {xs[place - 1]: ys[place] for place in range(1, len(xs)) if ys[place] != ys[place - 1]}
    assert jumps == {307_200: 16, 614_400: 24}
    assert [label.get_text() for label in size.get_yticklabels()] == ["8", "16", "24"]


def test_the_lr_jumps_where_the_batch_grows(figure_of):
    lr = figure_of(_pictures.gpt_ramp_picture, "gpt_ramp").axes[3].lines[1]
    xs = list(lr.get_xdata())
    assert [x for x in xs if xs.count(x) == 2] == [307_200, 307_200, 614_400, 614_400]


@pytest.mark.parametrize(
    ("drawing", "name", "cut"),
    [(_pictures.dont_decay_picture, "dont_decay", 8), (_pictures.scaled_start_picture, "scaled_start", 1)],
)
def test_cut_accuracy_axes_are_marked(figure_of, drawing, name, cut):
    found = [axes for axes in figure_of(drawing, name).axes if axes.get_ylim()[0] > 30]
    assert len(found) == cut
    for axes in found:
        assert any(line.get_transform() == axes.transAxes for line in axes.lines)
