import itertools
import json
import textwrap

import pytest
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tests.lab.report.checks import comparison, made, write

from adabatch.lab.report import headline, picture
from adabatch.lab.report.picture import compare_picture, plan_picture, probe_picture, spread


def colours(path, colour):
    """The number of pixels of nearly that colour."""
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
    """The titles of the picture and of its right half."""
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
    assert head[:-1] == textwrap.wrap(headline.of_comparison(made(compare)).title, 118)
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


@pytest.mark.parametrize(("name", "error"), [("config.json", FileNotFoundError), ("result.json", ValueError)])
def test_a_missing_run_leaves_no_picture(tmp_path, name, error):
    write(tmp_path, comparison())
    (tmp_path / "runs" / "adaptive" / "seed-1" / name).unlink()
    with pytest.raises(error, match="seed-1"):
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


LONG = "a-name-as-long-as-they-get-in-a-study-with-a-momentum-of-0.98"


def own_arms(folder, names):
    """A comparison of arms that are all like adaptive under other names."""
    like = comparison()["arms"][2]
    compare = {
        **comparison(),
        "arms": [{**like, "name": name} for name in names],
        "against_fixed_small": {},
        "against_fixed_large": {},
    }
    write(folder, compare)
    compare_picture(folder, folder / "compare.png")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be saved."""
    figures = []
    save = picture.save

    def keep(figure, path):
        save(figure, path)
        figures.append(figure)

    monkeypatch.setattr(picture, "save", keep)
    return figures


@pytest.mark.parametrize(
    "names", [["mine"], ["mine", LONG], [*"abcdefgh", LONG, f"{LONG}-too"], [f"{LONG}-{k}" for k in range(10)]]
)
def test_names_run_over_nothing(tmp_path, drawn, names):
    own_arms(tmp_path, names)
    (figure,) = drawn
    plots = [axes.get_window_extent() for axes in figure.axes]
    labels = [text for axes in figure.axes for text in axes.texts]
    assert len(labels) == 2 * len(names)
    assert {"".join(label.get_text().rsplit(maxsplit=1)[0].split("\n")) for label in labels} == set(names)
    boxes = [label.get_window_extent() for label in labels]
    assert not [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
    numbers = [text.get_window_extent() for axes in figure.axes for text in axes.get_yticklabels()]
    assert not [1 for box in boxes for other in [*plots, *numbers] if box.overlaps(other)]


def test_ten_own_arms_are_told_apart(tmp_path, drawn):
    own_arms(tmp_path, [f"mine-{place}" for place in range(10)])
    lines = [line for line in drawn[0].axes[0].lines if len(line.get_xdata()) > 2]
    ends = [line for line in drawn[0].axes[0].lines if len(line.get_xdata()) == 1]
    assert len({line.get_color() for line in lines}) == 10
    assert len({line.get_linestyle() for line in lines} | {str(line._dash_pattern) for line in lines}) >= 5
    assert len({line.get_marker() for line in ends}) == 10


def test_a_cut_axis_is_marked(tmp_path, drawn):
    own_arms(tmp_path, ["mine"])
    for axes in (drawn[0].axes[0], drawn[0].axes[2]):
        assert axes.get_ylim()[0] > 0
        assert axes.get_ylabel() == "test accuracy, %, axis cut"
        assert any(line.get_transform() == axes.transAxes for line in axes.lines)


def test_a_name_is_no_formula(tmp_path, drawn):
    own_arms(tmp_path, ["$x^$", "$a$"])
    assert [label.get_text() for label in drawn[0].axes[0].texts] == ["$x^$ 95.2", "$a$ 95.2"]


def test_many_batch_sizes_have_ticks_at_powers_of_two(tmp_path, drawn):
    compare = comparison(names=("fixed-small", "adaptive"))
    compare["arms"][1]["batch_sizes"] = list(range(16, 257, 12))
    write(tmp_path, compare)
    compare_picture(tmp_path, tmp_path / "compare.png")
    assert [text.get_text() for text in drawn[0].axes[1].get_yticklabels()] == ["16", "32", "64", "128", "256"]


@pytest.mark.parametrize(
    ("wanted", "low", "found"),
    [
        ([1.0, 3.0], 0, [1.0, 3.0]),
        ([3.0, 3.0], 0, [3.0, 2.0]),
        ([0.0, 0.2, 0.4], 0, [0.5, 1.5, 2.5]),
        ([0.0, 0.2], -5, [-0.8, 0.2]),
    ],
)
def test_labels_are_moved_apart(wanted, low, found):
    names = [str(place) for place in range(len(wanted))]
    made = spread(dict(zip(names, wanted, strict=True)), dict.fromkeys(names, 1.0), low)
    assert [made[name] for name in names] == pytest.approx(found)


def test_an_arm_that_ends_below_a_cut_axis_is_named_without_a_mark(tmp_path, drawn):
    compare = comparison()
    compare["arms"][3]["test_accuracy"]["values"] = [0.1, 0.1, 0.1]
    write(tmp_path, compare)
    for seed in compare["seeds"]:  # it had been as good as the others
        file = tmp_path / "runs" / "uncoupled" / f"seed-{seed}" / "result.json"
        values = json.loads(file.read_text())
        for entry in values["history"][:-3]:
            entry["test_accuracy"] = 0.8
        file.write_text(json.dumps(values))
    compare_picture(tmp_path, tmp_path / "compare.png")
    for axes in (drawn[0].axes[0], drawn[0].axes[2]):
        low, high = axes.get_ylim()
        ends = [line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
        assert len(ends) == 3
        assert all(low <= end <= high for end in ends)
        assert "uncoupled 10.0" in [label.get_text() for label in axes.texts]


# A forecast.


def forecast(noise, *, sizes=(128, 256), dataset_size=50_000, epochs=10):
    starts = [dataset_size * epochs * place // len(sizes) for place in range(len(sizes))]
    before = [noise] * len(sizes)
    return {
        "starts_samples": starts,
        "sizes": list(sizes),
        "lr": [0.1] * len(sizes),
        "lr_before": [0.1] * len(sizes),
        "noise_scale": [noise * sizes[0] / size for size in sizes],
        "noise_scale_before": before,
        "updates_before": 3910,
        "updates_after": 2933,
        "dataset_size": dataset_size,
        "epochs": epochs,
    }


@pytest.fixture
def axes(monkeypatch, tmp_path):
    """Draws a forecast and returns its three plots."""
    figures = []
    save = picture.save

    def keep(figure, path):
        save(figure, path)
        figures.append(figure)

    monkeypatch.setattr(picture, "save", keep)

    def draw(values):
        plan_picture(values, tmp_path / "plan.png", title="a plan")
        assert (tmp_path / "plan.png").exists()
        return figures[-1].axes

    return draw


@pytest.mark.parametrize("noise", [390.0, 17.3, 0.004, 5e6])
@pytest.mark.parametrize("sizes", [(128,), (128, 256), tuple(range(128, 5121, 128))])
def test_the_noise_axis_has_ticks(axes, noise, sizes):
    scale = axes(forecast(noise, sizes=sizes))[2]
    assert len(scale.get_yticklabels()) >= 2
    low, high = scale.get_ylim()
    assert all(low <= tick <= high for tick in scale.get_yticks())


@pytest.mark.parametrize(("dataset_size", "epochs"), [(1437, 20), (50_000, 200), (1_281_167, 90), (10**10, 3)])
def test_numbers_along_the_axis_stand_apart(axes, dataset_size, epochs):
    found = axes(forecast(390.0, dataset_size=dataset_size, epochs=epochs))[2]
    boxes = [label.get_window_extent() for label in found.get_xticklabels() if label.get_text()]
    assert len(boxes) > 3
    assert all(a.x1 + 4 < b.x0 for a, b in itertools.pairwise(sorted(boxes, key=lambda box: box.x0)))


def test_a_plan_on_more_workers_has_a_line_for_each_batch_size(axes):
    updates = [{"workers": count, "seconds": 1 / count**0.5} for count in (1, 4, 16)]
    sizes = [{"batch_size": 2**power, "updates": updates} for power in range(4, 13)]
    workers = {"link": {"name": "mine"}, "sizes": sizes}
    found = axes(forecast(390.0, sizes=(128, 256)) | {"workers": workers})
    (below,) = (each for each in found if each.get_xlabel() == "workers")
    labels = [line.get_label() for line in below.get_lines()]
    assert labels == ["batch 16", "batch 64", "batch 256", "batch 1,024", "batch 4,096"], "of nine, five"
    assert list(below.get_lines()[0].get_ydata()) == pytest.approx([100, 50, 25])
    assert [text.get_text() for text in below.get_xticklabels()] == ["1", "4", "16"]


def test_a_plan_is_drawn_against_the_constant_batch_that_it_names(axes):
    lines = axes(forecast(390.0) | {"batch_size": 64})[1].get_lines()
    (constant,) = [line for line in lines if line.get_label() == "constant batch"]
    assert set(constant.get_ydata()) == {64}


def test_batch_sizes_have_round_ticks(axes):
    size = axes(forecast(390.0, sizes=tuple(range(128, 5121, 131))))[1]
    assert [text.get_text() for text in size.get_yticklabels()] == ["128", "256", "512", "1,024", "2,048", "4,096"]


def test_of_one_evaluation_the_spread_is_drawn(tmp_path, monkeypatch):
    drawn = []
    lines = Axes.vlines
    monkeypatch.setattr(Axes, "vlines", lambda self, *given, **more: drawn.append(given) or lines(self, *given, **more))
    write(tmp_path, comparison())
    compare_picture(tmp_path, tmp_path / "compare.png")
    assert drawn == []
    for file in tmp_path.glob("runs/*/*/result.json"):
        found = json.loads(file.read_text())
        file.write_text(json.dumps(found | {"history": found["history"][-1:]}))
    heads = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **_: heads.append(text))
    compare_picture(tmp_path, tmp_path / "compare.png")
    assert len(drawn) == 2 * 4
    assert "mean of 3 seeds, bar: one standard deviation" in heads[0]
    _, (low,), (high,) = drawn[0]
    assert high - low == pytest.approx(2 * 0.2)


def test_a_batch_that_does_not_grow_becomes_nothing(axes):
    assert axes(forecast(90.0))[0].get_title(loc="left") == "a plan: 3,910 updates become 2,933"
    title = axes(forecast(90.0, sizes=(128,)) | {"updates_after": 3910})[0].get_title(loc="left")
    assert title == "a plan: 3,910 updates, as many as with a constant batch"
