import itertools

import pytest

from adabatch.lab.report import plan_picture as room
from adabatch.lab.report.plan_picture import plan_picture


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
    save = room._save

    def keep(figure, path):
        save(figure, path)
        figures.append(figure)

    monkeypatch.setattr(room, "_save", keep)

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


def test_batch_sizes_have_round_ticks(axes):
    size = axes(forecast(390.0, sizes=tuple(range(128, 5121, 131))))[1]
    assert [text.get_text() for text in size.get_yticklabels()] == ["128", "256", "512", "1,024", "2,048", "4,096"]


def test_a_batch_that_does_not_grow_becomes_nothing(axes):
    assert axes(forecast(90.0))[0].get_title(loc="left") == "a plan: 3,910 updates become 2,933"
    title = axes(forecast(90.0, sizes=(128,)) | {"updates_after": 3910})[0].get_title(loc="left")
    assert title == "a plan: 3,910 updates, as many as with a constant batch"
