"""The page of studies and branchings: of a branching its answer, charts, tables and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from adabatch.lab.report import blocks, look, words
from adabatch.lab.report import figures as shared
from adabatch.lab.report.branching import charts, figures
from adabatch.lab.report.branching.words import answer, percent, schedule_words, sentences, steps
from adabatch.lab.report.contents import Content, device
from adabatch.lab.report.folders import Studies
from adabatch.lab.report.headline import Headline
from adabatch.lab.report.scaling.contents import flat, of_studies
from adabatch.lab.scaling import BranchFindings

_OTHERS: Final = frozenset(("task", "model", "seed"))  # settings that are told elsewhere, or replaced
_NOTES: Final = {
    "cost": "Samples over those that the base batch needs to the same loss, with 95 % intervals; on the dotted line a "
    "larger batch costs nothing. An open mark with an arrow is a bound. Forks stand side by side.",
    "harmless": "At each fork the largest batch whose loss is shown to be within the tolerance of the base batch's. A "
    "wide line may lie under a narrow one.",
}
_TRUTH: Final = " Crosses: the truth, computed without sampling."


def of_findings(found: Studies) -> Content:
    """The page of the studies and branchings in one or more folders."""
    branches = found.branches
    if not branches:
        return of_studies(found)
    drawn: dict[str, Any] = {}
    paint = charts.lines(branches.values())
    names = list(paint)
    several = len(branches) + len(found.studies) > 1
    legend = blocks.legend(
        dict.fromkeys(names, ""), symbols={name: look.symbol(place) for place, name in enumerate(names)}
    )
    below = [blocks.bar(legend, still=bool(found.studies))]
    for place, (folder, one) in enumerate(branches.items(), start=1):
        ids = {name: f"branch-{name}" + (f"-{place}" if len(branches) > 1 else "") for name in charts.CHARTS}
        drawn |= {ids[name]: draw(one, names) for name, draw in charts.CHARTS.items()}
        below += _blocks(one, ids, f"{folder}: " if several else "")
    colours = paint | {charts.SCHEDULE: look.COLOURS["adaptive"]}
    if found.studies:
        page = of_studies(found, below)
        return replace(page, charts={**page.charts, **drawn}, paint={**page.paint, **colours})
    tasks = list(dict.fromkeys(f"{one.task}, {one.model}" for one in branches.values()))
    body = [_header(branches, tasks), *([] if several else _cards(*branches.values())), *below, blocks.FOOTER]
    return Content(f"branching: {'; '.join(tasks)}", blocks.main(body), drawn, colours)


def _header(branches: Mapping[str, BranchFindings], tasks: Sequence[str]) -> str:
    """The answer of the only branching, or of each."""
    first, *others = branches.values()
    if others:
        told = " ".join(f"{folder}: {answer(one)}" for folder, one in branches.items())
        return blocks.header(["branching", *tasks[:3]], Headline(f"{len(branches)} branchings side by side.", told))
    seeds = len(first.settings["seeds"])
    place = device(str(first.versions.get("device", "")), first.versions)
    facts = ["branching", *tasks, place, f"{seeds} {words.plural('seed', seeds)}"]
    grid = f"With a window of {percent(first.window)} of the training and a tolerance of {percent(first.tolerance)}."
    return blocks.header(facts, Headline(answer(first), f"{schedule_words(first)} {grid}"))


def _cards(found: BranchFindings) -> list[str]:
    """The largest batch that does no harm, and how the LR follows."""
    at, largest = max(steps(found), key=lambda step: step[1])
    where = f"from {percent(at)} of the training on" if at else "no larger one is shown to do no harm"
    made = [
        blocks.card("base batch", f"{found.base_batch_size:,}"),
        blocks.card("largest batch without harm", f"{largest:,}", where),
        blocks.card("coupling", found.coupling, "how the LR follows the batch size"),
    ]
    return [blocks.cards(made)]


def _blocks(found: BranchFindings, ids: Mapping[str, str], head: str) -> Iterator[str]:
    """The charts, sentences, tables and settings of a branching; `head` goes before titles."""
    made_by = f"For a window of {percent(found.window)} and a tolerance of {percent(found.tolerance)}."
    notes = {**_NOTES, "schedule": made_by}
    if any(cell.truth is not None for cell in found.cells):
        notes["cost"] += _TRUTH
    places = {
        name: blocks.chart(ids[name], f"{head}{title}", notes[name], size="short" if name == "schedule" else "")
        for name, title in charts.TITLES.items()
    }
    yield places["cost"]
    yield f'<div class="grid">{places["harmless"]}{places["schedule"]}</div>'
    told = "".join(f"<p>{words.html(sentence)}</p>" for sentence in sentences(found))
    yield blocks.section(f"{head}In words", told)
    yield blocks.section(f"{head}Harmless batches", blocks.table(figures.harmless(found)))
    yield blocks.section(f"{head}Costs", blocks.table(figures.costs(found)))
    for title, values in (("Settings", flat(found.settings, _OTHERS)), ("Versions", found.versions)):
        _, facts = shared.settings({"": values})
        yield blocks.details(f"{head}{title}", blocks.facts(facts))
