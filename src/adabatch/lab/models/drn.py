"""A dilated residual network, which scores the class of each pixel."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from adabatch import _checks
from adabatch.lab.models.convolutional import he_normal
from adabatch.lab.models.residual import BasicBlock

SHRINKS: Final = 4  # times, on each side


class DRN(nn.Module):
    """See `drn`."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(in_channels, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = BasicBlock(16, 16)
        self.layer2 = nn.Sequential(BasicBlock(16, 32, stride=2), BasicBlock(32, 32))
        self.layer3 = nn.Sequential(BasicBlock(32, 64, dilation=2), BasicBlock(64, 64, dilation=2))
        self.layer4 = nn.Sequential(BasicBlock(64, 64, dilation=4), BasicBlock(64, 64, dilation=4))
        self.layer5, self.layer6 = _plain(64, dilation=2), _plain(64, dilation=1)
        self.fc = nn.Conv2d(64, classes, 1)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of each pixel: `[batch, in_channels, height, width]` to `[batch, classes, height, width]`."""
        size = x.shape[-2:]
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.fc(self.layer6(self.layer5(x)))
        return nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _plain(channels: int, *, dilation: int) -> nn.Sequential:
    """A convolution with batch norm and without a shortcut."""
    conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def drn(*, in_channels: int = 3, image_size: int = 72, classes: int = 11) -> DRN:
    """A dilated residual network of 18 layers for segmentation: 16 to 64 channels, with batch norm.

    The image shrinks to a quarter of its sides only. From there on convolutions reach farther by dilation, 2 and then
    4, instead of shrinking it more. Two layers without shortcut, of dilation 2 and 1, smooth the grid that this leaves.
    Scores are enlarged to the image's size bilinearly.

    Returns:
        The network; 392,603 parameters for the 11 classes of CamVid.

    Raises:
        ValueError: if the image is smaller than 4 pixels.

    Example:
        >>> import torch
        >>> drn()(torch.zeros(1, 3, 72, 72)).shape
        torch.Size([1, 11, 72, 72])

    Source: Yu, Koltun and Funkhouser, 2017, 1705.09914, sections 2 to 4 (DRN-C): dilation in place of strides in the
        last two groups of a residual network, and layers without shortcut after them.
    Departures: much smaller, and the image shrinks four times, not eight.
    """
    _checks.whole("image_size", image_size, minimum=SHRINKS, remedy="the network halves the image twice")
    return DRN(in_channels, classes)
