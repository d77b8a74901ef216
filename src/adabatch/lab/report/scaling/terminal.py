"""The tables of a study for terminals (rich)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from rich.table import Table
from rich.text import Text

from adabatch.lab.report import terminal, words
from adabatch.lab.report.scaling import figures
from adabatch.lab.report.scaling.lines import FEW, LOSSES, NO_MACHINES, Line, lines, network
from adabatch.lab.report.scaling.machine import Machines
from adabatch.lab.report.scaling.words import told
from adabatch.lab.scaling import Study

_NARROW: Final = 12  # characters in a line of a head


def tables(study: Study, *, narrow: bool = False) -> Iterator[Table]:
    """The tables of a study: what each batch size needs, for each LR rule and loss; then the borders of all.

    With more lines than `FEW` only the borders; the page has the rest. With `narrow`, for terminals below about 110
    columns, intervals stand on lines of their own.
    """
    every = _lines(study)
    if len(every) <= FEW:
        for line in every:
            for loss in LOSSES:
                yield _needs(study, line, loss, narrow=narrow)
    yield borders(study, narrow=narrow)


def borders(study: Study, machines: Machines = NO_MACHINES, *, narrow: bool = False) -> Table:
    """The borders of a study, beside the limits of machines."""
    found = figures.borders(_lines(study, machines))
    heads = ["\n".join(textwrap.wrap(name, _NARROW)) if narrow else name for name in found.columns]
    made = terminal.new_table(f"{study.task}: borders, in batch sizes", ["", *heads])
    for title, rows in found.groups:
        made.add_row(Text(title, style="bold"))
        for label, cells in rows:
            made.add_row(
                Text(f"- {label}".replace(", LR", ",\n  LR" if narrow else ", LR")),
                *(_cell(cell, narrow=narrow) for cell in cells),
            )
    return made


def _lines(study: Study, machines: Machines = NO_MACHINES) -> list[Line]:
    """The lines of a study, each with its network and LR rule as its name."""
    found = lines({"": study}, machines)
    return [replace(line, name=f"{network(line.panel)}, LR {line.rule.rule}") for line in found]


def _needs(study: Study, line: Line, loss: str, *, narrow: bool) -> Table:
    """What each batch size needs under one LR rule."""
    title = f"{study.task}, {line.name}: {figures.aim(line, loss)}"
    made = terminal.new_table(
        title, ["batch size", "LR", "arrived", "updates", "speedup", "cost", "seconds"], first="right"
    )
    cells = {cell.batch_size: cell for cell in line.rule.cells}
    for row in line.to(loss).to_target:
        cell = cells[row.batch_size]
        texts = [
            f"{row.batch_size:,}",
            f"{cell.lr:.4g}{' [edge]' if cell.at_edge else ''}",
            f"{row.arrived} of {row.n}",
            told(row.updates),
            figures.speedup(row),
            told(row.cost),
            told(row.seconds),
        ]
        made.add_row(*(_cell(text, narrow=narrow) for text in texts))
    return made


def _cell(text: str, *, narrow: bool) -> Text:
    return Text(words.typed(text).replace(" [", "\n[" if narrow else " ["))
