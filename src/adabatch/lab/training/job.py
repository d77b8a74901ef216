"""The torchrun job that trains in a run folder: when torchrun restarts its processes the run goes on by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from adabatch import _distributed, _files

NAME: Final = "torchrun.json"


def note(folder: Path) -> None:
    """Writes into a run folder which torchrun job trains there; without torchrun nothing."""
    if (job := _distributed.job()) is not None:
        _files.write_json(folder / NAME, {"job": job})


def goes_on(folder: Path) -> bool:
    """Whether this process's torchrun job has begun the run in `folder`, or resumed it."""
    job = _distributed.job()
    return job is not None and (folder / "config.json").exists() and _noted(folder) == job


def folder_of(above: Path, pattern: str) -> Path | None:
    """The run folder in `above`, its name matching a glob, in which this process's torchrun job trains; else None."""
    return next((found for found in sorted(above.glob(pattern)) if goes_on(found)), None)


def _noted(folder: Path) -> object:
    """The job that is noted in a run folder; None for none, or if the note is damaged."""
    try:
        values = _files.json_of(folder / NAME)
    except (OSError, ValueError):
        return None
    return values.get("job") if isinstance(values, dict) else None
