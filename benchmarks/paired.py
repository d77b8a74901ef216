"""Paired timing: A B, B A, ... in one process, told as ratios with intervals, written with versions and hardware."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import adabatch
from adabatch.study.statistics import paired_ratio


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call, with the garbage collector held back as `timeit` does."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    finally:
        gc.enable()


def compare(
    ours: Callable[[], object], theirs: Callable[[], object], *, pairs: int, warm_up: int = 2
) -> dict[str, Any]:
    """Times both in alternating order; the ratio is ours / theirs (below 1: ours is faster)."""
    for _ in range(warm_up):
        ours()
        theirs()
    mine, other = [], []
    for index in range(pairs):
        order = ((mine, ours), (other, theirs))
        for values, call in order if index % 2 else order[::-1]:
            values.append(seconds(call))
    ratio = paired_ratio(mine, other)
    return {
        "pairs": pairs,
        "ratio": {"median": ratio.median, "low": ratio.low, "high": ratio.high},
        "ours_seconds": {"median": statistics.median(mine), "min": min(mine), "max": max(mine)},
        "theirs_seconds": {"median": statistics.median(other), "min": min(other), "max": max(other)},
    }


def environment() -> dict[str, Any]:
    """Versions and hardware that a result belongs to."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "adabatch": adabatch.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write(path: Path, name: str, results: dict[str, Any]) -> None:
    """Writes one result file, whole or not at all, and prints it."""
    content = {"benchmark": name, "command": " ".join(["python", *sys.argv]), "environment": environment(), **results}
    text = json.dumps(content, indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, path)
    print(text, end="")
