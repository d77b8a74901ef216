"""The profile of a training step: seconds and bytes by micro-batch size, the speedups that follow, and its file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final

import torch

from adabatch import _checks, _files
from adabatch._errors import ArgumentError
from adabatch._version import __version__
from adabatch.memory._allocator import tune_allocator

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Point:
    """One micro-batch size.

    Attributes:
        micro_batch_size: samples in one forward and backward pass on one rank.
        seconds: the time of that pass on the slowest rank.
        peak_bytes: the peak of that pass beyond the memory kept between updates, on the rank with the highest; None
            where it cannot be measured.
    """

    micro_batch_size: int
    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class StepProfile:
    """Seconds and peak bytes by micro-batch size, measured on a real step.

    Attributes:
        points: the measured sizes, in growing order.
        update_seconds: the time of one optimizer step.
        ranks: the number of ranks that share a batch.
        memory_budget: bytes that a pass may take; None if not known.
        stopped: why no larger size was measured.
        no_peak: why there are no peak bytes; empty if there are.
    """

    points: tuple[Point, ...]
    update_seconds: float
    ranks: int
    memory_budget: int | None
    stopped: str
    no_peak: str = ""

    @property
    def fastest(self) -> int:
        """The micro-batch size with the most samples per second; the smaller one of equals."""
        return max(self.points, key=lambda point: point.micro_batch_size / point.seconds).micro_batch_size

    @property
    def largest(self) -> int:
        """The largest micro-batch size that was measured within the memory budget."""
        return self.points[-1].micro_batch_size

    def seconds(self, size: int) -> float:
        """Seconds for `size` samples on one rank in the fastest micro-batches, interpolated between measured sizes.

        Example:
            >>> points = Point(1, 1.0, None), Point(2, 1.5, None), Point(4, 4.0, None)
            >>> profile = StepProfile(points, 0.5, 1, None, "maximum")
            >>> [profile.seconds(size) for size in (1, 2, 3, 4)]  # 2 + 1 and 2 + 2 are faster than 3 and 4 at once
            [1.0, 1.5, 2.5, 3.0]
        """
        size = _checks.whole("size", size)
        counts = {-(-size // point.micro_batch_size) for point in self.points}
        return min(self._cut(size, count) for count in counts)

    def _cut(self, size: int, count: int) -> float:
        """Seconds of `count` passes that share `size` samples as evenly as they can."""
        small, more = divmod(size, count)
        return more * self._pass(small + 1) + (count - more) * self._pass(small)

    def _pass(self, size: int) -> float:
        sizes = [point.micro_batch_size for point in self.points]
        index = bisect_left(sizes, size)
        if index == len(sizes) or sizes[index] == size or index == 0:
            point = self.points[min(index, len(sizes) - 1)]
            return point.seconds * (max(size / point.micro_batch_size, 1) if index else 1)
        low, high = self.points[index - 1], self.points[index]
        share = (size - low.micro_batch_size) / (high.micro_batch_size - low.micro_batch_size)
        return low.seconds + share * (high.seconds - low.seconds)

    def speedup(self, batch_sizes: Iterable[int]) -> dict[int, float]:
        """Samples per second by batch size, as multiples of the first one's; counts optimizer steps, not reductions.

        Args:
            batch_sizes: sizes over all ranks; each runs in its fastest micro-batches.

        Raises:
            ValueError: if there is none.

        Example:
            >>> profile = StepProfile((Point(1, 1.0, None), Point(2, 1.5, None)), 0.5, 1, None, "maximum")
            >>> profile.speedup([1, 2, 4])
            {1: 1.0, 2: 1.5, 4: 1.7142857142857142}
        """
        sizes = [_checks.whole("batch_sizes", size) for size in batch_sizes]
        if not sizes:
            raise ArgumentError(
                "batch_sizes", "must name at least one batch size", got="none", remedy="the first is compared with"
            )
        rates = {size: size / (self.seconds(-(-size // self.ranks)) + self.update_seconds) for size in sizes}
        return {size: rate / rates[sizes[0]] for size, rate in rates.items()}

    def to_json(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self) | {"points": [asdict(point) for point in self.points]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StepProfile:
        """The inverse of `to_json`."""
        return cls(**data | {"points": tuple(Point(**point) for point in data["points"])})


# On disk, under a key.


def key_of(
    step: Any,
    model: torch.nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    shapes: list[str],
    device: torch.device,
    ranks: int,
) -> str:
    """A hash of model, optimizers, step code, sample shapes, device and versions."""
    parts = {
        "format": _FORMAT,
        "model": [
            repr(model),
            model.training,
            [f"{p.dtype}{tuple(p.shape)}{p.requires_grad}" for p in model.parameters()],
            [_settings(vars(module)) for module in model.modules()],
            sorted({str(_called(type(module).forward)) for module in model.modules()}),
        ],
        "optimizers": [
            [repr(type(each)), _settings(each.defaults), [len(group["params"]) for group in each.param_groups]]
            for each in optimizers
        ],
        "step": _called(step),
        "shapes": shapes,
        "device": [device.type, *_hardware(device)],
        "ranks": ranks,
        "versions": [__version__, torch.__version__, torch.version.cuda, platform.python_version()],
        "allocator": tune_allocator.cache_info().currsize,
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _settings(values: Mapping[str, Any]) -> list[list[str]]:
    """Attributes that are plain values."""
    return sorted([name, repr(value)] for name, value in values.items() if isinstance(value, bool | int | float | str))


def _called(step: Any) -> Any:
    """The code of a callable."""
    if isinstance(step, partial):
        more = [*step.args, *(item for pair in sorted(step.keywords.items()) for item in pair)]
        return [_called(step.func), [_word(each) for each in more]]
    function = getattr(step, "__func__", step)
    if hasattr(function, "__code__"):
        return _words(function.__code__, function)
    inner: Any = vars(type(step)).get("__call__")
    return [repr(type(step)), _words(inner.__code__, inner) if hasattr(inner, "__code__") else None]


def _words(code: CodeType, function: Any = None) -> list[Any]:
    """The code of a function, with the values in its closure and its defaults."""
    constants = [_words(each) if isinstance(each, CodeType) else _word(each) for each in code.co_consts]
    held = []
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # an empty cell
            held.append(_word(cell.cell_contents))
    held += [_word(value) for value in getattr(function, "__defaults__", None) or ()]
    return [code.co_code.hex(), list(code.co_names), constants, held]


def _word(value: Any) -> Any:
    """A plain value in text that is the same in every process; of anything else only its type."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, tuple):
        return [_word(each) for each in value]
    if isinstance(value, frozenset):
        return sorted(str(_word(each)) for each in value)
    if isinstance(value, FunctionType):
        return [value.__code__.co_code.hex(), [_word(each) for each in value.__code__.co_consts]]
    return repr(type(value))


