"""AlexNet, VGG19 and the small network: parameters as published, weights as the authors draw them, naive scores."""

from __future__ import annotations

import pytest
import torch
from tests.lab.models import checks, naive
from torch import nn

from adabatch.lab import models

# For CIFAR-10 bearpaw/pytorch-classification, from whose networks the authors' code derives, prints 2.47 M and 20.04 M;
# for ImageNet the counts are torchvision's `num_params`. All digits that a source does not print are arithmetic, below.
COUNTS = [
    ("alexnet", 32, 10, 2_472_266),
    ("alexnet", 32, 100, 2_495_396),
    ("vgg19_bn", 32, 10, 20_040_522),
    ("vgg19_bn", 32, 100, 20_086_692),
    ("alexnet", 224, 1000, 61_100_840),
    ("vgg19_bn", 224, 1000, 143_678_248),
]
# The large forms have linear layers of some 100 million weights.
SCORES = [
    ("small_cnn", 1, 8, naive.small_cnn),
    ("small_cnn", 3, 7, naive.small_cnn),
    ("alexnet", 3, 32, naive.alexnet_small),
    ("alexnet", 3, 45, naive.alexnet_small),
    ("vgg19_bn", 3, 32, naive.vgg_small),
    pytest.param("alexnet", 3, 128, naive.alexnet_large, marks=pytest.mark.slow),
    pytest.param("vgg19_bn", 3, 128, naive.vgg_large, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "size", "classes", "count"), COUNTS)
def test_parameter_counts_are_the_published_ones(name, size, classes, count):
    checks.check_count(name, size, classes, count)


def test_counts_by_arithmetic():
    counts = {(name, size, classes): count for name, size, classes, count in COUNTS}
    alex = [(3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)]
    assert counts["alexnet", 32, 10] == sum(i * o * k * k + o for i, o, k in alex) + 256 * 10 + 10
    wide = [64, 64, 128, 128, *[256] * 4, *[512] * 8]
    vgg = sum(9 * i * o + 3 * o for i, o in zip([3, *wide], wide, strict=False))
    assert counts["vgg19_bn", 32, 10] == vgg + 512 * 10 + 10


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "channels", "size", "reference"), SCORES)
def test_scores_are_those_of_the_paper(name, channels, size, reference, train):
    checks.check_scores(name, channels, size, reference, train=train)


@pytest.mark.parametrize("name", ["alexnet", "vgg19_bn"])
def test_forward_and_backward(name):
    checks.check_backward(name)


@pytest.mark.parametrize(("name", "size"), [("alexnet", 224), ("vgg19_bn", 224), ("alexnet", 64)])
def test_networks_for_imagenet_keep_their_shapes(name, size):
    assert checks.on_meta(name, size, 1000)(torch.empty(2, 3, size, size, device="meta")).shape == (2, 1000)


def test_weights_start_as_the_authors_draw_them():
    checks.check_convolutions_start("vgg19_bn")
    checks.check_head_starts("alexnet", bias=True)
    torch.manual_seed(2)
    vgg = models.build("vgg19_bn", in_channels=3, image_size=32, classes=100)
    assert vgg.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not vgg.classifier.bias.any()


def test_the_small_alexnet_has_no_dropout_and_no_batch_norm():
    kinds = {type(module) for module in checks.on_meta("alexnet", 32, 10).modules()}
    assert not kinds & {nn.Dropout, nn.BatchNorm2d}
    assert nn.Dropout in {type(module) for module in checks.on_meta("alexnet", 224, 10).modules()}


@pytest.mark.parametrize(("name", "smallest"), [("alexnet", 32), ("vgg19_bn", 32)])
def test_images_that_are_too_small(name, smallest):
    checks.check_smallest(name, smallest)
