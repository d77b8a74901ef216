"""Residual networks for small images: ResNet-20, ResNet-32 and ResNet-44."""

from __future__ import annotations

from torch import Tensor, nn

from adabatch import _checks
from adabatch.lab.models._init import he_normal, named


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and the input added; a 1x1 convolution where the shape changes.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[batch, in_channels, height, width]` to `[batch, channels, height / stride, width / stride]`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)  # type: ignore[no-any-return]


def _resnet(blocks: int, *, in_channels: int, image_size: int, classes: int) -> nn.Sequential:
    """A residual network of `6 * blocks + 2` layers with 16, 32 and 64 channels."""
    _checks.whole("image_size", image_size, minimum=4, remedy="the network halves the image twice")
    stages: dict[str, nn.Module] = {}
    channels = 16
    for index, width in enumerate((16, 32, 64)):
        layers = []
        for block in range(blocks):
            layers.append(BasicBlock(channels, width, stride=2 if index and not block else 1))
            channels = width
        stages[f"layer{index + 1}"] = nn.Sequential(*layers)
    model = nn.Sequential(
        named(
            conv1=nn.Conv2d(in_channels, 16, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(16),
            relu=nn.ReLU(inplace=True),
            **stages,
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(channels, classes),
        )
    )
    he_normal(model)
    return model


def resnet20(*, in_channels: int = 3, image_size: int = 32, classes: int = 10) -> nn.Sequential:
    """ResNet-20 for small images: three stages of three blocks, 16, 32 and 64 channels.

    Args:
        in_channels: channels of an image.
        image_size: height and width of an image in pixels, at least 4.
        classes: number of classes.

    Returns:
        The network; 272,474 parameters for CIFAR-10.

    Raises:
        ValueError: if the image is smaller than 4 pixels.

    Example:
        >>> sum(p.numel() for p in resnet20().parameters())
        272474

    Source: He et al., 2015, 1512.03385, section 4.2.
    Departures: shortcuts are 1x1 convolutions with batch norm where the shape changes (option B), as in AdaBatch's
    code; the paper's CIFAR networks pad with zeros there, which has 2,752 parameters less.
    """
    return _resnet(3, in_channels=in_channels, image_size=image_size, classes=classes)


def resnet32(*, in_channels: int = 3, image_size: int = 32, classes: int = 10) -> nn.Sequential:
    """ResNet-32 for small images: three stages of five blocks, 16, 32 and 64 channels.

    Args:
        in_channels: channels of an image.
        image_size: height and width of an image in pixels, at least 4.
        classes: number of classes.

    Returns:
        The network; 466,906 parameters for CIFAR-10.

    Raises:
        ValueError: if the image is smaller than 4 pixels.

    Example:
        >>> sum(p.numel() for p in resnet32().parameters())
        466906

    Source: He et al., 2015, 1512.03385, section 4.2; see `resnet20`.
    """
    return _resnet(5, in_channels=in_channels, image_size=image_size, classes=classes)


def resnet44(*, in_channels: int = 3, image_size: int = 32, classes: int = 10) -> nn.Sequential:
    """ResNet-44 for small images: three stages of seven blocks, 16, 32 and 64 channels.

    Args:
        in_channels: channels of an image.
        image_size: height and width of an image in pixels, at least 4.
        classes: number of classes.

    Returns:
        The network; 661,338 parameters for CIFAR-10.

    Raises:
        ValueError: if the image is smaller than 4 pixels.

    Example:
        >>> sum(p.numel() for p in resnet44().parameters())
        661338

    Source: He et al., 2015, 1512.03385, section 4.2; see `resnet20`.
    """
    return _resnet(7, in_channels=in_channels, image_size=image_size, classes=classes)
