"""Decodes many small images with pillow, on all cores.

For images of a few thousand pixels pillow spends most of its time in Python, which threads cannot share. So processes
decode. They are programs of their own: not forked, and without running the user's script again. They get the encoded
images through a pipe and write pixels straight into the cache's file. Starting them before the images are read hides
the time that this takes.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from adabatch._errors import ArgumentError, UsageError
from adabatch.lab.tasks.task import first_line, needs

MODES: Final = {1: "L", 3: "RGB"}
FEW: Final = 2_000_000  # bytes of image files below which starting processes takes longer than it saves
_CODE: Final = "from adabatch.lab.tasks import decode; decode.work()"
_Pixels = npt.NDArray[np.uint8]
_Images = Sequence[bytes | None]
_Error = tuple[int, str]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Decoder:
    """Decodes images of one size into an array, once; used in a `with` statement, which ends its processes.

    Args:
        size: roughly how many bytes there are to decode; decides whether processes are worth starting.
        workers: processes; 0 decodes in this one, None takes one for each core if they are worth starting.

    Example:
        >>> pixels = np.empty((0, 3, 32, 32), dtype=np.uint8)
        >>> with Decoder(workers=0) as decoder:
        ...     decoder.decode([], pixels, where=lambda row: f"row {row}")
    """

    def __init__(self, size: int = 0, *, workers: int | None = None) -> None:
        if workers is None:
            workers = cores() if size >= FEW and sys.executable else 0
        path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        command, around, pipe = [sys.executable, "-c", _CODE], {**os.environ, "PYTHONPATH": path}, subprocess.PIPE
        self._processes = [
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=around) for _ in range(workers)
        ]

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def decode(self, encoded: _Images, pixels: _Pixels, *, where: Callable[[int], str]) -> None:
        """Decodes images.

        Args:
            encoded: image files.
            pixels: filled with the pixels, uint8 `[images, channels, height, width]`, 1 or 3 channels; mapped from a
                file if there are processes.
            where: gives an image's name in errors from its number.

        Raises:
            ValueError: if an image is missing, cannot be decoded or has another size or mode; the message names it.
            RuntimeError: if a process fails.
            ModuleNotFoundError: if pillow is missing.
        """
        if not self._processes:
            errors = [_decode_all(encoded, pixels)]
        else:
            count, parts = len(encoded), len(self._processes)
            bounds = pairwise(count * index // parts for index in range(parts + 1))
            with ThreadPoolExecutor(parts) as pool:
                jobs = zip(self._processes, bounds, strict=True)
                errors = list(pool.map(lambda job: _by_process(job[0], encoded, pixels, *job[1]), jobs))
        for error in errors:
            if error is not None:
                raise ArgumentError(None, f"{where(error[0])} {error[1]}")


def _decode_all(encoded: _Images, pixels: _Pixels) -> _Error | None:
    """Decodes images; returns the number of the first unusable one and the reason, None if all are usable."""
    with needs("decoding images needs pillow"):
        from PIL import Image, JpegImagePlugin, PngImagePlugin
    # Without the search for the format opening takes half as long.
    openers = {b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile, b"\x89PN": PngImagePlugin.PngImageFile}
    channels, height, width = pixels.shape[1:]
    mode, size, shape = MODES[channels], (width, height), (height, width, channels)
    for index, content in enumerate(encoded):
        if not content:
            return index, "must hold an image file that can be decoded: there is none"
        try:
            with openers.get(content[:3], Image.open)(io.BytesIO(content)) as image:
                if image.size != size or image.mode != mode:
                    found = f"{image.width}x{image.height} in mode {image.mode}"
                    return index, f"must be an image of {width}x{height} in mode {mode}, got {found}"
                row = np.frombuffer(image.tobytes(), np.uint8)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return index, f"must hold an image file that can be decoded: {first_line(error)}"
        pixels[index] = row.reshape(shape).transpose(2, 0, 1)
    return None


def _by_process(process: Any, encoded: _Images, pixels: Any, first: int, last: int) -> _Error | None:
    """Lets a process decode the images from `first` to before `last`."""
    assert isinstance(pixels, np.memmap)
    rows = [content or b"" for content in encoded[first:last]]
    shape = [len(rows), *pixels.shape[1:]]
    offset = pixels.offset + first * int(np.prod(shape[1:]))
    job = {"file": str(pixels.filename), "offset": offset, "shape": shape, "sizes": [len(row) for row in rows]}
    output, errors = process.communicate(b"".join([json.dumps(job).encode(), b"\n", *rows]))
    if process.returncode:
        reason = errors.decode(errors="replace").strip().rpartition("\n")[2] or f"it ended with {process.returncode}"
        raise UsageError(None, f"a process that decodes images failed: {reason}")
    error = json.loads(output)
    return None if error is None else (first + error[0], error[1])


def work(stdin: BinaryIO | None = None) -> None:
    """Runs in a process: reads a job and image files from standard input, writes pixels into the job's file."""
    stream = stdin or sys.stdin.buffer
    line = stream.readline()
    if not line:  # closed without a job
        return
    job = json.loads(line)
    rows = [stream.read(size) for size in job["sizes"]]
    error = None
    if rows:
        pixels = np.memmap(job["file"], dtype=np.uint8, mode="r+", offset=job["offset"], shape=tuple(job["shape"]))
        error = _decode_all(rows, pixels)
    print(json.dumps(error))
