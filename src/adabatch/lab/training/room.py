"""Whether the largest pass of a run fits into memory, told before the first update.

The bytes of a pass are a straight line in its samples: activations are as many as there are samples, and the rest stays
the same. So on the CPU, where a pass that is too large ends the process, two small ones foretell it. On a GPU the large
one itself is tried, since kernels take room of their own that no line tells. If it fails, the line tells what fits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import torch

from adabatch import memory
from adabatch._errors import ArgumentError

SMALL: Final = 64  # samples, at most, of the larger of the two passes
FEWEST: Final = 16  # samples; of fewer the passes themselves tell
OF_A_SAMPLE: Final = 2**26  # bytes; passes that fit with so many are not foretold
GIB: Final = 2**30


class Line(NamedTuple):
    """The bytes of a pass by its samples.

    Attributes:
        constant: bytes that do not depend on the samples, such as gradients.
        of_a_sample: bytes that each sample adds.

    Example:
        >>> line = Line.through((2, 140), (4, 180))
        >>> line.bytes(100), line.largest(1000)
        (2100, 45)
    """

    constant: float
    of_a_sample: float

    @classmethod
    def through(cls, first: tuple[int, int], second: tuple[int, int]) -> Line:
        """The line through two points of samples and bytes; it never falls."""
        (few, low), (more, high) = first, second
        of_a_sample = max((high - low) / (more - few), 0.0)
        return cls(max(low - of_a_sample * few, 0.0), of_a_sample)

    def bytes(self, samples: int) -> int:
        """Bytes of a pass."""
        return round(self.constant + self.of_a_sample * samples)

    def largest(self, room: int) -> int:
        """The most samples whose pass takes at most `room` bytes, at most 2^62; 0 if not even one does."""
        if room < self.bytes(1):
            return 0
        if self.of_a_sample == 0:
            return 2**62
        return min(int((room - self.constant) / self.of_a_sample), 2**62)


def check(one_pass: Callable[[int], object], largest: int, device: torch.device, *, more: int = 0) -> None:
    """Makes two small passes, and raises if by the line through their bytes the largest one does not fit.

    Passes count as fitting if memory has 64 MiB for each sample; then none is made.

    Args:
        one_pass: a forward and backward pass over so many samples.
        largest: samples of the largest pass.
        device: where it computes.
        more: bytes that will be taken besides, such as the optimizer's moments.

    Raises:
        ValueError: if it does not fit.
    """
    room = memory.all_bytes(device)
    if room is None or largest * OF_A_SAMPLE <= room or (line := line_of(one_pass, largest, device)) is None:
        return
    if line.bytes(largest) + more > room:
        whose = "this machine has" if device.type == "cpu" else "are free"
        found = f"{(line.bytes(largest) + more) / GIB:.3g} GiB of the {room / GIB:.3g} GiB that {whose}"
        raise too_large(largest, f"would take about {found}", fits=line.largest(room - more))


def fitting(one_pass: Callable[[int], object], failed: int, device: torch.device, *, more: int = 0) -> int | None:
    """How many samples fit by that line, after a pass has failed; fewer than those, None if that is not known.

    Args:
        one_pass: as in `check`.
        failed: samples of the pass for which memory ran out.
        device: where it computes.
        more: as in `check`.
    """
    try:
        line, room = line_of(one_pass, failed, device), memory.all_bytes(device)
    except torch.OutOfMemoryError:
        return None
    return None if line is None or room is None else min(line.largest(room - more), failed - 1)


def line_of(one_pass: Callable[[int], object], largest: int, device: torch.device) -> Line | None:
    """The line through two passes of a fraction of the samples; None if they are few, or the device does not tell."""
    if largest < FEWEST:
        return None
    second = min(SMALL, largest // 4)
    sizes = second // 2, second
    one_pass(sizes[0])  # what is made once is made now
    first_peak, second_peak = (memory.peak_bytes(partial(one_pass, size), device) for size in sizes)
    if first_peak is None or second_peak is None:
        return None
    return Line.through((sizes[0], first_peak), (sizes[1], second_peak))


def too_large(samples: int, what: str = "are too many", *, fits: int | None = None) -> ArgumentError:
    """The error about a pass that does not fit.

    Args:
        samples: of the pass.
        what: the samples at once do.
        fits: how many would fit; None: perhaps half of them.
    """
    if fits == 0:
        remedy = "take a smaller network, since not even one sample fits"
    elif fits is None:
        remedy = f"try {max(1, samples // 2)}"
    else:
        remedy = f"try {2 ** (fits.bit_length() - 1)}"
    return ArgumentError(
        "micro_batch_size",
        "must be given where batches do not fit into memory",
        got=f"none that does: {samples:,} samples at once {what}",
        remedy=remedy,
    )
