"""The device of a run, and what a result depends on besides its settings."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import adabatch
from adabatch import _checks


def pick_device(name: str) -> torch.device:
    """The device `name`; `"auto"` is a GPU where there is one.

    Raises:
        ValueError: if it is not there.
    """
    _checks.one_of("device", name, ("auto", "cpu", "cuda"))
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("`device` must be there, got 'cuda', and torch sees no GPU; use auto or cpu")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Torch computes on the CPU with `number` threads while it is entered; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def versions(device: torch.device) -> dict[str, Any]:
    """What a result depends on besides its settings: versions, git revision of the working folder, hardware, threads.

    Args:
        device: that the run uses.

    Returns:
        JSON-safe values under the keys `adabatch`, `device`, `device_name`, `git`, `numpy`, `platform`, `python`,
        `threads` and `torch`.
    """
    return {
        "adabatch": adabatch.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "git": _git(),
    }


def _processor() -> str:
    """The processor's name as its maker writes it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    """Revision of the working folder and whether files differ from it; None outside a repository."""
    try:
        revision = _ask_git("rev-parse", "HEAD")
        return {"revision": revision, "changed": bool(_ask_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _ask_git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
