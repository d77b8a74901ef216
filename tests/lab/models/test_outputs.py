"""Each network's scores are those of a naive re-statement, on fixed weights: a count of parameters sees no order."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from tests.lab.models import naive
from torch import nn

from adabatch.lab import models

# name, channels, image size, what it is compared with; the large forms have linear layers of some 100 million weights
NETWORKS = [
    ("mlp", 1, 8, naive.mlp),
    ("small_cnn", 1, 8, naive.small_cnn),
    ("small_cnn", 3, 7, naive.small_cnn),
    ("alexnet", 3, 32, naive.alexnet_small),
    ("alexnet", 3, 45, naive.alexnet_small),
    ("vgg19_bn", 3, 32, naive.vgg_small),
    ("resnet20", 3, 32, partial(naive.resnet_cifar, 3)),
    ("resnet20", 1, 9, partial(naive.resnet_cifar, 3)),
    ("resnet32", 3, 8, partial(naive.resnet_cifar, 5)),
    ("resnet44", 3, 8, partial(naive.resnet_cifar, 7)),
    ("wrn16_4", 3, 32, naive.wrn16_4),
    ("resnet50", 3, 64, naive.resnet50),
    pytest.param("alexnet", 3, 128, naive.alexnet_large, marks=pytest.mark.slow),
    pytest.param("vgg19_bn", 3, 128, naive.vgg_large, marks=pytest.mark.slow),
]


def with_weights(build, *args, **kwargs) -> nn.Module:
    """The network with weights that no layer leaves as it finds them: norms scale and shift, biases are not 0."""
    with torch.device("meta"):
        model = build(*args, **kwargs)
    model = model.to_empty(device="cpu").double()
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.zero_()
        elif value.ndim == 1 and not name.endswith("bias"):  # of norms: scale, running mean, running variance
            value.uniform_(0.5, 1.5, generator=generator)
        else:
            fan_in = value[0].numel() if value.ndim > 1 else 1
            value.uniform_(-1, 1, generator=generator).mul_(min(1.0, (6 / fan_in) ** 0.5))
    return model


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "channels", "size", "reference"), NETWORKS)
def test_scores_are_those_of_the_paper(name, channels, size, reference, train):
    shape = {"in_channels": channels, "image_size": size, "classes": 7}
    model = with_weights(models.build, name, **shape).train(train)
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randn(3, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.manual_seed(3)  # of dropout
        scores = model(images.clone())
        torch.manual_seed(3)
        wanted = reference(expected, images, train)
    assert scores.std() > 1e-3
    torch.testing.assert_close(scores, wanted, rtol=1e-9, atol=1e-9)
    for key, value in model.state_dict().items():  # running statistics
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (3, 4)])
def test_scores_of_gpt_are_those_of_its_docstring(layers, heads):
    model = with_weights(models.gpt, vocabulary=11, context=9, width=16, layers=layers, heads=heads)
    model.head.weight = model.token.weight  # moving the network from one device to another parts the two
    w = copy.deepcopy(dict(model.state_dict()))
    tokens = torch.randint(11, (2, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        scores, wanted = model(tokens), naive.gpt(w, tokens, layers=layers, heads=heads)
    assert scores.std() > 1e-3
    torch.testing.assert_close(scores, wanted, rtol=1e-9, atol=1e-9)


def test_the_default_gpt_has_four_heads():
    model = models.build("gpt", vocabulary=11, context=9).eval()
    tokens = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = naive.gpt(dict(model.state_dict()), tokens, layers=4, heads=4)
        torch.testing.assert_close(model(tokens), wanted)
