"""Reads images and labels from Parquet files in the layout of the Hugging Face hub.

A split is one or more files `SPLIT-*.parquet` with a column of images (a struct whose field `bytes` is the encoded
image file), by default `image`, and one of whole numbers, by default `label`.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from adabatch._errors import ArgumentError, MissingPackageError

VARIABLE: Final = "ADABATCH_DATA"


def data_folder(data: Path | str | None, *, name: str) -> Path | None:
    """The folder that holds the Parquet files of the data set `name`; None when it has to be downloaded.

    Args:
        data: what the user gave, else the environment variable ADABATCH_DATA counts.
        name: of the data set.

    Raises:
        FileNotFoundError: if a folder is given and does not hold the data set.
    """
    given, argument = (data, "data") if data is not None else (os.environ.get(VARIABLE), VARIABLE)
    if not given:
        return None
    folder = Path(given)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"`{argument}` must be a folder, got {str(folder)!r}, which is none; leave it out to download the data"
        )
    for place in (folder / name, folder):
        if any(place.glob("train-*.parquet")):
            return place
    raise FileNotFoundError(
        f"`{argument}` must hold {name}/train-*.parquet or train-*.parquet, got {str(folder)!r}, which holds neither; "
        "leave it out to download the data"
    )


def table(folder: Path | None, *, split: str, hub: str, image: str = "image", label: str = "label") -> tuple[str, Any]:
    """One split as a pyarrow table with the columns `image` and `label`, and what to call it in an error.

    Args:
        folder: where the Parquet files are; None downloads the data set `hub`.
        split: `"train"` or `"test"`.
        hub: name of the data set on the hub.
        image: name of the column of images.
        label: name of the column of labels.

    Raises:
        FileNotFoundError: if the folder has no file of this split.
        ValueError: if a file is no Parquet file or its columns are others.
        OSError: if the download fails.
        ModuleNotFoundError: if a package is missing.
    """
    if folder is None:
        return f"{hub}, split {split}", _download(hub, split, image, label)
    found_files = files(folder, split=split)
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            None, "reading Parquet needs pyarrow", remedy="run: pip install 'adabatch[data]'"
        ) from error
    tables = []
    for file in found_files:
        try:
            found = pq.read_table(file)
        except pa.ArrowInvalid as error:
            raise ArgumentError(
                None, f"{file} must be a Parquet file: {first_line(error)}", remedy="fetch it again"
            ) from None
        _check_layout(found.schema, str(file), image, label)
        tables.append(found.select([image, label]).rename_columns(["image", "label"]))
    return str(found_files[0]) if len(found_files) == 1 else f"{folder / split}-*.parquet", pa.concat_tables(tables)


def files(folder: Path, *, split: str) -> list[Path]:
    """The files of one split, in order.

    Args:
        folder: where they are.
        split: such as `"train"`.

    Raises:
        FileNotFoundError: if there are none.
    """
    found = sorted(folder.glob(f"{split}-*.parquet"))
    if not found:
        raise FileNotFoundError(f"`data` must hold {split}-*.parquet, got {str(folder)!r}, which holds none")
    return found


def hub_split(folder: Path | None, *, split: str, hub: str, image: str = "image", label: str = "label") -> Any:
    """One split as a data set of the package datasets, undecoded and read from disk row by row.

    Args:
        folder: where the Parquet files are, which are unpacked into the cache; None downloads the data set `hub`.
        split: such as `"train"`.
        hub: name of the data set on the hub.
        image: name of the column of images.
        label: name of the column of labels.

    Raises:
        FileNotFoundError: if the folder has no file of this split.
        ValueError: if a file is no Parquet file or its columns are others.
        OSError: if the download or writing to the cache fails.
        ModuleNotFoundError: if a package is missing.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        what = "downloading" if folder is None else "reading single rows of Parquet files"
        raise MissingPackageError(
            None,
            f"{what} needs the package datasets",
            remedy="run: pip install 'adabatch[data]', or give another `data`",
        ) from error
    from adabatch.lab.tasks import cache

    here = [] if folder is None else [str(file) for file in files(folder, split=split)]
    source = hub if folder is None else f"{folder / split}-*.parquet"
    if here and not sum(_rows(file, image, label) for file in here):
        raise ArgumentError(None, f"{source} must have at least one row", got="none")
    try:
        if folder is None:
            found = datasets.load_dataset(hub, split=split)
        else:
            place = str(cache.location() / "hub")
            found = datasets.load_dataset("parquet", data_files={split: here}, split=split, cache_dir=place)
    except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        if folder is None:
            raise OSError(
                f"could not download {hub}: {first_line(error)}; give `data`, a folder that holds it"
            ) from error
        raise ArgumentError(
            None, f"{folder / split}-*.parquet must be Parquet files that can be read: {first_line(error)}"
        ) from error
    _check_layout(found.features.arrow_schema, source, image, label)
    return found.cast_column(image, datasets.Image(decode=False))


