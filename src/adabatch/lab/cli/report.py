"""`adabatch report`: a page for the browser, from a folder that another command wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adabatch._errors import ArgumentError
from adabatch.lab.cli import _shared
from adabatch.lab.cli._options import AsJson, path_of
from adabatch.lab.training.config import OUTPUT

if TYPE_CHECKING:
    from adabatch.lab.report.folders import Studies

FolderArgument = Annotated[
    list[Path],
    typer.Argument(
        parser=path_of,
        metavar="FOLDER",
        help="What another command wrote with --out; or several runs, studies with probes, or pieces of advice.",
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

    Works for a comparison and for a run, finished or still under way, for a plan, for a probe, for a finished study,
    with or without --branch, and for advice. Several runs, with any settings, come side by side on one page, as do
    several studies; it is written to the folder that holds them all. A probe after a study sets the batch sizes of 95 %
    of peak throughput and of full memory beside the study's borders, and says which comes first. Of several pieces of
    advice the page tells how often their forecasts held. Without --out a study's folder also gets its charts as PNG, if
    matplotlib is installed, and as CSV.

    Examples:
        adabatch report runs/demo

        adabatch report runs/demo/runs/adaptive/seed-0 --out adaptive.html

        adabatch report runs/demo/runs/adaptive/seed-0 runs/demo/runs/uncoupled/seed-0

        adabatch report runs/study-digits runs/probe-digits
    """
    from adabatch.lab.report import folders, page

    if out is not None and out.is_dir():
        raise ArgumentError(
            "out", "must be a file", got=f"the folder {str(out)!r}", remedy=f"for example {str(out / page.NAME)!r}"
        )
    alone = len(folder) == 1
    written = page.write(folder[0], out or folder[0] / page.NAME) if alone else page.write_together(folder, out)
    found = folders.read(folder[0]) if alone else folders.read_together(folder)
    studies = found if isinstance(found, folders.Studies) else folders.Studies()
    beside = _files(studies, written.parent) if out is None else []
    order = _order(studies)
    if as_json:
        told = {"files": beside, "which_comes_first": order}
        _shared.print_json({"page": str(written)} | {name: values for name, values in told.items() if values})
        return
    console = _shared.console()
    console.print(f"Written to {written}; open it in a browser.", soft_wrap=True, markup=False)
    if beside:
        console.print(f"Beside it: {', '.join(beside)}.", soft_wrap=True, markup=False)
    if studies.probes:
        _print_borders(studies)
    for line in order:
        console.print(line, markup=False)


def _files(found: Studies, folder: Path) -> list[str]:
    """Writes the charts of the only study or branching to its folder, as pictures and CSV; returns their names."""
    from adabatch.lab.report.branching import files as of_branches
    from adabatch.lab.report.scaling import files as of_studies
    from adabatch.lab.report.scaling.machine import machines

    if len(found.studies) + len(found.branches) > 1:
        return []
    limits = machines(found)
    names = [name for study in found.studies.values() for name in of_studies.write(study, folder, limits)]
    return names + [name for one in found.branches.values() for name in of_branches.write(one, folder)]


def _order(found: Studies) -> list[str]:
    """The borders of studies and the limits of probes in the order of batch sizes, in sentences."""
    from adabatch.lab.report.scaling.lines import LOSSES, lines
    from adabatch.lab.report.scaling.machine import machines
    from adabatch.lab.report.scaling.words import order_words

    every = lines(found.studies, machines(found)) if found.probes else ()
    told = [(line.folder, order_words(line, loss)) for line in every for loss in LOSSES]
    return [f"{folder}: {text}" if len(found.studies) > 1 else text for folder, text in told if text]


def _print_borders(found: Studies) -> None:
    from adabatch.lab.report.scaling.machine import machines
    from adabatch.lab.report.scaling.terminal import borders
    from adabatch.lab.report.terminal import whole_width

    limits, console = machines(found), _shared.console()
    for study in found.studies.values():
        narrow = console.is_terminal and whole_width(borders(study, limits)) > console.width
        _shared.print_table(borders(study, limits, narrow=narrow))
