"""A branching in tables: the largest batches that do no harm, and what a larger batch costs."""

from __future__ import annotations

from adabatch.lab.report.branching.words import cost_words, fork_name, percent
from adabatch.lab.report.figures import Table
from adabatch.lab.report.scaling.words import number, told
from adabatch.lab.report.words import NOTHING, TIMES
from adabatch.lab.scaling import BranchCell, BranchFindings


def harmless(found: BranchFindings) -> Table:
    """The largest batch size that does no harm: a row for each window and tolerance, a column for each fork."""
    base = found.base_batch_size
    rows = [
        (percent(row.window), [percent(row.tolerance), *(f"{factor * base:,}" for factor in row.factors)])
        for row in found.harmless
    ]
    return Table(["tolerance", *map(fork_name, found.forks)], [("", rows)], corner="window")


def costs(found: BranchFindings) -> Table:
    """What a larger batch costs: a row for each window, fork and batch size; truths come last, where they are known."""
    known = any(cell.truth is not None for cell in found.cells)
    rows = [(percent(cell.fork), [*_cost(found, cell), *([_truth(cell)] if known else [])]) for cell in found.cells]
    columns = ["window", "batch size", f"LR {TIMES}", "loss ratio", "samples ratio", *(["truth"] if known else [])]
    return Table(columns, [("", rows)], corner="at")


def _cost(found: BranchFindings, cell: BranchCell) -> list[str]:
    size = found.base_batch_size * cell.factor
    return [percent(cell.window), f"{size:,}", f"{cell.lr_factor:.3g}", told(cell.loss_ratio), cost_words(cell)]


def _truth(cell: BranchCell) -> str:
    return NOTHING if cell.truth is None else number(cell.truth)
