"""The files beside a page: pictures where matplotlib is installed, and CSV."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from adabatch import _files
from adabatch.lab.report.scaling.lines import NO_MACHINES
from adabatch.lab.report.scaling.machine import Machines
from adabatch.lab.report.scaling.picture import NAMES, draw
from adabatch.lab.report.scaling.sheets import sheets
from adabatch.lab.scaling import Study

PICTURE: Final = NAMES["updates"]


def write(study: Study, folder: Path, machines: Machines = NO_MACHINES) -> list[str]:
    """Writes a study's CSV files and, if matplotlib is installed, its pictures; each is replaced whole or not at all.

    Returns:
        The names of the files.

    Raises:
        OSError: if a file cannot be written.
    """
    return written(folder, NAMES, partial(draw, study, machines=machines), sheets(study, machines))


def written(
    folder: Path, pictures: Mapping[str, str], draw: Callable[[str, Path], object], texts: Mapping[str, str]
) -> list[str]:
    """Writes pictures, if matplotlib is installed, and texts; each file is replaced whole or not at all.

    Args:
        folder: of the files.
        pictures: the file of each chart.
        draw: takes the name of a chart and the path to which it is drawn.
        texts: by file.

    Returns:
        The names of the files.

    Raises:
        OSError: if a file cannot be written.
    """
    names = []
    if importlib.util.find_spec("matplotlib") is not None:
        for name, file in pictures.items():
            draw(name, folder / file)
            names.append(file)
    for file, text in texts.items():
        _files.write_text(folder / file, text)
        names.append(file)
    return names
