"""The device of a run, and what a result depends on besides its settings."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

import adabatch
from adabatch import _distributed, _random
from adabatch._errors import ArgumentError

NAMES: Final = ("auto", "cpu", "cuda", "cuda:N", "mps")
_NAME: Final = re.compile(r"auto|cpu|cuda(:(0|[1-9][0-9]{0,3}))?|mps")


def check_name(name: Any) -> None:
    """Checks that `name` is a device's name, whether the device exists or not.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ArgumentError("device", f"must be one of {', '.join(NAMES)}", value=name)


def pick_device(name: str) -> torch.device:
    """The device `name`; `"auto"` is a CUDA GPU if there is one, else the CPU.

    Under torchrun each process takes the GPU of its number on this machine.

    Raises:
        ValueError: if there is no such device.
        RuntimeError: if torchrun's environment is incomplete.
    """
    check_name(name)
    if (launch := _distributed.launched()) is not None and torch.cuda.is_available() and name not in ("cpu", "mps"):
        return _gpu_of(launch, name)
    kind, _, index = name.partition(":")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        kind = "cuda" if gpus else "cpu"
    elif kind == "cuda" and not gpus:
        raise _missing(name, "no GPU")
    elif kind == "mps" and not torch.backends.mps.is_available():
        raise _missing(name, "no GPU of Apple's")
    if not index:
        return torch.device(kind)
    if int(index) >= gpus:
        there = "cuda:0 alone" if gpus == 1 else f"cuda:0 to cuda:{gpus - 1}"
        raise _missing(name, there, remedy="use one of them, auto or cpu")
    return torch.device(kind, int(index))


def _gpu_of(launch: _distributed.Launch, name: str) -> torch.device:
    """The GPU of a process that torchrun started; raises in all processes of a machine that has too few."""
    gpus = torch.cuda.device_count()
    if ":" in name:
        raise ArgumentError(
            "device", "must name no number under torchrun", value=name, remedy="each process takes the GPU of its own"
        )
    if launch.local_world > gpus:
        got = f"{launch.local_world} processes on this machine, and torch sees {gpus}"
        remedy = f"start with --nproc-per-node {gpus}, or train on the CPU"
        raise ArgumentError("device", "must be a GPU of its own for each process", got=got, remedy=remedy)
    return torch.device("cuda", launch.local)


def _missing(name: str, there: str, *, remedy: str = "use auto or cpu") -> ArgumentError:
    return ArgumentError("device", "must be there", got=f"{name!r}, and torch sees {there}", remedy=remedy)


@contextmanager
def entered(device: torch.device) -> Iterator[None]:
    """While entered, makes a GPU with an index the current one; restores random states afterwards."""
    current = torch.cuda.device(device) if device.type == "cuda" and device.index is not None else nullcontext()
    with current, _random.kept([device]):
        yield


def wait_for(device: torch.device) -> None:
    """Waits until a GPU has finished its work; returns at once for a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def is_read_freely(device: torch.device) -> bool:
    """Whether reading a number after every update costs nothing; on a GPU each read waits for the update."""
    return device.type == "cpu"


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """While entered, torch computes on the CPU with `number` threads; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def versions(device: torch.device) -> dict[str, Any]:
    """Everything but the settings that a result depends on: versions, git revision of the working folder, hardware.

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
    """The processor's full name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    """The revision of the working folder, and whether files differ from it; None outside a repository."""
    try:
        revision = _ask_git("rev-parse", "HEAD")
        return {"revision": revision, "changed": bool(_ask_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _ask_git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
