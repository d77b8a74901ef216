"""The files beside a study's page: CSV, and pictures where matplotlib is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from adabatch import _files
from adabatch.lab.report.scaling.picture import NAMES, draw
from adabatch.lab.report.scaling.sheets import sheets
from adabatch.lab.scaling import Study

PICTURE: Final = NAMES["updates"]


def write(study: Study, folder: Path) -> list[str]:
    """Writes a study's CSV files and, if matplotlib is installed, its pictures; each is replaced whole or not at all.

    Returns:
        The names of the files.

    Raises:
        OSError: if a file cannot be written.
    """
    names = []
    if importlib.util.find_spec("matplotlib") is not None:
        for name, file in NAMES.items():
            draw(study, name, folder / file)
            names.append(file)
    for file, text in sheets(study).items():
        _files.write(folder / file, lambda stream, text=text: stream.write(text.encode()))  # type: ignore[misc]
        names.append(file)
    return names
