"""Seconds of all-reduces over the ranks of a run, against bytes and for a network's gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from adabatch import _distributed
from adabatch.lab.study.statistics import spread
from adabatch.lab.training.device import wait_for
from adabatch.lab.training.ranks import Ranks

SIZES_BYTES: Final = tuple(4**power * 2**12 for power in range(8))  # 4 KiB to 64 MiB
_ITEM: Final = torch.float32


def communication(
    parameters: Iterable[Tensor],
    device: torch.device,
    *,
    repeats: int,
    seconds: float,
    progress: Callable[[], None],
) -> dict[str, Any]:
    """Measures all-reduces over all ranks, which all must call it: of a network's gradients, and of `SIZES_BYTES`.

    Args:
        parameters: of the network; all-reduced are buffers of the sizes in which DistributedDataParallel reduces
            their gradients, all under way at once.
        device: where the buffers lie.
        repeats: turns; in each every size is measured.
        seconds: the time for a size in each turn; at least one all-reduce is measured.
        progress: called after each measurement.

    Returns:
        The key `communication` of `probe.json`. Seconds are those of one all-reduce on the slowest rank in each turn.
    """
    ranks = Ranks()
    gradients = [
        torch.zeros(sum(member.numel() for member in bucket), dtype=bucket[0].dtype, device=bucket[0].device)
        for bucket in _distributed.ddp_buckets(parameters)
    ]
    curve = {size: [torch.zeros(size // _ITEM.itemsize, dtype=_ITEM, device=device)] for size in SIZES_BYTES}
    every = [gradients, *curve.values()]
    counts = []
    for buffers in every:
        _time(buffers, 1, ranks, device)  # the first one connects
        counts.append(max(1, round(seconds / _time(buffers, 2, ranks, device))))
    found: list[list[float]] = [[] for _ in every]
    for turn in range(repeats):
        for place in sorted(range(len(every)), key=lambda place: (place - turn) % len(every)):
            found[place].append(_time(every[place], counts[place], ranks, device))
            progress()
    seconds_by_size = dict(zip(SIZES_BYTES, found[1:], strict=True))
    return {
        "world_size": ranks.world,
        "backend": _distributed.backend_of(device),
        "seconds_of": "the slowest rank in each turn",
        "gradients": {
            "bytes": sum(buffer.nbytes for buffer in gradients),
            "buckets": [buffer.nbytes for buffer in gradients],
            "seconds": spread(found[0]).to_json(),
        },
        "curve": [{"bytes": size, "seconds": spread(times).to_json()} for size, times in seconds_by_size.items()],
        **line(seconds_by_size),
    }


def measurements() -> int:
    """Measurements in each turn of `communication`."""
    return 1 + len(SIZES_BYTES)


def line(seconds: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    """Latency and time per byte, fitted to an all-reduce's seconds by size in bytes.

    In each turn the line `seconds = latency + bytes * seconds_per_byte` has the least squares of its relative errors:
    those of absolute ones would be decided by the largest size alone.

    Args:
        seconds: for each size in bytes, at least two, the seconds in every turn.

    Returns:
        The keys `latency_seconds` and `seconds_per_byte`, each with its spread over turns.

    Example:
        >>> found = line({1000: [0.011, 0.021], 2000: [0.012, 0.022]})
        >>> [round(value, 9) for value in found["latency_seconds"]["values"] + found["seconds_per_byte"]["values"]]
        [0.01, 0.02, 1e-06, 1e-06]
    """
    fits = [_fit(dict(zip(seconds, times, strict=True))) for times in zip(*seconds.values(), strict=True)]
    latencies, rates = zip(*fits, strict=True)
    return {"latency_seconds": spread(latencies).to_json(), "seconds_per_byte": spread(rates).to_json()}


def _fit(seconds: Mapping[int, float]) -> tuple[float, float]:
    """Latency and seconds per byte: the least squares of `1 - (latency + bytes * rate) / seconds`."""
    pairs = [(1 / taken, size / taken) for size, taken in seconds.items()]
    one, other = sum(a for a, _ in pairs), sum(b for _, b in pairs)
    aa, ab, bb = sum(a * a for a, _ in pairs), sum(a * b for a, b in pairs), sum(b * b for _, b in pairs)
    under = aa * bb - ab * ab
    return (one * bb - other * ab) / under, (other * aa - one * ab) / under


def _time(buffers: Sequence[Tensor], count: int, ranks: Ranks, device: torch.device) -> float:
    """Seconds of one all-reduce of `buffers`, the mean of `count`, on the slowest rank."""

    def reduce() -> None:
        for _ in range(count):
            _distributed.all_reduce(buffers)

    return slowest(reduce, ranks, device) / count


def slowest(call: Callable[[], None], ranks: Ranks, device: torch.device) -> float:
    """Seconds of a call on the slowest rank; if memory runs out on any of them, all raise torch.OutOfMemoryError."""
    wait_for(device)
    begin, failed = time.perf_counter(), ""
    try:
        call()
        wait_for(device)
    except torch.OutOfMemoryError as error:
        failed = str(error) or "memory ran out"
    found = ranks.gathered((time.perf_counter() - begin, failed))
    if any(words for _, words in found):
        raise torch.OutOfMemoryError(next(words for _, words in found if words))
    return max(seconds for seconds, _ in found)
