"""The tables of an advice for terminals (rich)."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from adabatch.lab.advice import NO_GAIN, Advice
from adabatch.lab.report import figures as shared
from adabatch.lab.report import terminal, words
from adabatch.lab.report.advising import figures


def tables(found: Advice) -> Iterator[Table]:
    """The constant batch sizes, then the schedules; nothing where none was trained."""
    if found.verdict == NO_GAIN:
        return
    yield _table(f"{found.task}, {found.model}: constant batch sizes", figures.constant(found))
    yield _table("Growing batch sizes", figures.growing(found))


def _table(title: str, found: shared.Table) -> Table:
    made = terminal.new_table(title, [found.corner, *found.columns])
    for _, rows in found.groups:
        for label, cells in rows:
            made.add_row(*(Text(words.typed(cell)) for cell in (label, *cells)))
    return made
