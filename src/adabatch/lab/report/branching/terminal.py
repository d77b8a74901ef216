"""The tables of a branching for terminals (rich)."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from adabatch.lab.report import terminal, words
from adabatch.lab.report.branching import figures
from adabatch.lab.report.figures import Table as Figures
from adabatch.lab.scaling import BranchFindings


def tables(found: BranchFindings) -> Iterator[Table]:
    """The harmless batches over windows and tolerances, then what each branch costs."""
    title = f"{found.task}, {found.model}: the largest batch that does no harm to the {found.loss} loss"
    yield _typed(title, figures.harmless(found))
    title = "What a larger batch costs: samples over those of the base batch to the same loss"
    yield _typed(title, figures.costs(found))


def _typed(title: str, found: Figures) -> Table:
    table = terminal.new_table(title, [found.corner, *map(words.typed, found.columns)], first="right")
    for _, rows in found.groups:
        for label, cells in rows:
            table.add_row(label, *(Text(words.typed(cell)) for cell in cells))
    return table
