"""Reads images and labels from Parquet files in the layout of the Hugging Face hub.

A split is one or more files `SPLIT-*.parquet` with a column of images (a struct whose field `bytes` is the encoded
image file), by default `image`, and a column of whole numbers, by default `label`; of segmentation another of images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from adabatch import _files
from adabatch._errors import ArgumentError
from adabatch.lab.tasks.task import first_line, given_data, needs

DOWNLOAD: Final = "leave it out to download the data"


@dataclass(frozen=True, slots=True)
class Split:
    """A split in memory: encoded images and labels."""

    source: str  # its name in errors
    table: Any  # of pyarrow, with the columns `image` and `label`

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def images(self, column: str = "image") -> list[bytes | None]:
        """The encoded images; those of the column `label` where these are images too."""
        return [image for chunk in self.table[column].chunks for image in chunk.field("bytes").to_pylist()]

    def labels(self, classes: int) -> npt.NDArray[np.int64]:
        """The labels, checked by `checked_labels`."""
        return checked_labels(self.table["label"], source=self.source, classes=classes)

    def buffers(self) -> list[Any]:
        """All its memory buffers."""
        return [b for column in self.table.columns for chunk in column.chunks for b in chunk.buffers() if b]

    def where(self, row: int) -> str:
        """The name of a row in errors."""
        return f"row {row} of {self.source}"


def holds(place: Path) -> bool:
    """Whether a folder holds Parquet files to train on."""
    return any(place.glob("train-*.parquet"))


def data_folder(
    data: Path | str | None, *, name: str, fits: Callable[[Path], bool] = holds, what: str = "", remedy: str = DOWNLOAD
) -> Path | None:
    """The folder that holds the files of the data set `name`; None if none is given.

    It is the user's folder or a folder `name` in it. `what` says in words what `fits` looks for.

    Raises:
        FileNotFoundError: if a folder is given and does not hold the data set.
    """
    folder, argument = given_data(data)
    if folder is None:
        return None
    if not folder.is_dir():
        raise FileNotFoundError(f"`{argument}` must be a folder, got {str(folder)!r}, which is none; {remedy}")
    for place in (folder / name, folder):
        if fits(place):
            return place
    what = what or f"{name}/train-*.parquet or train-*.parquet"
    raise FileNotFoundError(f"`{argument}` must hold {what}, got {str(folder)!r}, which holds neither; {remedy}")


def files(folder: Path, *, split: str) -> list[Path]:
    """The files of one split, in order.

    Raises:
        FileNotFoundError: if there are none.
    """
    found = sorted(folder.glob(f"{split}-*.parquet"))
    if not found:
        raise FileNotFoundError(f"`data` must hold {split}-*.parquet, got {str(folder)!r}, which holds none")
    return found


def read(
    folder: Path | None,
    *,
    split: str,
    hub: str = "",
    image: str = "image",
    label: str = "label",
    labels_are_images: bool = False,
) -> Split:
    """One split, read whole.

    Args:
        folder: where the Parquet files are; None downloads the data set `hub`.
        split: `"train"` or `"test"`.
        hub: name of the data set on the hub.
        image: name of the column of images.
        label: name of the column of labels.
        labels_are_images: whether these are images too, of class numbers.

    Raises:
        FileNotFoundError: if the folder has no file of this split.
        ValueError: if a file is no Parquet file, has other columns, or there is no row.
        OSError: if the download fails.
        ModuleNotFoundError: if a package is missing.
    """
    with needs("reading Parquet needs pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    if folder is None:
        source = f"{hub}, split {split}"
        tables = [hub_split(None, split=split, hub=hub, image=image, label=label).with_format("arrow")[:]]
    else:
        found = files(folder, split=split)
        source = str(found[0]) if len(found) == 1 else f"{folder / split}-*.parquet"
        tables = []
        for file in found:
            try:
                tables.append(pq.read_table(file))
            except pa.ArrowInvalid as error:
                raise _no_parquet(file, error) from None
            _check_layout(tables[-1].schema, str(file), image, label, labels_are_images)
    whole = [table.select([image, label]).rename_columns(["image", "label"]) for table in tables]
    table = pa.concat_tables(whole)
    if not table.num_rows:
        raise ArgumentError(None, f"{source} must have at least one row", got="none")
    return Split(source, table)


def _no_parquet(file: Path | str, error: Exception) -> ArgumentError:
    return ArgumentError(None, f"{file} must be a Parquet file: {first_line(error)}", remedy="fetch it again")


def hub_split(folder: Path | None, *, split: str, hub: str, image: str = "image", label: str = "label") -> Any:
    """One split as a data set of the package datasets, undecoded and read from disk row by row.

    Parquet files from a folder are unpacked into the cache; without a folder, `hub` is downloaded.

    Raises:
        FileNotFoundError: if the folder has no file of this split.
        ValueError: if a file is no Parquet file or has other columns.
        OSError: if the download or writing to the cache fails.
        ModuleNotFoundError: if a package is missing.
    """
    what = "downloading" if folder is None else "reading single rows of Parquet files"
    remedy = "run: pip install 'adabatch[data]', or give another `data`"
    with needs(f"{what} needs the package datasets", remedy=remedy):
        import datasets
    here = [] if folder is None else [str(file) for file in files(folder, split=split)]
    source = hub if folder is None else f"{folder / split}-*.parquet"
    if here and not sum(_rows(file, image, label) for file in here):
        raise ArgumentError(None, f"{source} must have at least one row", got="none")
    try:
        if folder is None:
            found = datasets.load_dataset(hub, split=split)
        else:
            place = str(_files.cache_folder() / "hub")
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
        raise _no_parquet(file, error) from None


def _check_layout(schema: Any, source: str, image: str, label: str, labels_are_images: bool = False) -> None:
    """Raises ValueError unless the columns are those of the hub's layout."""
    columns = {field.name: field.type for field in schema}
    images, labels = columns.get(image), columns.get(label)
    fits = _are_images(labels) if labels_are_images else str(labels).startswith(("int", "uint"))
    if _are_images(images) and fits:
        return
    kind = "a struct with bytes" if labels_are_images else "whole numbers"
    listed = ", ".join(f"{name}: {kind}" for name, kind in columns.items()) or "none"
    raise ArgumentError(
        None,
        f"{source} must have the columns {image} (a struct with bytes) and {label} ({kind})",
        got=listed,
    )


def _are_images(column: Any) -> bool:
    """Whether a column's type is that of images."""
    return column is not None and "bytes" in [column.field(i).name for i in range(column.num_fields)]


def checked_labels(column: Any, *, source: str, classes: int) -> npt.NDArray[np.int64]:
    """The labels of a table.

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
