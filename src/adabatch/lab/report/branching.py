"""Branching in tables and sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from adabatch.lab.report.scaling.words import told
from adabatch.lab.scaling import BranchCell, BranchFindings

_GROWTH: Final = {
    "early": "Early growth suits this task: larger batches do no harm at the beginning, and harm later.",
    "late": "Late growth suits this task: larger batches do no harm late, and harm at the beginning.",
    "any time": "Growth suits this task at any time alike.",
    "none": "No larger batch is shown to do no harm; more seeds, a longer window or a larger tolerance may show one.",
}


def tables(found: BranchFindings) -> Iterator[Table]:
    """The harmless batches over windows and tolerances, then what each branch costs."""
    yield _harmless(found)
    yield _cells(found)


def _harmless(found: BranchFindings) -> Table:
    base = found.settings["base"]["batch_size"]
    table = _table(f"{found.task}, {found.model}: the largest batch that does no harm to the {found.loss} loss")
    for name in ("window", "tolerance", *(f"at {100 * fork:g} %" for fork in found.settings["forks"])):
        table.add_column(name, justify="right")
    for row in found.harmless:
        sizes = (f"{factor * base:,}" for factor in row.factors)
        table.add_row(f"{100 * row.window:.3g} %", f"{100 * row.tolerance:g} %", *sizes)
    return table


def _cells(found: BranchFindings) -> Table:
    base = found.settings["base"]["batch_size"]
    table = _table("What a larger batch costs: samples over those of the base batch to the same loss")
    for name in ("at", "window", "batch size", "LR x", "loss ratio", "samples ratio"):
        table.add_column(name, justify="right")
    for cell in found.cells:
        table.add_row(
            f"{100 * cell.fork:g} %",
            f"{100 * cell.window:.3g} %",
            f"{base * cell.factor:,}",
            f"{cell.factor**cell.power:.3g}",
            told(cell.loss_ratio),
            _cost(cell),
        )
    return table


def _cost(cell: BranchCell) -> str:
    return told(cell.cost)


def _table(title: str) -> Table:
    return Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")


def sentences(found: BranchFindings) -> Iterator[str]:
    """The answer, and what it rests on."""
    window, tolerance = f"{100 * found.window:.3g} %", f"{100 * found.tolerance:g} %"
    yield f"With a window of {window} of the training and a tolerance of {tolerance}: {_GROWTH[found.growth]}"
    yield "The answer depends on both, and branches do not see what a larger batch does over a whole training."