def _hardware(device: torch.device) -> list[Any]:
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return [found.name, found.total_memory, torch.backends.cuda.matmul.fp32_precision]
    return [platform.processor() or platform.machine(), os.cpu_count(), torch.get_num_threads()]


def _path(name: str) -> Path:
    return _files.cache_folder() / f"probe-{name}.json"


def kept(name: str, *, budget: int | None, maximum: int) -> StepProfile | None:
    """The profile kept under `name`, within `budget` bytes and the size `maximum`; None if it does not reach so far."""
    try:
        profile = StepProfile.from_json(json.loads(_path(name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    points = [p for p in profile.points if p.micro_batch_size <= maximum]
    if budget is not None:
        points = [p for p in points if p.peak_bytes is None or p.peak_bytes <= budget]
    whole = len(points) == len(profile.points)
    if not points or (whole and 2 * points[-1].micro_batch_size <= maximum and not _still_stops(profile, budget)):
        return None
    stopped = profile.stopped if whole else ("maximum" if 2 * points[-1].micro_batch_size > maximum else "memory")
    return StepProfile(tuple(points), profile.update_seconds, profile.ranks, budget, stopped, profile.no_peak)


def _still_stops(profile: StepProfile, budget: int | None) -> bool:
    """Whether the profile would stop for the same reason now."""
    if profile.stopped == "memory":
        return budget is not None and profile.memory_budget is not None and budget <= 1.25 * profile.memory_budget
    return profile.stopped == "time"


def keep(name: str, profile: StepProfile) -> None:
    """Keeps a profile, if the folder can be written."""
    path = _path(name)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _files.write(path, lambda file: file.write(json.dumps(profile.to_json()).encode()), alone=False)
