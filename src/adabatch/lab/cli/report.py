"""`adabatch report`: a page for the browser, from a folder that another command wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adabatch._errors import ArgumentError
from adabatch.lab.cli import _shared
from adabatch.lab.cli._options import AsJson, path_of
from adabatch.lab.training.config import OUTPUT

FolderArgument = Annotated[
    list[Path],
    typer.Argument(
        parser=path_of,
        metavar="FOLDER",
        help="What another command wrote with --out; or several runs, or studies, or pieces of advice.",
    ),
]
OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out", parser=path_of, metavar="FILE", help="The page; else report.html in FOLDER.", rich_help_panel=OUTPUT
    ),
]


@_shared.guarded
def command(folder: FolderArgument, out: OutFile = None, as_json: AsJson = False) -> None:
    """Make a page with charts, tables and settings from FOLDER: one HTML file that needs no network.

    Works for a comparison and for a run, finished or still under way, for a plan, for a probe, for a finished study and
    for advice. Several runs, with any settings, come side by side on one page, as do several studies; it is written to
    the folder that holds them all. Of several pieces of advice the page tells how often their forecasts held. Without
    --out a study's folder also gets its charts as PNG, if matplotlib is installed, and as CSV.

    Examples:
        adabatch report runs/demo

        adabatch report runs/demo/runs/adaptive/seed-0 --out adaptive.html

        adabatch report runs/demo/runs/adaptive/seed-0 runs/demo/runs/uncoupled/seed-0
    """
    from adabatch.lab.report import page

    if out is not None and out.is_dir():
        raise ArgumentError(
            "out", "must be a file", got=f"the folder {str(out)!r}", remedy=f"for example {str(out / page.NAME)!r}"
        )
    written = page.write(folder[0], out) if len(folder) == 1 else page.write_together(folder, out)
    beside = _files_of_study(folder[0]) if len(folder) == 1 and out is None else []
    if as_json:
        _shared.print_json({"page": str(written)} | ({"files": beside} if beside else {}))
        return
    console = _shared.console()
    console.print(f"Written to {written}; open it in a browser.", soft_wrap=True, markup=False)
    if beside:
        console.print(f"Beside it: {', '.join(beside)}.", soft_wrap=True, markup=False)


def _files_of_study(folder: Path) -> list[str]:
    """Writes the charts of a study to its folder, as pictures and CSV; returns their names, none for anything else."""
    from adabatch.lab.report import folders
    from adabatch.lab.report.scaling import files

    found = folders.read(folder)
    if not isinstance(found, folders.Studies):
        return []
    (study,) = found.studies.values()
    return files.write(study, folder)
