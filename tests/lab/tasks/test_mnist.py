from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.lab.tasks.checks import REAL, random_set, write

from adabatch.lab import tasks
from adabatch.lab.training import RunConfig, train


@pytest.fixture
def no_variable(monkeypatch):
    monkeypatch.delenv("ADABATCH_DATA", raising=False)


@pytest.fixture
def folder(tmp_path, no_variable):
    """A folder that holds a small `mnist`, in several files."""
    write(tmp_path / "mnist", "train", *random_set(20, seed=0), files=3)
    write(tmp_path / "mnist", "test", *random_set(7, seed=1))
    return tmp_path


def test_pixels_and_labels_in_order(folder):
    (train_x, train_y), (test_x, test_y) = random_set(20, seed=0), random_set(7, seed=1)
    mean, std = train_x.astype(float).mean(), train_x.astype(float).std(ddof=1)
    data = tasks.get("mnist").load(folder)
    np.testing.assert_allclose(data.x_train[:, 0].numpy(), (train_x - mean) / std, atol=1e-4)
    np.testing.assert_allclose(data.x_test[:, 0].numpy(), (test_x - mean) / std, atol=1e-4)
    assert data.y_train.tolist() == train_y.tolist()
    assert data.y_test.tolist() == test_y.tolist()
    assert (data.x_train.shape, data.x_train.dtype) == ((20, 1, 28, 28), torch.float32)
    assert data.y_train.dtype == torch.int64
    assert (data.classes, data.dataset_size) == (10, 20)


def test_where_the_files_may_be(folder, monkeypatch):
    above = tasks.get("mnist").load(folder)
    for data in (tasks.get("mnist").load(folder / "mnist"), tasks.get("mnist").load(str(folder))):
        assert torch.equal(data.x_train, above.x_train)
    monkeypatch.setenv("ADABATCH_DATA", str(folder))
    assert torch.equal(tasks.get("mnist").load(None).x_train, above.x_train)


def test_it_trains(folder):
    config = RunConfig.for_task("mnist", data=str(folder), batch_size=4, epochs=1, max_batch_size=None, threads=1)
    assert train(config).updates == 5


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "mnist").is_dir(), reason="no MNIST: set ADABATCH_DATA to a folder that holds it")
@pytest.mark.parametrize(("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion_mnist", 0.2860, 0.3530)])
def test_the_real_data(name, mean, std, no_variable):
    """The figures are the published ones of the training pixels, scaled to [0, 1]."""
    data = tasks.get(name).load(REAL)
    assert (len(data.y_train), len(data.y_test)) == (60_000, 10_000)
    assert data.x_train.shape == (60_000, 1, 28, 28)
    black, white = data.x_train.min().item(), data.x_train.max().item()  # pixels of 0 and of 1
    assert -black / (white - black) == pytest.approx(mean, abs=5e-5)
    assert 1 / (white - black) == pytest.approx(std, abs=5e-5)
    counts = np.bincount(data.y_train)
    assert (counts.min(), counts.max()) == ((5421, 6742) if name == "mnist" else (6000, 6000))