def _rows(file: str, image: str, label: str) -> int:
    """The number of rows of a Parquet file of the right layout."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as found:
            _check_layout(found.schema_arrow, file, image, label)
            return int(found.metadata.num_rows)
    except pa.ArrowInvalid as error:
        raise ArgumentError(
            None, f"{file} must be a Parquet file: {first_line(error)}", remedy="fetch it again"
        ) from None


def _download(hub: str, split: str, image: str, label: str) -> Any:
    """The split from the hub, undecoded, as a table."""
    found = hub_split(None, split=split, hub=hub, image=image, label=label)
    return found.with_format("arrow")[:].select([image, label]).rename_columns(["image", "label"])


def _check_layout(schema: Any, source: str, image: str, label: str) -> None:
    """Raises ValueError unless the columns are those of the hub's layout."""
    columns = {field.name: field.type for field in schema}
    images, labels = columns.get(image), columns.get(label)
    fields = [images.field(i).name for i in range(images.num_fields)] if images is not None else []
    if "bytes" in fields and labels is not None and str(labels).startswith(("int", "uint")):
        return
    listed = ", ".join(f"{name}: {kind}" for name, kind in columns.items()) or "none"
    raise ArgumentError(
        None,
        f"{source} must have the columns {image} (a struct with bytes) and {label} (whole numbers)",
        got=listed,
    )


def images_and_labels(
    table: Any, *, source: str, size: int, classes: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Decodes the images and checks the labels.

    Args:
        table: pyarrow table with the columns `image` and `label`.
        source: what to call it in an error.
        size: height and width that every image must have, in pixels.
        classes: labels must lie in `[0, classes)`.

    Returns:
        Grey images, uint8 `[samples, size, size]`, and labels, int64 `[samples]`.

    Raises:
        ValueError: if there is no row, or an image or a label is unusable; the message names the row.
        ModuleNotFoundError: if pillow is missing.
    """
    if table.num_rows == 0:
        raise ArgumentError(None, f"{source} must have at least one row", got="none")
    labels = checked_labels(table["label"], source=source, classes=classes)
    images = np.empty((len(labels), size, size), dtype=np.uint8)
    row = 0
    for chunk in table["image"].chunks:
        for encoded in chunk.field("bytes"):
            images[row] = _decode(encoded.as_py(), size=size, where=f"row {row} of {source}")
            row += 1
    return images, labels


def checked_labels(column: Any, *, source: str, classes: int) -> npt.NDArray[np.int64]:
    """The labels of a table.

    Args:
        column: pyarrow column of whole numbers.
        source: what to call it in an error.
        classes: labels must lie in `[0, classes)`.

    Raises:
        ValueError: if a label is missing or outside the classes; the message names the row.
    """
    if column.null_count:
        raise ArgumentError(None, f"{source} must have a label in every row", got=f"{column.null_count} without one")
    labels = column.to_numpy().astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        row = int(wrong[0])
        raise ArgumentError(
            None, f"{source} must have labels from 0 to {classes - 1}", got=f"{labels[row]} in row {row}"
        )
    return labels  # type: ignore[no-any-return]


def _decode(encoded: bytes | None, *, size: int, where: str) -> npt.NDArray[np.uint8]:
    """One grey image."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            None, "decoding images needs pillow", remedy="run: pip install 'adabatch[data]'"
        ) from error
    try:
        with Image.open(io.BytesIO(encoded or b"")) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ArgumentError(None, f"{where} must hold an image file that can be decoded: {first_line(error)}") from None
    if pixels.shape != (size, size) or pixels.dtype != np.uint8:
        shape = "x".join(str(n) for n in pixels.shape)
        raise ArgumentError(
            None, f"{where} must be a grey image of {size}x{size} with 8 bits", got=f"{shape} of {pixels.dtype}"
        )
    return pixels


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    line = str(error).strip().partition("\n")[0].rstrip(".")
    return re.sub(r" <_io\.BytesIO object at \w+>", "", line) or type(error).__name__
