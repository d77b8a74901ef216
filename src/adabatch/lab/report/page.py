"""Pages of comparisons, runs, plans, probes, studies, branchings and advice: one HTML file that needs no network.

It holds a script that draws, the charts as JSON, the tables and the style. A policy in the file forbids it to load
anything, so it looks the same wherever it is opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, Final

from adabatch import _files
from adabatch._errors import ArgumentError
from adabatch.lab.report import contents, folders
from adabatch.lab.report.advising.contents import of_advices
from adabatch.lab.report.branching.contents import of_findings
from adabatch.lab.report.charts import AXES
from adabatch.lab.report.look import ON_DARK

NAME: Final = "report.html"
_SCRIPTS: Final = ("scale.js", "draw.js", "pointer.js", "page.js")
_POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
)
_PAGES: Final[dict[type, Callable[[Any], contents.Content]]] = {
    folders.Finished: contents.of_comparison,
    folders.SavedRun: contents.of_run,
    folders.Together: contents.of_together,
    folders.Unfinished: contents.of_unfinished,
    folders.Plan: contents.of_plan,
    folders.Probe: contents.of_probe,
    folders.Studies: of_findings,
    folders.Advices: of_advices,
}


def write(folder: Path, out: Path | None = None) -> Path:
    """Writes the page of a folder from `adabatch compare`, `train`, `plan`, `probe`, `study` or `advise`.

    It replaces `out`, by default `report.html` in the folder, whole or not at all. Errors name an `out` that is given.

    Raises:
        FileNotFoundError: if the folder is from none of these, or a file is missing.
        ValueError: if a file is damaged or of another kind, the run was never evaluated, or `out` is no file.
        OSError: if the file cannot be written.
    """
    text = html(folders.read(folder))
    return _replace(text, folder / NAME) if out is None else _write(text, out)


def write_together(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page of at least two runs; or of studies and branchings, with probes; or of pieces of advice.

    It replaces `out` whole or not at all: by default `report.html` in the folder that holds them all, or in that of the
    only study or branching.

    Raises:
        FileNotFoundError: if a folder is not there, or a study, branching or advice is not finished.
        ValueError: if two folders are the same or of different kinds, a file is damaged, a run was never evaluated, a
            probe is of another task or network, or `out` is no file.
        OSError: if the file cannot be written.
    """
    found = folders.read_together(runs)
    shown = [folder.resolve() for folder in runs if not folders.is_probe(folder)]
    around = shown[0] if len(shown) == 1 else Path(os.path.commonpath([folder.parent for folder in shown]))
    return _write(html(found), around / NAME if out is None else out)


def _write(page: str, out: Path) -> Path:
    try:
        return _replace(page, out)
    except OSError as error:
        raise type(error)(
            f"`out` must be a file that can be written, got {str(out)!r} ({error.strerror}); take another place"
        ) from error


def _replace(page: str, out: Path) -> Path:
    out = out.resolve()  # replaces the target of a link, not the link
    if out.exists() and not out.is_file():
        got = f"{str(out)!r}, which is something else"
        raise ArgumentError("out", "must be a file", got=got, remedy="take another place")
    _files.write(out, lambda file: file.write(page.encode(errors="replace")))  # a path in it may hold any bytes
    return out


def html(found: folders.Source) -> str:
    """The page of a record from `folders`."""
    made = _PAGES[type(found)](found)
    style = _asset("page.css") + _colours(made.paint)
    script = "".join(_asset(name) for name in _SCRIPTS)
    data = {"charts": made.charts, "axes": AXES}
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n',
            f"<title>{escape(made.title)}</title>\n<style>{style}</style>\n</head>\n<body>\n",
            made.body,
            f'<script type="application/json" id="data">{_script_safe(data)}</script>\n',
            f'<script>"use strict";\n(() => {{\n{script}}})();</script>\n</body>\n</html>\n',
        ]
    )


def _colours(paint: Mapping[str, str]) -> str:
    """The style sheet of the arms' colours, on light and dark grounds."""
    light, dark = (
        "".join(f'[data-arm="{_css(name)}"]{{--arm:{colour}}}' for name, colour in found.items())
        for found in (paint, {name: ON_DARK[colour] for name, colour in paint.items()})
    )
    return f"{light}\n@media (prefers-color-scheme: dark) {{{dark}}}"


def _asset(name: str) -> str:
    return resources.files("adabatch.lab.report").joinpath("page_assets", name).read_text(encoding="utf-8")


def _script_safe(values: Any) -> str:
    """JSON that no text in it can break out of; numbers that are not finite become null."""
    text = json.dumps(_finite(values), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(values: Any) -> Any:
    """The same values with as many digits as can be seen; infinity and NaN, as of a loss, become None."""
    if isinstance(values, float):
        return float(f"{values:.7g}") if abs(values) < float("inf") else None
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [_finite(value) for value in values]
    return values


def _css(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else f"\\{ord(letter):x} " for letter in text)
