"""The networks of the papers: parameter counts as published, initial weights as the authors' code draws them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from adabatch.lab import models

# Sources of the counts. AlexNet and VGG19_BN for CIFAR-10: bearpaw/pytorch-classification, from whose networks the
# authors' code derives, prints 2.47 M and 20.04 M. ResNet-20, 32, 44: He et al. (1512.03385, table 6) print 0.27, 0.46
# and 0.66 M without the 2,752 parameters of 1x1 shortcuts. WRN-16-4: a table of replications prints 2,748,890.
# ImageNet: torchvision's `num_params` of AlexNet, VGG19_BN and ResNet-50. All digits that a source does not print are
# arithmetic, below.
COUNTS = [
    ("alexnet", 32, 10, 2_472_266),
    ("alexnet", 32, 100, 2_495_396),
    ("vgg19_bn", 32, 10, 20_040_522),
    ("vgg19_bn", 32, 100, 20_086_692),
    ("resnet20", 32, 10, 272_474),
    ("resnet20", 32, 100, 278_324),
    ("resnet32", 32, 10, 466_906),
    ("resnet44", 32, 10, 661_338),
    ("wrn16_4", 32, 10, 2_748_890),
    ("alexnet", 224, 1000, 61_100_840),
    ("vgg19_bn", 224, 1000, 143_678_248),
    ("resnet50", 224, 1000, 25_557_032),
]
SMALL = ["alexnet", "vgg19_bn", "resnet20", "resnet32", "resnet44", "wrn16_4"]


def on_meta(name: str, size: int, classes: int) -> nn.Module:
    with torch.device("meta"):
        return models.build(name, in_channels=3, image_size=size, classes=classes)


@pytest.mark.parametrize(("name", "size", "classes", "count"), COUNTS)
def test_parameter_counts_are_the_published_ones(name: str, size: int, classes: int, count: int) -> None:
    model = on_meta(name, size, classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert f"{count:,}" in models.__dict__[name].__doc__ or classes == 100


def test_counts_by_arithmetic() -> None:
    counts = {(name, size, classes): count for name, size, classes, count in COUNTS}
    alex = [(3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)]
    assert counts["alexnet", 32, 10] == sum(i * o * k * k + o for i, o, k in alex) + 256 * 10 + 10
    wide = [64, 64, 128, 128, *[256] * 4, *[512] * 8]
    vgg = sum(9 * i * o + 3 * o for i, o in zip([3, *wide], wide, strict=False))
    assert counts["vgg19_bn", 32, 10] == vgg + 512 * 10 + 10
    for blocks, name in ((3, "resnet20"), (5, "resnet32"), (7, "resnet44")):
        stem = 3 * 16 * 9 + 2 * 16
        first = [(16, 16), (16, 32), (32, 64)]
        convolutions = sum(9 * (i * o + (2 * blocks - 1) * o * o) + 2 * blocks * 2 * o for i, o in first)
        shortcuts = sum(i * o + 2 * o for i, o in first[1:])
        assert counts[name, 32, 10] == stem + convolutions + shortcuts + 64 * 10 + 10
        assert shortcuts == 2752
    printed = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66}
    assert {name: round((counts[name, 32, 10] - 2752) / 1e6, 2) for name in printed} == printed


@pytest.mark.parametrize("name", SMALL)
def test_forward_and_backward(name: str) -> None:
    torch.manual_seed(0)
    model = models.build(name, in_channels=3, image_size=32, classes=7)
    scores = model(torch.randn(2, 3, 32, 32))
    assert scores.shape == (2, 7)
    scores.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert scores.detach().std() > 0


@pytest.mark.parametrize(("name", "size"), [("alexnet", 224), ("vgg19_bn", 224), ("resnet50", 224), ("alexnet", 64)])
def test_networks_for_imagenet_keep_their_shapes(name: str, size: int) -> None:
    model = on_meta(name, size, 1000)
    assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 1000)


def test_resnet50_halves_in_the_3x3_convolutions() -> None:
    model = on_meta("resnet50", 224, 1000)
    strides = [tuple(m.stride) for n, m in model.named_modules() if n.endswith(".conv2")]
    assert strides.count((2, 2)) == 3
    assert {tuple(m.stride) for n, m in model.named_modules() if n.endswith(".conv1") and "layer" in n} == {(1, 1)}
    assert "layer1.0.downsample.0.weight" in model.state_dict()  # torchvision's names
    assert {"conv1.weight", "bn1.running_mean", "fc.bias"} <= set(model.state_dict())


@pytest.mark.parametrize("name", ["vgg19_bn", "resnet44", "wrn16_4", "resnet50"])
def test_convolutions_start_as_the_authors_draw_them(name: str) -> None:
    torch.manual_seed(1)
    model = models.build(name, in_channels=3, image_size=32, classes=10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            height, width = module.kernel_size
            expected = math.sqrt(2 / (height * width * module.out_channels))
            error = 5 / math.sqrt(2 * module.weight.numel())  # five standard errors of a standard deviation
            assert module.weight.std().item() == pytest.approx(expected, rel=error)
            assert abs(module.weight.mean().item()) < 5 * expected / math.sqrt(module.weight.numel())
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            assert not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


def test_linear_layers_start_as_the_authors_draw_them() -> None:
    torch.manual_seed(2)
    vgg = models.build("vgg19_bn", in_channels=3, image_size=32, classes=100)
    assert vgg.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not vgg.classifier.bias.any()
    for name in ("alexnet", "resnet20", "wrn16_4"):
        last = list(models.build(name, in_channels=3, image_size=32, classes=100).children())[-1]
        bound = 1 / math.sqrt(last.in_features)
        assert last.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert bool(last.bias.any()) == (name != "wrn16_4")


def test_the_small_alexnet_has_no_dropout_and_no_batch_norm() -> None:
    kinds = {type(module) for module in on_meta("alexnet", 32, 10).modules()}
    assert not kinds & {nn.Dropout, nn.BatchNorm2d}
    assert nn.Dropout in {type(module) for module in on_meta("alexnet", 224, 10).modules()}


def test_shortcuts_change_the_shape_only_where_they_must() -> None:
    names = [name for name in on_meta("resnet20", 32, 10).state_dict() if name.endswith("downsample.0.weight")]
    assert names == ["layer2.0.downsample.0.weight", "layer3.0.downsample.0.weight"]
    wide = [name for name in on_meta("wrn16_4", 32, 10).state_dict() if name.endswith("shortcut.weight")]
    assert wide == [f"block{stage}.0.shortcut.weight" for stage in (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "smallest"), [("alexnet", 32), ("vgg19_bn", 32), ("resnet20", 4), ("wrn16_4", 4), ("resnet50", 32)]
)
def test_images_that_are_too_small(name: str, smallest: int) -> None:
    model = models.build(name, in_channels=3, image_size=smallest, classes=2).eval()
    assert model(torch.zeros(1, 3, smallest, smallest)).shape == (1, 2)
    with pytest.raises(ValueError, match=rf"`image_size` must be at least {smallest}, got {smallest - 1}; the network"):
        models.build(name, in_channels=3, image_size=smallest - 1, classes=2)


def test_same_seed_same_weights() -> None:
    def weights() -> torch.Tensor:
        torch.manual_seed(5)
        return next(models.build("resnet20", in_channels=3, image_size=32, classes=10).parameters())

    assert torch.equal(weights(), weights())
