import pytest
from matplotlib import image
from matplotlib.figure import Figure
from tests.report.checks import comparison, write

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


def test_arms_that_diverged_are_named_above_the_picture(tmp_path, monkeypatch):
    heads = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **_: heads.append(text))
    compare = comparison()
    write(tmp_path, compare)
    compare_picture(tmp_path, tmp_path / "compare.png")
    compare["arms"][2]["diverged"] = 2
    write(tmp_path, compare)
    compare_picture(tmp_path, tmp_path / "compare.png")
    assert [head.count("\n") for head in heads] == [0, 1]
    assert heads[1].endswith("\nadaptive diverged in 2 of 3 runs")


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
