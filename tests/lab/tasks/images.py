"""Tiny generated data sets in the layouts that the tasks read."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def pixels(number: int, size: int | tuple[int, int] = 32, channels: int = 3) -> np.ndarray:
    """Smooth pictures that differ from each other."""
    width, height = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng(number)
    waves = rng.uniform(0.05, 0.4, (2, channels))
    y, x = np.mgrid[:height, :width]
    values = 127 + 100 * np.sin(waves[0] * x[..., None] + waves[1] * y[..., None] + number)
    return values.astype(np.uint8).squeeze()


def encoded(number: int, size: int | tuple[int, int] = 32, channels: int = 3, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(number, size, channels)).save(file, kind)
    return file.getvalue()


def bomb() -> bytes:
    """A small image file whose header says that it is 200,000 x 200,000 pixels."""
    content = bytearray(encoded(0, kind="BMP"))
    content[18:26] = struct.pack("<ii", 200_000, 200_000)
    return bytes(content)


def parquet(path: Path, images: list[bytes | None], labels: list[int], *, image: str = "img", label: str = "label"):
    """One Parquet file in the hub's layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    column = pa.array(
        [{"bytes": content, "path": None} for content in images], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    pq.write_table(pa.table({image: column, label: pa.array(labels, pa.int64())}), path, row_group_size=7)


def cifar(folder: Path, *, label: str = "label", classes: int = 10, train: int = 24, test: int = 8) -> Path:
    """A data set in CIFAR's layout."""
    for split, first, count in (("train", 0, train), ("test", train, test)):
        numbers = range(first, first + count)
        parquet(
            folder / f"{split}-00000-of-00001.parquet",
            [encoded(n) for n in numbers],
            [n % classes for n in numbers],
            label=label,
        )
    return folder


def classes(number: int, size: tuple[int, int]) -> np.ndarray:
    """Class numbers from 0 to 11 for each pixel, in blocks."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return ((x // 17 + 2 * (y // 11) + number) % 12).astype(np.uint8)


def segmented(path: Path, images: list, annotations: list, *, names: tuple[str, str] = ("image", "annotation")) -> None:
    """One Parquet file of images and annotations in the hub's layout; arrays are encoded as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, columns = pa.struct([("bytes", pa.binary()), ("path", pa.string())]), []
    for values in (images, annotations):
        files = []
        for value in values:
            file = io.BytesIO(value if isinstance(value, bytes) else b"")
            if isinstance(value, np.ndarray):
                Image.fromarray(value).save(file, format="PNG")
            files.append(None if value is None else {"bytes": file.getvalue(), "path": None})
        columns.append(pa.array(files, kind))
    pq.write_table(pa.table(columns, names=list(names)), path)


def camvid(folder: Path, *, size: tuple[int, int], train: int = 6, test: int = 3) -> Path:
    """A data set in CamVid's layout."""
    for split, numbers in (("train", range(train)), ("test", range(train, train + test))):
        images, annotations = [pixels(n, size) for n in numbers], [classes(n, size) for n in numbers]
        segmented(folder / "camvid" / f"{split}-00000-of-00001.parquet", images, annotations)
    return folder


def class_folders(folder: Path, *, classes: int = 3, train: int = 4, test: int = 2) -> Path:
    """A data set as a folder of class folders, images of several sizes and kinds."""
    for split, count in (("train", train), ("val", test)):
        for number in range(classes):
            place = folder / split / f"n{number:04d}"
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                size = (40 + 13 * i, 60 - 7 * number)
                channels = 1 if i == 1 else 3
                (place / f"{i}.JPEG").write_bytes(encoded(number * 100 + i, size, channels, "JPEG"))
    return folder
