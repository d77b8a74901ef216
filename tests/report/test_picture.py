import json
import textwrap

import pytest
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tests.report.checks import comparison, write

from adabatch.report import headline
from adabatch.report.picture import compare_picture, probe_picture


def colours(path, colour):
    """How many pixels are of nearly that colour."""
    wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    pixels = image.imread(path)[..., :3]
    return int((abs(pixels - wanted).max(axis=-1) < 0.02).sum())


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_arm_is_drawn_in_its_colour(tmp_path, seeds):
    write(tmp_path, comparison(seeds=seeds))
    compare_picture(tmp_path, tmp_path / "compare.png")
    for colour in ("#0072B2", "#D55E00", "#CC79A7", "#009E73"):
        assert colours(tmp_path / "compare.png", colour) > 300


def test_only_what_is_there_is_drawn(tmp_path):
    write(tmp_path, comparison(names=("fixed-small", "adaptive")))
    compare_picture(tmp_path, tmp_path / "compare.png")
    assert colours(tmp_path / "compare.png", "#CC79A7") == 0
    assert colours(tmp_path / "compare.png", "#D55E00") > 300


def heads_of(folder, compare, monkeypatch):
    """What stands above the picture, and above its right half."""
    heads, titles = [], []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **_: heads.append(text))
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **_: titles.append(text))
    write(folder, compare)
    compare_picture(folder, folder / "compare.png")
    return heads[0].split("\n"), titles[1]


@pytest.mark.parametrize(("verdict", "right"), [("shown", "... in less time"), ("worse", "... against time")])
def test_the_title_is_the_headline(tmp_path, monkeypatch, verdict, right):
    compare = comparison()
    compare["against_fixed_small"]["adaptive"]["within_margin"] = {"verdict": verdict, "words": verdict}
    head, title = heads_of(tmp_path, compare, monkeypatch)
    assert head[:-1] == textwrap.wrap(headline.of_comparison(compare).title, 118)
    assert head[-1].endswith("on cpu: mean of 3 seeds, band: one standard deviation; time: by ratios paired by seed")
    assert title == right


def test_arms_that_diverged_are_named_above_the_picture(tmp_path, monkeypatch):
    compare = comparison()
    compare["arms"][3]["diverged"] = 1
    head, title = heads_of(tmp_path, compare, monkeypatch)
    assert (head[0][:9], head[-1]) == ("adaptive,", "uncoupled diverged in 1 of 3 runs")
    compare["arms"][2]["diverged"] = 2
    head, title = heads_of(tmp_path, compare, monkeypatch)
    assert head[0] == "adaptive diverged in 2 of 3 runs: no gain is shown."
    assert head[-1] == "adaptive diverged in 2 of 3 runs and uncoupled diverged in 1 of 3 runs"
    assert title == "... against time"


def test_a_run_that_diverged_and_was_stopped_is_drawn_as_far_as_it_came(tmp_path):
    compare = comparison()
    compare["arms"][3]["diverged"] = 1
    write(tmp_path, compare)
    file = tmp_path / "runs" / "uncoupled" / "seed-1" / "result.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps(found | {"history": found["history"][:3], "samples": 4311}))
    compare_picture(tmp_path, tmp_path / "compare.png")
    assert colours(tmp_path / "compare.png", "#D55E00") > 300


def test_a_missing_run_leaves_no_picture(tmp_path):
    write(tmp_path, comparison())
    (tmp_path / "runs" / "adaptive" / "seed-1" / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match="seed-1"):
        compare_picture(tmp_path, tmp_path / "compare.png")
    assert not list(tmp_path.glob("*.png*"))


def test_a_picture_is_replaced_whole(tmp_path):
    write(tmp_path, comparison())
    (tmp_path / "compare.png").write_text("old")
    compare_picture(tmp_path, tmp_path / "compare.png")
    assert image.imread(tmp_path / "compare.png").shape[0] > 500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compare.json", "compare.png", "runs"]


def test_the_throughput_curve_is_drawn(tmp_path):
    curve = [
        {"batch_size": size, "samples_per_second": {"median": 100.0 * size, "min": 90.0 * size, "max": 110.0 * size}}
        for size in (16, 32, 64)
    ]
    probe = {"task": "digits", "model": "cnn_small", "device": "cpu", "repeats": 9, "curve": curve}
    probe_picture(probe, tmp_path / "probe.png")
    assert colours(tmp_path / "probe.png", "#0072B2") > 300
