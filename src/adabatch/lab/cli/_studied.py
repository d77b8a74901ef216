"""Writes the files of a finished study or branching, and names the commands that come next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

from adabatch import _files
from adabatch._errors import ArgumentError, naming
from adabatch.lab import tasks

if TYPE_CHECKING:
    from adabatch.lab.scaling import BranchFindings, Study
    from adabatch.lab.study.branch import Branching
    from adabatch.lab.study.grid import Grid
    from adabatch.lab.training.config import RunConfig

PATIENCE: Final = 60.0  # seconds to wait for another process that writes the same files
FURTHER: Final = 4  # times the largest batch size of a study, up to which a probe looks for the limits of the machine


def check_seeds(file: Path, setting: Grid | Branching) -> None:
    """Raises if findings in a file, of the same settings, are of seeds that `setting` leaves out: they would be lost.

    Raises:
        ValueError: if so.
    """
    try:
        theirs = _files.json_of(file)["settings"]
        seeds = [] if setting.differences(theirs) else theirs["seeds"]
        lost = {*seeds} - {*setting.seeds}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return  # nothing that could be lost
    if lost:
        rule = f"must hold those of {file}, {', '.join(map(str, seeds))}"
        remedy = "give as many or more, from the same `seed` on, or another `out`"
        raise ArgumentError("seeds", rule, got=", ".join(map(str, setting.seeds)), remedy=remedy)


def write_study(found: Study, out: Path) -> list[str]:
    """Writes all files of a finished study; returns what to say about them."""
    from adabatch.lab.report import page
    from adabatch.lab.report.scaling import files
    from adabatch.lab.training import lock, writing
    from adabatch.lab.training.folder import write_json

    with writing(out), naming(folder="out"), lock.held(out, patience=PATIENCE):  # workers end at about the same time
        write_json(out / "study.json", found.to_json())
        names = ["study.json", *files.write(found, out), page.write(out).name]
    return _written(out, names, files.PICTURE)


def write_branch(found: BranchFindings, out: Path) -> list[str]:
    """Writes all files of a finished branching; returns what to say about them."""
    from adabatch.lab.report import page
    from adabatch.lab.report.branching import files
    from adabatch.lab.training import lock, writing
    from adabatch.lab.training.folder import write_json

    with writing(out), naming(folder="out"), lock.held(out, patience=PATIENCE):
        write_json(out / "branch.json", found.to_json())
        write_json(out / "schedule.json", found.schedule)
        names = ["branch.json", "schedule.json", *files.write(found, out), page.write(out).name]
    return _written(out, names, files.PICTURE)


def _written(out: Path, names: list[str], picture: str) -> list[str]:
    notes = [f"Written to {out}: {', '.join(names)}."]
    return notes if picture in names else [*notes, "For pictures run: pip install 'adabatch[plot]'"]


def to_probe(grid: Grid, out: Path) -> str:
    """The commands that set the machine's limits beside the borders of a study."""
    base = grid.base
    commands: list[str] = []
    places: list[str] = []
    for model in grid.models:
        places.append(str(out.parent / "-".join(["probe", base.task, *([model] if len(grid.models) > 1 else [])])))
        how = ["adabatch", "probe", base.task, "--model", model, "--batch-size", str(grid.batch_sizes[0])]
        how += ["--max-batch-size", str(FURTHER * grid.batch_sizes[-1]), "--out", places[-1]]
        for name in ("optimizer", "device", "threads", "data"):
            value = getattr(base, name)
            usual = tasks.get(base.task).defaults["optimizer"] if name == "optimizer" else "auto"
            how += [] if value in (None, usual) else [f"--{name}", str(value)]
        commands.append(shlex.join(how))
    commands.append(shlex.join(["adabatch", "report", str(out), *places]))
    return f"To see whether throughput or memory ends before these borders: {' && '.join(commands)}"


def to_train(found: BranchFindings, base: RunConfig, out: Path) -> list[str]:
    """The command that trains by the schedule of a branching; none if it does not grow."""
    if found.growth == "none":
        return []
    how = ["adabatch", "train", base.task, "--model", base.model, "--growth-file", str(out / "schedule.json")]
    how += ["--coupling", found.coupling, "--lr", f"{base.lr:g}", "--epochs", str(base.epochs)]
    return [f"To train by it: {shlex.join(how)}"]
