"""Residual networks: ResNet-20, 32 and 44 and Wide ResNet-16-4 for small images, ResNet-50 for ImageNet.

Inputs are described as in `adabatch.lab.models.build`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from torch import Tensor, nn

from adabatch import _checks
from adabatch.lab.models.convolutional import he_normal, named

EXPANSION: Final = 4  # output channels of a bottleneck per channel inside


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and the input added; a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[batch, in_channels, height, width]` to `[batch, channels, height / stride, width / stride]`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1 with batch norm and the input added; a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        wide = channels * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, wide, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[batch, in_channels, height, width]` to `[batch, 4 * channels, height / stride, width / stride]`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)  # type: ignore[no-any-return]


class WideBlock(nn.Module):
    """Batch norm, ReLU and 3x3 convolution, twice, with the input added; a 1x1 convolution where the shape changes.

    That shortcut takes the input after the first batch norm and ReLU.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[batch, in_channels, height, width]` to `[batch, channels, height / stride, width / stride]`."""
        active = self.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(self.relu(self.bn2(self.conv1(active)))) + shortcut  # type: ignore[no-any-return]


def zero_init(model: nn.Module) -> int:
    """Sets the last batch norm scale of each residual block to 0, so that blocks begin as their shortcut.

    Returns:
        How many there are; blocks that do not end in batch norm are left alone.

    Source: Goyal et al., 2017, 1706.02677, section 5.1.
    """
    blocks = [block for block in model.modules() if isinstance(block, BasicBlock | Bottleneck)]
    for block in blocks:
        last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
        nn.init.zeros_(last.weight)
    return len(blocks)


def _downsample(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    """The shortcut where a block changes the shape; None where it does not."""
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels))


def _stages(
    block: Callable[..., nn.Module],
    channels: int,
    *,
    widths: Sequence[int],
    blocks: Sequence[int],
    expansion: int = 1,
    name: str = "layer",
) -> tuple[dict[str, nn.Module], int]:
    """Stages of blocks by name, and the channels of the last; each stage but the first halves the image."""
    stages: dict[str, nn.Module] = {}
    for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        layers = []
        for number in range(count):
            layers.append(block(channels, width, stride=2 if index and not number else 1))
            channels = width * expansion
        stages[f"{name}{index + 1}"] = nn.Sequential(*layers)
    return stages, channels


def _network(*, fc: nn.Linear, **layers: nn.Module) -> nn.Sequential:
    """The layers, the average over all pixels and the layer of the classes; draws the weights of convolutions."""
    model = named(**layers, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=fc)
    he_normal(model)
    return model


def _resnet(blocks: int, *, in_channels: int, image_size: int, classes: int) -> nn.Sequential:
    """A residual network of `6 * blocks + 2` layers with 16, 32 and 64 channels."""
    _checks.whole("image_size", image_size, minimum=4, remedy="the network halves the image twice")
    stages, channels = _stages(BasicBlock, 16, widths=(16, 32, 64), blocks=[blocks] * 3)
    return _network(
        conv1=nn.Conv2d(in_channels, 16, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(16),
        relu=nn.ReLU(inplace=True),
        **stages,
        fc=nn.Linear(channels, classes),
    )


def resnet20(*, in_channels: int = 3, image_size: int = 32, classes: int = 10) -> nn.Sequential:
    """ResNet-20 for small images: three stages of three blocks, 16, 32 and 64 channels.

    Returns:
        The network; 272,474 parameters for CIFAR-10.

    Raises:
        ValueError: if the image is smaller than 4 pixels.

    Example:
        >>> sum(p.numel() for p in resnet20().parameters())
        272474

    Source: He et al., 2015, 1512.03385, section 4.2.
    Departures: where the shape changes, shortcuts are 1x1 convolutions with batch norm (option B), as in AdaBatch's
    code; the paper's CIFAR networks pad with zeros there, which takes 2,752 parameters fewer.
    """
    return _resnet(3, in_channels=in_channels, image_size=image_size, classes=classes)


def resnet32(*, in_channels: int = 3, image_size: int = 32, classes: int = 10) -> nn.Sequential:
    """ResNet-32 for small images: three stages of five blocks, 466,906 parameters for CIFAR-10; see `resnet20`.

    Example:
        >>> sum(p.numel() for p in resnet32().parameters())
        466906
    """
    return _resnet(5, in_channels=in_channels, image_size=image_size, classes=classes)


def resnet44(*, in_channels: int = 3, image_size: int = 32, classes: int = 10) -> nn.Sequential:
    """ResNet-44 for small images: three stages of seven blocks, 661,338 parameters for CIFAR-10; see `resnet20`.

    Example:
        >>> sum(p.numel() for p in resnet44().parameters())
        661338
    """
    return _resnet(7, in_channels=in_channels, image_size=image_size, classes=classes)


def resnet50(*, in_channels: int = 3, image_size: int = 224, classes: int = 1000) -> nn.Sequential:
    """ResNet-50 for ImageNet; parameters are named as in torchvision.

    Returns:
        The network; 25,557,032 parameters for ImageNet.

    Raises:
        ValueError: if the image is smaller than 32 pixels.

    Example:
        >>> sum(p.numel() for p in resnet50(classes=10).parameters())
        23528522

    Source: He et al., 2015, 1512.03385, table 1.
    Departures: as in torchvision, whose network AdaBatch (1712.02029) trains, the first 3x3 convolution of a stage has
    the stride, not the 1x1 before it.
    """
    _checks.whole("image_size", image_size, minimum=32, remedy="the network shrinks the image 32 times")
    widths = (64, 128, 256, 512)
    stages, channels = _stages(Bottleneck, 64, widths=widths, blocks=(3, 4, 6, 3), expansion=EXPANSION)
    return _network(
        conv1=nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
        **stages,
        fc=nn.Linear(channels, classes),
    )


def wrn16_4(*, in_channels: int = 3, image_size: int = 32, classes: int = 10) -> nn.Sequential:
    """Wide ResNet-16-4 for small images: three stages of two blocks, 64, 128 and 256 channels, no dropout.

    Returns:
        The network; 2,748,890 parameters for CIFAR-10.

    Raises:
        ValueError: if the image is smaller than 4 pixels.

    Example:
        >>> sum(p.numel() for p in wrn16_4().parameters())
        2748890

    Source: Zagoruyko and Komodakis, 2016, 1605.07146, table 1, depth 16, k = 4; the network of 1711.00489, section 5.
    """
    _checks.whole("image_size", image_size, minimum=4, remedy="the network halves the image twice")
    stages, channels = _stages(WideBlock, 16, widths=(64, 128, 256), blocks=(2, 2, 2), name="block")
    head = nn.Linear(channels, classes)
    nn.init.zeros_(head.bias)
    return _network(
        conv1=nn.Conv2d(in_channels, 16, 3, padding=1, bias=False),
        **stages,
        bn1=nn.BatchNorm2d(channels),
        relu=nn.ReLU(inplace=True),
        fc=head,
    )
