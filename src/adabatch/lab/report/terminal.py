"""Tables of comparisons and throughput for terminals (rich), and as Markdown for files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adabatch.lab.comparison import Comparison
from adabatch.lab.report import figures, headline, words
from adabatch.lab.report.figures import COLUMNS, Interim
from adabatch.lab.shapes import Json
from adabatch.lab.tuning import Tuning

_BOUNDLESS: Final = 1_000_000


def compare_table(compare: Comparison, *, narrow: bool = False) -> Table:
    """A column per arm, a row per figure: first the arm's own, then its gains over the baselines.

    With `narrow`, for terminals below about 110 columns, intervals stand on lines of their own.
    """
    seeds = f"{len(compare.seeds)} {words.plural('seed', len(compare.seeds))}"
    facts = f"{compare.task}, {compare.model} on {compare.device}, {seeds}"
    found = figures.comparison_typed(compare)
    table = new_table(f"{facts}: {headline.plain(compare)[0]}", ["", *found.columns])
    for title, rows in found.groups:
        if title:
            table.add_row(Text(title, style="bold"))
        for label, cells in rows:
            texts = (words.typed(cell).replace(" [", "\n[" if narrow else " [") for cell in cells)
            table.add_row(f"- {label}" if title else label, *map(Text, texts))
    return table


def interim_table(interim: Interim) -> Table:
    """A comparison under way: a row per arm."""
    table = new_table(f"{interim.facts}. {interim.title}", ["", *COLUMNS])
    for name, cells in interim.rows():
        table.add_row(Text(name), *cells)
    return table


def probe_table(probe: Json) -> Table:
    """The table of a `probe.json`: a row per batch size, with its speed against the first one."""
    points = probe["curve"]
    first = points[0]["batch_size"]
    title = f"{probe['task']}, {probe['model']} on {probe['device']}: training throughput"
    columns = ["batch size", "samples/s", "lowest to highest", "seconds a step", f"against {first}, 95 %"]
    found = figures.probe(points)
    table = new_table(title, [*columns, *found.columns[3:]], first="right")
    for point, (_, (rate, around, against, *alone)) in zip(points, found.groups[0][1], strict=True):
        size = point["batch_size"]
        step = f"{size / point['samples_per_second']['median']:.3g}"
        table.add_row(str(size), rate, around, step, Text(words.typed(against)), *map(words.typed, alone))
    return table


def tuning_table(found: Tuning) -> Table:
    """The table of a `tune.json`: a row per switch."""
    shown = figures.tuning(found)
    title = f"Speed of {found.task}, {found.model} on {found.device} with a switch against without, 95 %"
    table = new_table(title, [shown.corner, *shown.columns])
    for label, cells in shown.groups[0][1]:
        table.add_row(Text(label), *(Text(words.typed(cell)) for cell in cells))
    return table


def reduced_table(communication: Json) -> Table:
    """The table of all-reduces in a `probe.json`: a row per size, and one for the gradients."""
    found = figures.reduced(communication)
    title = f"All-reduce over {communication['world_size']} processes ({communication['backend']})"
    table = new_table(title, [found.corner, *found.columns], first="right")
    for label, cells in found.groups[0][1]:
        table.add_row(label, *cells)
    return table


def workers_tables(workers: Json) -> list[Table]:
    """The tables of the key `workers` of a `plan.json`: a row per number of workers, and a row per batch size."""
    made = []
    for title, found in (
        ("The training on more workers", figures.workers(workers)),
        ("Workers that pay, by batch size", figures.paying(workers)),
    ):
        table = new_table(title, [found.corner, *found.columns], first="right")
        for label, cells in found.groups[0][1]:
            table.add_row(label, *map(Text, cells))
        made.append(table)
    return made


def whole_width(table: Table) -> int:
    """The width, in characters, at which no cell of a table is cut or wrapped."""
    return Console(width=_BOUNDLESS).measure(table).maximum


def plain(table: Table) -> str:
    """A table in Markdown, without colour: a line for each row, as wide as its cells."""
    stream = io.StringIO()
    shown, table.box = table.box, box.MARKDOWN
    title, table.title = table.title, None
    console = Console(file=stream, width=whole_width(table), color_system=None, force_terminal=False, highlight=False)
    console.print(table)
    table.box, table.title = shown, title
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    return "\n".join([f"{title}", "", *(line for line in lines if line)])


def new_table(title: str, columns: Sequence[str], *, first: str = "left") -> Table:
    """An empty table with a title; the cells of the first column stand `first`, those of the others right."""
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 and first == "left" else "right", no_wrap=index == 0)
    return table
