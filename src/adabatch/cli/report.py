"""`adabatch report`: a page of a comparison or of a run, to look at in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adabatch.cli import _shared
from adabatch.cli._options import OUTPUT, AsJson, path_of

FolderArgument = Annotated[
    Path,
    typer.Argument(parser=path_of, metavar="FOLDER", help="What adabatch compare or adabatch train wrote with --out."),
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

    Works for a finished comparison and for a run, also one that is still under way.

    Examples:
        adabatch report runs/demo

        adabatch report runs/demo/runs/adaptive/seed-0 --out adaptive.html
    """
    from adabatch.report import page

    if out is not None and out.is_dir():
        raise ValueError(f"`out` must be a file, got the folder {str(out)!r}; for example {str(out / page.NAME)!r}")
    written = page.write(folder, out)
    if as_json:
        _shared.print_json({"page": str(written)})
    else:
        _shared.console().print(f"Written to {written}; open it in a browser.", soft_wrap=True, markup=False)
