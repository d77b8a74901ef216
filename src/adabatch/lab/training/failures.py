"""Failures of the machine in the middle of a run, in one line each that says what is saved and how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from adabatch._errors import AdabatchError, ArgumentError
from adabatch.lab.training import compiling
from adabatch.lab.training.config import RunConfig

_ACCELERATOR: Final = (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
_FULL: Final = (
    *("DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)
_OF_A_GPU: Final = ("CUDA error", "CUDA driver", "cuDNN error", "CUBLAS_STATUS")


@contextmanager
def told(config: RunConfig, device: torch.device, out: Path | None) -> Iterator[None]:
    """Turns failures of the device, of its memory and of compiling into errors in one line.

    The run then is as its last checkpoint left it, from which it goes on to the very result: a state in the middle of a
    failed update is not saved. Nothing is tried in another way; the user decides, by the options that the line names.

    Args:
        config: the settings of the run.
        device: that it trains on.
        out: the run folder; None if nothing is kept.

    Raises:
        ValueError: if memory ran out, the device failed, or a size could not be compiled.
    """
    try:
        yield
    except AdabatchError:
        raise
    except RuntimeError as error:
        if is_full(error):
            raise _full(config, device, error, out) from error
        if config.compile and compiling.is_of_compiling(error):
            rule, got = "must be possible to the end", compiling.words_of(error)
            off = "--no-compile --no-cuda-graphs" if config.cuda_graphs else "--no-compile"
            remedy = _and_again(out, f"with {off}, which goes on without")
            raise ArgumentError("compile", rule, got=got, remedy=remedy) from error
        if device.type == "cpu" or not is_of_the_gpu(error):
            raise
        rule, got = "must stay in working order", f"{device}: {compiling.words_of(error)}"
        remedy = _and_again(out, "once it works again, or on another `device`")
        raise ArgumentError("device", rule, got=got, remedy=remedy) from error


def is_full(error: BaseException) -> bool:
    """Whether memory ran out, of a GPU or of the machine, also where it is not torch's allocator that asks for it."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _FULL)


def is_of_the_gpu(error: BaseException) -> bool:
    """Whether an error says that a GPU failed, was lost, or refuses work."""
    return isinstance(error, _ACCELERATOR) or any(words in str(error) for words in _OF_A_GPU)


def _full(config: RunConfig, device: torch.device, error: BaseException, out: Path | None) -> ArgumentError:
    rule = "must have memory free for the training"
    got = f"{device}, which is full{_others(device)} ({compiling.words_of(error)})"
    size = config.micro_batch_size
    smaller = "a `micro_batch_size`" if size is None else f"a `micro_batch_size` below {size:,}"
    remedy = _and_again(out, "once there is more")
    return ArgumentError("device", rule, got=got, remedy=f"{remedy}; a new run takes less with {smaller}")


def _others(device: torch.device) -> str:
    """How much of a GPU's memory other processes hold, in words that follow "full"; empty where that is not known."""
    if device.type != "cuda":
        return ""
    try:
        free, whole = torch.cuda.mem_get_info(device)
        held = whole - free - torch.cuda.memory_reserved(device)
    except RuntimeError:
        return ""
    return f", {max(held, 0) / 2**30:.3g} of its {whole / 2**30:.3g} GiB by other processes"


def _and_again(out: Path | None, how: str) -> str:
    """What is saved, and how to go on."""
    if out is None or not (out / "config.json").exists():
        return f"nothing is saved; begin again {how}"
    left = "its last checkpoint" if (out / "checkpoints" / "last.pt").exists() else "its settings alone"
    return f"{out} holds {left}; to go on `resume` it {how}"
