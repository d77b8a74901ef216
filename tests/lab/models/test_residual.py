"""ResNets and the wide one: parameters as published, weights as the authors draw them, naive scores."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tests.lab.models import checks, naive

from adabatch.lab import models

# He et al. (1512.03385, table 6) print 0.27, 0.46 and 0.66 M for ResNet-20, 32 and 44, without the 2,752 parameters of
# 1x1 shortcuts. WRN-16-4: a table of replications. ResNet-50: torchvision's `num_params`. All digits that a source does
# not print are arithmetic, below.
COUNTS = [
    ("resnet20", 32, 10, 272_474),
    ("resnet20", 32, 100, 278_324),
    ("resnet32", 32, 10, 466_906),
    ("resnet44", 32, 10, 661_338),
    ("wrn16_4", 32, 10, 2_748_890),
    ("resnet50", 224, 1000, 25_557_032),
]
SCORES = [
    ("resnet20", 3, 32, partial(naive.resnet_cifar, 3)),
    ("resnet20", 1, 9, partial(naive.resnet_cifar, 3)),
    ("resnet32", 3, 8, partial(naive.resnet_cifar, 5)),
    ("resnet44", 3, 8, partial(naive.resnet_cifar, 7)),
    ("wrn16_4", 3, 32, naive.wrn16_4),
    ("resnet50", 3, 64, naive.resnet50),
]


@pytest.mark.parametrize(("name", "size", "classes", "count"), COUNTS)
def test_parameter_counts_are_the_published_ones(name, size, classes, count):
    checks.check_count(name, size, classes, count)


def test_counts_by_arithmetic():
    counts = {(name, size, classes): count for name, size, classes, count in COUNTS}
    for blocks, name in ((3, "resnet20"), (5, "resnet32"), (7, "resnet44")):
        stem = 3 * 16 * 9 + 2 * 16
        first = [(16, 16), (16, 32), (32, 64)]
        convolutions = sum(9 * (i * o + (2 * blocks - 1) * o * o) + 2 * blocks * 2 * o for i, o in first)
        shortcuts = sum(i * o + 2 * o for i, o in first[1:])
        assert counts[name, 32, 10] == stem + convolutions + shortcuts + 64 * 10 + 10
        assert shortcuts == 2752
    printed = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66}
    assert {name: round((counts[name, 32, 10] - 2752) / 1e6, 2) for name in printed} == printed


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "channels", "size", "reference"), SCORES)
def test_scores_are_those_of_the_paper(name, channels, size, reference, train):
    checks.check_scores(name, channels, size, reference, train=train)


@pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet44", "wrn16_4"])
def test_forward_and_backward(name):
    checks.check_backward(name)


def test_resnet50_keeps_the_shapes_of_imagenet():
    assert checks.on_meta("resnet50", 224, 1000)(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


def test_resnet50_halves_in_the_3x3_convolutions():
    model = checks.on_meta("resnet50", 224, 1000)
    strides = [tuple(m.stride) for n, m in model.named_modules() if n.endswith(".conv2")]
    assert strides.count((2, 2)) == 3
    assert {tuple(m.stride) for n, m in model.named_modules() if n.endswith(".conv1") and "layer" in n} == {(1, 1)}
    assert "layer1.0.downsample.0.weight" in model.state_dict()  # torchvision's names
    assert {"conv1.weight", "bn1.running_mean", "fc.bias"} <= set(model.state_dict())


@pytest.mark.parametrize("name", ["resnet44", "wrn16_4", "resnet50"])
def test_convolutions_start_as_the_authors_draw_them(name):
    checks.check_convolutions_start(name)


@pytest.mark.parametrize(("name", "bias"), [("resnet20", True), ("wrn16_4", False)])
def test_linear_layers_start_as_the_authors_draw_them(name, bias):
    checks.check_head_starts(name, bias=bias)


def test_shortcuts_change_the_shape_only_where_they_must():
    names = [name for name in checks.on_meta("resnet20", 32, 10).state_dict() if name.endswith("downsample.0.weight")]
    assert names == ["layer2.0.downsample.0.weight", "layer3.0.downsample.0.weight"]
    wide = [name for name in checks.on_meta("wrn16_4", 32, 10).state_dict() if name.endswith("shortcut.weight")]
    assert wide == [f"block{stage}.0.shortcut.weight" for stage in (1, 2, 3)]


@pytest.mark.parametrize(("name", "smallest"), [("resnet20", 4), ("wrn16_4", 4), ("resnet50", 32)])
def test_images_that_are_too_small(name, smallest):
    checks.check_smallest(name, smallest)


def test_same_seed_same_weights():
    def weights() -> torch.Tensor:
        torch.manual_seed(5)
        return next(models.build("resnet20", in_channels=3, image_size=32, classes=10).parameters())

    assert torch.equal(weights(), weights())
