"""Bytes: what a device has free, and what a step takes at its peak."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

NO_PEAK = "this torch cannot record allocations on the CPU"


def free_bytes(device: torch.device) -> int | None:
    """What a step could take on `device` now, beyond what is allocated; None if that cannot be told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return _free_here() if device.type == "cpu" else None


def _free_here() -> int | None:
    """Available memory of the machine, or of the control group if that has less."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text()
        if limit != "max":
            found.append(max(int(limit) - int(used), 0))
    except (OSError, ValueError):
        pass
    return min(found, default=None)


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int | None:
    """The most that tensors took during `call` beyond what they took before it; None if that cannot be told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    if device.type == "cpu":
        return _peak_here(call)
    call()
    return None


def _peak_here(call: Callable[[], Any]) -> int | None:
    """Every allocation and release of torch's CPU allocator, added up in order."""
    try:
        from torch._C._autograd import _disable_profiler_legacy, _enable_profiler_legacy
        from torch._C._profiler import ProfilerConfig, ProfilerState, _ExperimentalConfig
    except ImportError:
        call()
        return None
    config = ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig())
    _enable_profiler_legacy(config)
    try:
        call()
    finally:
        records = _disable_profiler_legacy()
    now = peak = 0
    for thread in records:
        for event in thread:
            if str(event.kind()) == "memory_alloc":
                now += event.cpu_memory_usage()
                peak = max(peak, now)
    return int(peak)
