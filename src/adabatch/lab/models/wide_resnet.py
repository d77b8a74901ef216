"""Wide residual networks for small images."""

from __future__ import annotations

from torch import Tensor, nn

from adabatch import _checks
from adabatch.lab.models._init import he_normal, named


class WideBlock(nn.Module):
    """Batch norm, ReLU and 3x3 convolution, twice, and the input added; where the shape changes, a 1x1 convolution.

    That shortcut starts from the input after the first batch norm and ReLU.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: of the first convolution.
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


def wrn16_4(*, in_channels: int = 3, image_size: int = 32, classes: int = 10) -> nn.Sequential:
    """Wide ResNet-16-4 for small images: three stages of two blocks, 64, 128 and 256 channels, no dropout.

    Args:
        in_channels: channels of an image.
        image_size: height and width of an image in pixels, at least 4.
        classes: number of classes.

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
    stages: dict[str, nn.Module] = {}
    channels = 16
    for index, width in enumerate((64, 128, 256)):
        first = WideBlock(channels, width, stride=2 if index else 1)
        stages[f"block{index + 1}"] = nn.Sequential(first, WideBlock(width, width))
        channels = width
    head = nn.Linear(channels, classes)
    model = nn.Sequential(
        named(
            conv1=nn.Conv2d(in_channels, 16, 3, padding=1, bias=False),
            **stages,
            bn1=nn.BatchNorm2d(channels),
            relu=nn.ReLU(inplace=True),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=head,
        )
    )
    he_normal(model)
    nn.init.zeros_(head.bias)
    return model
