"""ResNet-50 for ImageNet."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from adabatch import _checks
from adabatch.lab.models._init import he_normal, named

EXPANSION: Final = 4
BLOCKS: Final = (3, 4, 6, 3)


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1 with batch norm and the input added; a 1x1 convolution where the shape changes.

    Args:
        in_channels: channels of the input.
        channels: channels between; the output has four times as many.
        stride: of the 3x3 convolution.
    """

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
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != wide:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, wide, 1, stride=stride, bias=False), nn.BatchNorm2d(wide)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[batch, in_channels, height, width]` to `[batch, 4 * channels, height / stride, width / stride]`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)  # type: ignore[no-any-return]


def resnet50(*, in_channels: int = 3, image_size: int = 224, classes: int = 1000) -> nn.Sequential:
    """ResNet-50 for ImageNet; parameters are named as in torchvision.

    Args:
        in_channels: channels of an image.
        image_size: height and width of an image in pixels, at least 32.
        classes: number of classes.

    Returns:
        The network; 25,557,032 parameters for ImageNet.

    Raises:
        ValueError: if the image is smaller than 32 pixels.

    Example:
        >>> sum(p.numel() for p in resnet50(classes=10).parameters())
        23528522

    Source: He et al., 2015, 1512.03385, table 1.
    Departures: a stage's stride lies in its first 3x3 convolution, not in the 1x1 before it, as in torchvision, which
    AdaBatch (1712.02029) trains.
    """
    _checks.whole("image_size", image_size, minimum=32, remedy="the network shrinks the image 32 times")
    stages: dict[str, nn.Module] = {}
    channels = 64
    for index, blocks in enumerate(BLOCKS):
        layers = []
        for block in range(blocks):
            layers.append(Bottleneck(channels, 64 * 2**index, stride=2 if index and not block else 1))
            channels = 64 * 2**index * EXPANSION
        stages[f"layer{index + 1}"] = nn.Sequential(*layers)
    model = nn.Sequential(
        named(
            conv1=nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(inplace=True),
            maxpool=nn.MaxPool2d(3, stride=2, padding=1),
            **stages,
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(channels, classes),
        )
    )
    he_normal(model)
    return model
