"""Decodes many small images with pillow, on all cores.

For images of a few thousand pixels most of pillow's time is spent in Python, which threads cannot share, so there are
processes. They are started as programs of their own (not forked, and without running the user's script again), get the
encoded images through a pipe and write pixels straight into the cache's file.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

MODES: Final = {1: "L", 3: "RGB"}
FEW: Final = 2000  # below this many images starting processes takes longer than it saves
_Pixels = npt.NDArray[np.uint8]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode(encoded: Sequence[bytes | None], pixels: _Pixels, *, source: str, workers: int | None = None) -> None:
    """Decodes images of one size into an array.

    Args:
        encoded: image files.
        pixels: filled with the pixels, uint8 `[images, channels, height, width]`, 1 or 3 channels; mapped from a file
            if there is to be more than one process.
        source: what to call the images in an error.
        workers: processes; None takes one for each core if that is worth it.

    Raises:
        ValueError: if an image is missing, cannot be decoded or is of another size or kind; the message names the row.
        ModuleNotFoundError: if pillow is missing.
    """
    count = len(encoded)
    if workers is None:
        workers = cores() if count >= FEW and isinstance(pixels, np.memmap) and sys.executable else 1
    if workers == 1:
        _decode_rows(encoded, pixels, first=0, source=source)
        return
    assert isinstance(pixels, np.memmap)
    bounds = [count * index // workers for index in range(workers + 1)]
    with ThreadPoolExecutor(workers) as pool:
        parts = [pool.submit(_in_process, encoded, pixels, *part, source) for part in pairwise(bounds)]
        errors = [error for part in parts if (error := part.result())]
    if errors:
        raise ValueError(errors[0])


def _decode_rows(encoded: Sequence[bytes | None], pixels: _Pixels, *, first: int, source: str) -> None:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("decoding images needs pillow; run: pip install 'adabatch[data]'") from error
    channels, height, width = pixels.shape[1:]
    mode, size = MODES[channels], (width, height)
    for index, content in enumerate(encoded):
        try:
            with Image.open(io.BytesIO(content or b"")) as image:
                same = image.size == size and image.mode == mode
                found = image.tobytes() if same else b""
        except (OSError, SyntaxError, ValueError) as error:
            line = str(error).strip().partition("\n")[0].rstrip(".") if content else "there is none"
            where = f"row {first + index} of {source}"
            raise ValueError(f"{where} must hold an image file that can be decoded: {line}") from None
        if not same:
            raise ValueError(
                f"row {first + index} of {source} must be an image of {width}x{height} in mode {mode}, got "
                f"{image.width}x{image.height} in mode {image.mode}"
            )
        pixels[index] = np.frombuffer(found, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _in_process(encoded: Sequence[bytes | None], pixels: Any, first: int, last: int, source: str) -> str | None:
    """Decodes rows `first` to `last` in a process of its own; returns what is wrong with one of them."""
    rows = [content or b"" for content in encoded[first:last]]
    sizes = [len(content) for content in rows]
    offset = pixels.offset + first * pixels[0].nbytes
    job = {"file": str(pixels.filename), "offset": offset, "shape": [len(rows), *pixels.shape[1:]]}
    line = json.dumps({**job, "sizes": sizes, "first": first, "source": source}).encode() + b"\n"
    code = "from adabatch.tasks import decode; decode.work()"
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=b"".join([line, *rows]),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    if done.returncode == 0:
        error = json.loads(done.stdout)
        return str(error) if error is not None else None
    reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"it ended with {done.returncode}"
    raise RuntimeError(f"a process that decodes {source} failed: {reason}")


def work(stdin: BinaryIO | None = None) -> None:
    """What a process does: reads a job and image files from standard input, writes pixels into the job's file."""
    stream = stdin or sys.stdin.buffer
    job = json.loads(stream.readline())
    rows = [stream.read(size) for size in job["sizes"]]
    pixels = np.memmap(job["file"], dtype=np.uint8, mode="r+", offset=job["offset"], shape=tuple(job["shape"]))
    error = None
    try:
        _decode_rows(rows, pixels, first=job["first"], source=job["source"])
    except ValueError as found:
        error = str(found)
    print(json.dumps(error))
