"""Batched augmentation on the training device, with randomness that belongs to (seed, epoch, position)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adabatch._random import GOLDEN, split_mix


def draws(options: int, *, seed: int, clock: int, stride: int = 1, count: int, name: str) -> npt.NDArray[np.int64]:
    """Random whole numbers in `[0, options)`, one per sample, each fixed by seed, name and the sample's clock alone.

    Args:
        options: how many values there are, at most 2^31.
        seed: of the run.
        clock: position of the first sample in the data, `epoch * N + position`.
        stride: distance between the clocks of neighbouring samples: the number of ranks.
        count: number of samples.
        name: of what is drawn; different names give independent numbers.

    Example:
        >>> whole = draws(9, seed=1, clock=100, count=6, name="crop")
        >>> parts = [draws(9, seed=1, clock=100 + i, stride=2, count=3, name="crop") for i in range(2)]
        >>> bool((whole[0::2] == parts[0]).all() and (whole[1::2] == parts[1]).all())
        True
    """
    x = _bits(_clocks(clock, stride, count), seed, name)
    return ((x >> np.uint64(32)) * np.uint64(options) >> np.uint64(32)).astype(np.int64)


def normals(width: int, *, seed: int, clock: int, stride: int = 1, count: int, name: str) -> Tensor:
    """Independent standard normal numbers, `width` per sample, fixed by seed, name and the sample's clock alone.

    Args:
        width: numbers per sample.
        seed: of the run.
        clock: position of the first sample in the data, `epoch * N + position`.
        stride: distance between the clocks of neighbouring samples: the number of ranks.
        count: number of samples.
        name: of what is drawn; different names and widths give independent numbers.

    Returns:
        float64, `[count, width]`.

    Example:
        >>> whole = normals(2, seed=1, clock=100, count=4, name="noise")
        >>> torch.equal(whole[1::2], normals(2, seed=1, clock=101, stride=2, count=2, name="noise"))
        True
    """
    places = np.add.outer(_clocks(clock, stride, count) * np.uint64(width), np.arange(width, dtype=np.uint64))
    high = _bits(places, seed, f"{name}, {width} normals") >> np.uint64(12)  # 52 bits, so that 1 is never reached
    found: Tensor = torch.special.ndtri(torch.from_numpy((high.astype(np.float64) + 0.5) * 2.0**-52))
    return found


def _clocks(clock: int, stride: int, count: int) -> npt.NDArray[np.uint64]:
    return np.arange(count, dtype=np.uint64) * np.uint64(stride) + np.uint64(clock)


def _bits(places: npt.NDArray[np.uint64], seed: int, name: str) -> npt.NDArray[np.uint64]:
    """64 random bits for each place."""
    return split_mix((places + np.uint64(1)) * GOLDEN + _key(seed, name))


@functools.lru_cache(maxsize=64)
def _key(seed: int, name: str) -> np.uint64:
    digest = hashlib.sha256(f"adabatch augmentation 1: {seed} {name}".encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


@dataclass(frozen=True, slots=True)
class CropFlip:
    """Random crop after zero padding, random horizontal flip and normalisation, for a whole batch at once.

    Args:
        mean: of each channel, pixels counted from 0 to 1.
        std: of each channel.
        image_size: height and width of the images in pixels.
        classes: number of classes.
        padding: pixels of zeros added on each side before a crop of the image's size is taken; 0 for no crop.
        flip: whether half of the images are mirrored.

    Example:
        >>> images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
        >>> CropFlip((0.5,) * 3, (0.5,) * 3, image_size=32, classes=10).train(images, seed=0, clock=0).unique()
        tensor([-1.])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    classes: int
    padding: int = 4
    flip: bool = True
    on_device: bool = field(default=True, init=False)

    @property
    def shape(self) -> Mapping[str, int]:
        """The arguments of `models.build` that describe the inputs."""
        return {"in_channels": len(self.mean), "image_size": self.image_size, "classes": self.classes}

    def to(self, device: Any) -> CropFlip:  # noqa: ARG002
        """Itself: it works on the device of its inputs."""
        return self

    def train(self, inputs: Tensor, *, seed: int, clock: int, stride: int = 1) -> Tensor:
        """`inputs`, uint8 `[batch, channels, height, width]`, augmented and normalised to float32."""
        shifts = 2 * self.padding + 1
        drawn = draws(2 * shifts**2, seed=seed, clock=clock, stride=stride, count=len(inputs), name="crop and flip")
        rest, mirrored = np.divmod(drawn, 2)
        down, right = np.divmod(rest, shifts)
        chosen = np.stack([mirrored * self.flip * len(inputs) + np.arange(len(inputs)), down, right])
        return self.test(self._cut(inputs, torch.from_numpy(chosen).to(inputs.device, non_blocking=True)))

    def _cut(self, inputs: Tensor, chosen: Tensor) -> Tensor:
        """The windows `chosen` (image, row, column) of the padded images, which their mirror images follow."""
        batch, channels, height, width = inputs.shape
        edge = self.padding
        copies = 2 if self.flip else 1
        padded = inputs.new_zeros(copies * batch, channels, height + 2 * edge, width + 2 * edge)
        inside = padded[:, :, edge : edge + height, edge : edge + width]
        inside[:batch] = inputs
        if self.flip:
            inside[batch:] = inputs.flip(-1)
        by_image, by_channel, by_row, by_column = padded.stride()
        windows = padded.as_strided(
            (copies * batch, 2 * edge + 1, 2 * edge + 1, channels, height, width),
            (by_image, by_row, by_column, by_channel, by_row, by_column),
        )
        return windows[chosen[0], chosen[1], chosen[2]]

    def test(self, inputs: Tensor) -> Tensor:
        """`inputs`, uint8 `[batch, channels, height, width]`, normalised to float32."""
        scale, offset = _normaliser(self.mean, self.std, inputs.device)
        return torch.addcmul(offset, inputs.float(), scale)


@functools.lru_cache(maxsize=16)
def _normaliser(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and offset, `[channels, 1, 1]`, that normalise pixels counted from 0 to 255."""
    centre, spread = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std))
    return (1 / (255 * spread)).float().to(device), (-centre / spread).float().to(device)
