"""A branching in words: its answer, its schedule, and what they rest on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from adabatch.lab.report.scaling.words import told
from adabatch.lab.scaling import BranchCell, BranchFindings, Harmless

_GROWTH: Final = {
    "early": "Early growth suits this task: larger batches do no harm at the beginning, and harm later.",
    "late": "Late growth suits this task: larger batches do no harm late, and harm at the beginning.",
    "any time": "Growth suits this task at any time alike.",
    "none": "No larger batch is shown to do no harm; more seeds, a longer window or a larger tolerance may show one.",
}


def percent(share: float) -> str:
    """A share in per cent: `"1.56 %"`."""
    return f"{100 * share:.3g} %"


def fork_name(fork: float) -> str:
    """The name of a fork: `"at 5 %"`."""
    return f"at {percent(fork)}"


def tolerance_name(tolerance: float) -> str:
    """The name of a tolerance: `"tolerance 1 %"`."""
    return f"tolerance {percent(tolerance)}"


def cost_words(cell: BranchCell) -> str:
    """The cost of a larger batch with its interval; of one beyond what was measured, the bound: `"over 2"`."""
    return told(cell.cost if cell.cost.estimate else replace(cell.cost, estimate=None))


def chosen(found: BranchFindings) -> Harmless:
    """The factors by which the schedule is made."""
    wanted = (found.window, found.tolerance)
    return next(row for row in found.harmless if (row.window, row.tolerance) == wanted)


def steps(found: BranchFindings) -> list[tuple[float, int]]:
    """The schedule: shares of the training, at first 0, and the batch size from each on."""
    base = found.base_batch_size
    made = [(0.0, base)]
    for fork, factor in zip(found.forks, chosen(found).factors, strict=True):
        if factor * base != made[-1][1]:
            made.append((fork, factor * base))
    return made


def answer(found: BranchFindings) -> str:
    """Whether early or late growth suits the task."""
    return _GROWTH[found.growth]


def schedule_words(found: BranchFindings) -> str:
    """The schedule in a sentence."""
    (_, first), *later = steps(found)
    if not later:
        return f"The schedule stays at batch size {first:,}."
    parts = [f"batch size {first:,}", *(f"from {percent(at)} of the training on {size:,}" for at, size in later)]
    return f"The schedule: {', '.join(parts)}."


def sentences(found: BranchFindings) -> Iterator[str]:
    """The answer, the schedule, and what they rest on."""
    grid = f"a window of {percent(found.window)} of the training and a tolerance of {percent(found.tolerance)}"
    yield f"With {grid}: {answer(found)}"
    yield schedule_words(found)
    yield "The answer depends on both, and branches do not see what a larger batch does over a whole training."
