"""Small Parquet files in the layout of the Hugging Face hub."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

# Real data sets, for the few tests that need them.
REAL = Path(os.environ.get("ADABATCH_DATA") or Path(__file__).parents[4] / "shared" / "data")


def png(pixels: np.ndarray) -> bytes:
    """A PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def table(images: list[bytes | None], labels: list[int | None]) -> pa.Table:
    """Columns `image` and `label` as the hub has them."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [None if image is None else {"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    return pa.table({"image": pa.array(rows, kind), "label": pa.array(labels, pa.int64())})


def write(folder: Path, split: str, images: np.ndarray, labels: np.ndarray, *, files: int = 1) -> None:
    """Writes a split as one or several files, several row groups each."""
    folder.mkdir(parents=True, exist_ok=True)
    found = table([png(image) for image in images], labels.tolist())
    size = -(-len(labels) // files)
    for number in range(files):
        path = folder / f"{split}-{number:05}-of-{files:05}.parquet"
        pq.write_table(found.slice(number * size, size), path, row_group_size=3)


def random_set(count: int, *, seed: int, size: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Random grey images and labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size), dtype=np.uint8), rng.integers(0, 10, count)
