from __future__ import annotations

import pytest
import torch
from tests.lab.models.checks import with_weights
from tests.lab.models.naive import drn_scores
from torch import nn

from adabatch.lab import models


@pytest.mark.parametrize(("train", "size"), [(True, 16), (False, 13)])
def test_scores_against_the_layers_written_out(train, size):
    model = with_weights(models.drn, in_channels=3, image_size=size, classes=4).train(train)
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        scores, wanted = model(images.clone()), drn_scores(weights, images, train)
    assert scores.shape == (2, 4, size, size)
    assert scores.std() > 1e-3
    torch.testing.assert_close(scores, wanted, rtol=1e-9, atol=1e-9)


def test_the_parameters_are_as_many_as_said():
    count = sum(
        parameter.numel() for parameter in models.build("drn", in_channels=3, image_size=72, classes=11).parameters()
    )
    assert count == 392_603
    assert f"{count:,}" in models.drn.__doc__


def test_the_image_shrinks_four_times_and_a_pixel_sees_far():
    """Each layer from the second group on works on a quarter of the sides; dilation alone reaches over the image."""
    model = models.drn(image_size=64)
    sizes = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, output, name=name: sizes.update({name: output.shape[-1]}))
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    model.eval()(images)[0, :, 32, 32].sum().backward()
    assert sizes.pop("conv1") == 32
    assert {size for name, size in sizes.items() if name.startswith("layer1")} == {32}
    assert {size for name, size in sizes.items() if not name.startswith("layer1")} == {16}
    assert not images.grad[1].any()
    reached = images.grad[0].abs().sum(0).nonzero()
    assert (reached.min(0).values <= 2).all()
    assert (reached.max(0).values >= 61).all()


def test_residual_blocks_begin_as_their_shortcut():
    assert models.zero_init(models.drn()) == 7


def test_a_gradient_reaches_all_parameters_and_the_smallest_image_fits():
    model = models.build("drn", in_channels=1, image_size=4, classes=2)
    model(torch.randn(3, 1, 4, 4)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(ValueError, match="`image_size` must be at least 4, got 3; the network halves the image twice"):
        models.build("drn", in_channels=1, image_size=3, classes=2)
