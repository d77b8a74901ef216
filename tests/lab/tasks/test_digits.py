from __future__ import annotations

from collections import Counter

import pytest
import torch
from sklearn.datasets import load_digits

from adabatch.lab import tasks


@pytest.fixture(scope="module")
def data():
    return tasks.get("digits").load(None)


def test_shapes_and_normalisation(data):
    assert data.x_train.shape == (1437, 1, 8, 8)
    assert data.x_test.shape == (360, 1, 8, 8)
    assert (data.x_train.dtype, data.y_train.dtype) == (torch.float32, torch.int64)
    assert (data.classes, data.dataset_size) == (10, 1437)
    assert data.x_train.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.x_train.std().item() == pytest.approx(1, abs=1e-5)


def test_it_is_scikit_learns_data_each_scan_once(data):
    """Rescaled to 0 to 16 the scans are the originals with their labels, and none is in both parts."""
    original = load_digits()
    images = torch.cat([data.x_train, data.x_test]).flatten(1)
    low, high = images.min(), images.max()
    levels = ((images - low) / (high - low) * 16).round().int()
    labels = torch.cat([data.y_train, data.y_test])
    ours = Counter((*row, label) for row, label in zip(levels.tolist(), labels.tolist(), strict=True))
    pairs = zip(original.data.astype(int).tolist(), original.target.tolist(), strict=True)
    assert ours == Counter((*row, label) for row, label in pairs)


def test_every_class_is_in_both_parts(data):
    assert data.y_train.bincount(minlength=10).min() > 120
    assert data.y_test.bincount(minlength=10).min() > 20


def test_the_split_is_fixed(data):
    torch.manual_seed(5)
    again = tasks.get("digits").load(None)
    assert torch.equal(again.x_train, data.x_train)
    assert data.y_train[:12].tolist() == FIRST_LABELS


FIRST_LABELS = [2, 8, 2, 6, 6, 7, 1, 9, 8, 5, 2, 8]


def test_a_data_folder_is_refused():
    with pytest.raises(ValueError, match="`data` must not be given for digits, got 'here'; its data come with scikit"):
        tasks.get("digits").load("here")


def test_to_moves_all(data):
    moved = data.to("meta")
    assert {t.device.type for t in (moved.x_train, moved.y_train, moved.x_test, moved.y_test)} == {"meta"}
    assert (moved.classes, moved.note) == (data.classes, data.note)
