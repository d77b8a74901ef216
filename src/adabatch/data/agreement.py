"""Whether readers that all walk one stream see the same one."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from adabatch._errors import ArgumentError

PREFIX: Final = 16  # samples of a pass that are compared
_MOST_VALUES: Final = 4096  # of one tensor

Prints = tuple[int, tuple[int, ...]]


def print_of(sample: Any) -> int:
    """A number that is the same for equal samples; of what is no tensor, array, text or number only the type counts."""
    if isinstance(sample, Tensor):
        strided = sample.device.type == "cpu" and sample.layout == torch.strided and not sample.is_nested
        sample = sample.detach().resolve_conj().resolve_neg() if strided else (str(sample.dtype), str(sample.layout))
        if strided and sample.dtype in _NOT_NUMPYS:
            sample = sample.contiguous().view(torch.uint8) if sample.dim() else sample.float()
        sample = sample.numpy() if strided else sample
    if isinstance(sample, np.ndarray) and not sample.dtype.hasobject:
        some = sample.reshape(-1)[:: sample.size // _MOST_VALUES + 1]
        return zlib.crc32(some.tobytes(), zlib.crc32(repr((sample.dtype, sample.shape)).encode()))
    if isinstance(sample, Mapping):
        return print_of([part for item in sample.items() for part in item])
    if isinstance(sample, list | tuple):
        return zlib.crc32(repr([print_of(part) for part in sample]).encode())
    if isinstance(sample, str | bytes | int | float | complex | bool | np.generic | None):
        return zlib.crc32(repr(sample).encode())
    return zlib.crc32(type(sample).__qualname__.encode())


_NOT_NUMPYS: Final = frozenset(
    getattr(torch, name)
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
)


class Agreement:
    """Compares what the workers found at the beginning of a pass.

    Attributes:
        ended: those that came to its end.
    """

    def __init__(self) -> None:
        self.ended: set[int] = set()
        self._first: dict[int, tuple[int, int]] = {}  # for each place: the print there, and who gave it

    def add(self, worker: int, prints: Prints) -> None:
        """Takes in what `worker` found: where it began, and the prints from there on.

        Raises:
            ValueError: if another worker found another sample at one of the places.
        """
        start, found = prints
        for offset, value in enumerate(found, start):
            other, who = self._first.setdefault(offset, (value, worker))
            if other != value:
                raise disagreement(f"sample {offset} is another in worker {worker} than in worker {who}")


def disagreement(what: str) -> ValueError:
    """The error for readers that walk different streams."""
    return ArgumentError(
        None,
        (
            "a stream must be the same in every worker with `sharding='stride'`, where each walks all "
            f"of it and keeps its part: {what}. Where `worker_init_fn` shares the stream out use "
            "`sharding='dataset'`"
        ),
        remedy=(
            "where it only seeds generators draw from python's, numpy's or torch's global ones, with `sample_rng=True`"
        ),
    )
