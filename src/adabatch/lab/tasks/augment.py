"""Batched augmentation on the training device, with randomness that belongs to (seed, epoch, position)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adabatch import _devices
from adabatch._random import GOLDEN, as_int64, shifted, split_mix, split_mix_int64

CPU: Final = torch.device("cpu")
WINDOW: Final = 2**16  # samples for which numbers are drawn at once


def draws(
    options: int, *, seed: int, clock: int, stride: int = 1, count: int, name: str, device: torch.device = CPU
) -> Tensor:
    """Random whole numbers in `[0, options)`, one per sample, each fixed by seed, name and the sample's clock alone.

    They are computed for many samples ahead and kept, so that a batch costs a slice.

    Args:
        options: how many values there are, at most 2^31.
        seed: of the run.
        clock: position of the first sample in the data, `epoch * N + position`.
        stride: distance between the clocks of neighbouring samples: the number of ranks.
        count: number of samples.
        name: of what is drawn; different names give independent numbers.
        device: where they are computed: the CPU, or one that counts alike (`_devices.counts_alike`).

    Returns:
        int64, `[count]`, on the device; not to be written to.

    Example:
        >>> whole = draws(9, seed=1, clock=100, count=6, name="crop")
        >>> parts = [draws(9, seed=1, clock=100 + i, stride=2, count=3, name="crop") for i in range(2)]
        >>> torch.equal(whole[0::2], parts[0]) and torch.equal(whole[1::2], parts[1])
        True
    """
    at, phase = divmod(clock, stride)
    parts: list[Tensor] = []
    stream = _devices.stream_of(device)
    while count > 0 or not parts:
        window, offset = divmod(at, WINDOW)
        start = window * WINDOW * stride + phase
        part = _window(options, device, stream, seed=seed, clock=start, stride=stride, name=name)[
            offset : offset + count
        ]
        parts.append(part)
        at, count = at + len(part), count - len(part)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@functools.lru_cache(maxsize=8)
def _window(
    options: int, device: torch.device, stream: Any, *, seed: int, clock: int, stride: int, name: str
) -> Tensor:
    """`draws` for `WINDOW` samples from `clock` on, for one stream, since another would have to wait for it."""
    del stream
    step, start = stride * int(GOLDEN), (clock + 1) * int(GOLDEN) + int(_key(seed, name))
    bits = split_mix_int64(torch.arange(WINDOW, device=device) * as_int64(step) + as_int64(start))
    return shifted(bits, 32) * options >> 32


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
        options, device = 2 * (2 * self.padding + 1) ** 2, inputs.device
        home = device if _devices.counts_alike(device) else CPU
        where = {"clock": clock, "stride": stride, "count": len(inputs)}
        drawn = draws(options, seed=seed, name="crop and flip", device=home, **where)
        return self.test(self._cut(inputs, drawn if home == device else drawn.to(device)))

    def _cut(self, inputs: Tensor, drawn: Tensor) -> Tensor:
        """One window of each image: out of the padded images, or out of their mirror images, which follow."""
        batch, channels, height, width = inputs.shape
        edge, copies, device = self.padding, 1 + self.flip, inputs.device
        padded = inputs.new_zeros(copies * batch, channels, height + 2 * edge, width + 2 * edge)
        inside = padded[..., edge : edge + height, edge : edge + width]
        inside[:batch] = inputs
        if self.flip:
            inside[batch:] = inputs.flip(-1)
        by_image, by_channel, by_row, _ = padded.stride()
        count = padded.numel() - (channels - 1) * by_channel - (height - 1) * by_row - width + 1
        windows = padded.as_strided((max(0, count), channels, height, width), (1, by_channel, by_row, 1))
        starts = _starts(
            edge, batch * by_image if self.flip else 0, by_row, device, _devices.stream_of(device)
        ).index_select(0, drawn)
        return windows[starts + torch.arange(0, batch * by_image, by_image, device=device)]

    def test(self, inputs: Tensor) -> Tensor:
        """`inputs`, uint8 `[batch, channels, height, width]`, normalised to float32."""
        scale, offset = _normaliser(self.mean, self.std, inputs.device, _devices.stream_of(inputs.device))
        return torch.addcmul(offset, inputs.float(), scale)


@functools.lru_cache(maxsize=64)
def _starts(edge: int, to_mirrored: int, by_row: int, device: torch.device, stream: Any) -> Tensor:
    """Where the window of each draw begins, counted in pixels from the first one of the image, for one stream."""
    del stream
    drawn = torch.arange(2 * (2 * edge + 1) ** 2, device=device)
    rest, mirrored = drawn // 2, drawn % 2
    down, right = rest // (2 * edge + 1), rest % (2 * edge + 1)
    return mirrored * to_mirrored + down * by_row + right


@functools.lru_cache(maxsize=16)
def _normaliser(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, stream: Any
) -> tuple[Tensor, Tensor]:
    """Scale and offset, `[channels, 1, 1]`, that normalise pixels counted from 0 to 255, for one stream."""
    del stream
    centre, spread = (torch.tensor(values, dtype=torch.float64, device=CPU)[:, None, None] for values in (mean, std))
    scale, offset = (1 / (255 * spread)).float(), (-centre / spread).float()
    return _devices.sent(scale, device), _devices.sent(offset, device)
