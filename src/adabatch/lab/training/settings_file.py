"""Settings of a run in a file that a user gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from adabatch._errors import ArgumentError
from adabatch.lab.training.config import SETTINGS

_REMEDY: Final = "give a run folder, its config.json, or a file like it with some of its settings"


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a file, all of `RunConfig` or some.

    Args:
        path: the file, or a run folder with a config.json.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged, or holds something else.
    """
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        if file.exists():
            got = f"{str(file)!r}, which is something else"
            raise ArgumentError("config", "must be a file", got=got, remedy=_REMEDY)
        if (path / "comparison.json").exists():
            raise FileNotFoundError(
                f"`config` must be of one run, got the comparison {str(path)!r}; each run in it has one: "
                f"{path / 'runs' / 'ARM' / 'seed-0'}"
            )
        raise FileNotFoundError(f"`config` must be there, got {str(file)!r}, which is not; {_REMEDY}")
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ArgumentError("config", "must hold JSON", got=f"a damaged {file} ({error})", remedy=_REMEDY) from None
    if not isinstance(values, dict):
        got = f"{file} with {str(values)[:40]!r}"
        raise ArgumentError("config", "must hold settings by name", got=got, remedy=_REMEDY)
    if unknown := [name for name in values if name not in SETTINGS]:
        got = f"{', '.join(map(repr, unknown[:5]))} in {file}"
        raise ArgumentError("config", "must hold settings of a run", got=got, remedy=f"there are {', '.join(SETTINGS)}")
    for name, value in values.items():
        if isinstance(value, dict | list):
            raise ArgumentError("config", f"must have one value for {name}", got=f"{str(value)[:40]!r} in {file}")
    return values
