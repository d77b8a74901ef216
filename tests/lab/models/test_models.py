from __future__ import annotations

import pytest
import torch

from adabatch.lab import models


@pytest.mark.parametrize("name", ["small_cnn", "mlp"])
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 8, 10), (1, 28, 10), (3, 5, 2)])
def test_scores_for_each_class(name, channels, size, classes):
    model = models.build(name, in_channels=channels, image_size=size, classes=classes)
    scores = model(torch.randn(4, channels, size, size))
    assert scores.shape == (4, classes)
    scores.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert model.training


@pytest.mark.parametrize("name", ["small_cnn", "mlp"])
def test_initial_weights_come_from_torchs_generator(name):
    built = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = models.build(name, in_channels=1, image_size=8, classes=10)
        built.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(built[0], built[1])
    assert not torch.equal(built[0], built[2])


@pytest.mark.parametrize("name", ["small_cnn", "mlp"])
def test_no_batch_statistics(name):
    """A sample's scores do not depend on its batch, so micro-batches give the gradient of the batch."""
    model = models.build(name, in_channels=1, image_size=8, classes=10)
    batch = torch.randn(6, 1, 8, 8)
    torch.testing.assert_close(model(batch)[:2], model(batch[:2]))


def test_bad_arguments():
    sizes = {"in_channels": 1, "image_size": 8, "classes": 10}
    with pytest.raises(ValueError, match=r"`model` must be one of small_cnn, mlp.*, got 'lenet'"):
        models.build("lenet", **sizes)
    with pytest.raises(ValueError, match="`image_size` must be at least 4, got 3; the network halves the image twice"):
        models.build("small_cnn", **sizes | {"image_size": 3})
    with pytest.raises(ValueError, match="`classes` must be at least 2, got 1"):
        models.build("mlp", **sizes | {"classes": 1})
    with pytest.raises(ValueError, match="`in_channels` must be at least 1, got 0"):
        models.build("mlp", **sizes | {"in_channels": 0})


def test_every_name_has_a_line_about_it():
    assert set(models.names()) <= set(models.__all__)
    for name in models.names():
        assert getattr(models, name).__doc__.partition("\n")[0].endswith(".")
