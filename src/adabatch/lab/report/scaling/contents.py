"""The page of one or more studies: borders, charts, tables and settings."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Final

from adabatch.lab.report import blocks, look, words
from adabatch.lab.report import figures as shared
from adabatch.lab.report.charts import AXES
from adabatch.lab.report.contents import Content, device
from adabatch.lab.report.folders import Studies
from adabatch.lab.report.headline import Headline
from adabatch.lab.report.scaling import charts, figures
from adabatch.lab.report.scaling.lines import LOSSES, View, lines, network, paint, views
from adabatch.lab.report.scaling.machine import Machine, Machines, machines
from adabatch.lab.report.scaling.words import (
    advice,
    believed,
    best_rule,
    errors_words,
    line_words,
    order_words,
    peak,
    reading,
    rules_words,
    size,
    told,
)
from adabatch.lab.scaling import Estimate, Panel, Rule, Study
from adabatch.lab.shapes import Json

# Settings of a training that a study replaces by its own.
_REPLACED: Final = frozenset(
    ("task", "model", "batch_size", "growth", "every", "max_batch_size", "rule", "coupling", "transition", "seed")
)
_NOTES: Final = {
    "updates": "Marks: geometric means with 95 % intervals; dots: seeds; open marks with an arrow: runs that had not "
    "arrived. Lines: form 1 solid, form 2 dotted, the one that is used stronger. Dashed: updates fall in proportion. "
    "An arrow at an end: a border beyond the chart. Upright dotted: the largest batch size measured.",
    "speedup": "Updates of the smallest batch size over those of each; dashed: the ideal.",
    "cost": "Dashed: the samples of the smallest batch size. Perfect scaling stays on it.",
    "seconds": "Of training alone, on the machine of the study.",
    "trade": "A mark for each batch size: the smallest lies right, the largest left. Down and left is better.",
    "curves": "A line for each training; dotted: the target. Each loss was measured after a cooldown of its own, which "
    "is counted.",
}
_LIMITS: Final = (
    " Machine, by the probe: a triangle at 95 % of the highest throughput, a cross where memory is full, if the axis "
    "reaches so far."
)


def of_studies(found: Studies, below: Sequence[str] = ()) -> Content:
    """The page of the studies in one or more folders; `below` are blocks after their tables."""
    studies, limits = found.studies, machines(found)
    choices = views(studies, limits)
    first, sizes = next(iter(studies.values())), charts.sizes_of(lines(studies))
    ramp = look.ramp(charts.batch_name(size) for size in sizes)
    drawn, seen = _drawn(choices)
    symbols = {line.name: look.symbol(place) for view in choices for place, line in enumerate(view.lines)}
    tasks = list(dict.fromkeys(study.task for study in studies.values()))
    seeds = max((len(cell.curves) for line in lines(studies) for cell in line.rule.cells), default=0)
    place = device(str(first.versions.get("device", "")), first.versions) if len(studies) == 1 else ""
    body = [
        blocks.header(
            ["study", *tasks[:3], place, f"{seeds} {words.plural('seed', seeds)}"],
            Headline(_title(studies), _lead(studies)),
        ),
        blocks.cards(_cards(first, limits)) if len(studies) == len(first.panels) == 1 else "",
        blocks.bar(
            blocks.legend(dict.fromkeys(symbols, ""), seen=_seen(choices), symbols=symbols),
            blocks.menu("view", "lines", {view.key: view.title for view in choices}),
            blocks.switch("loss", "loss", {"test": "test", "train": "training"}, "test", style="choice"),
        ),
        *_places(drawn, seen, ("updates",), more=_LIMITS if limits else ""),
        f'<div class="grid">{"".join(_places(drawn, seen, ("speedup", "cost", "seconds", "trade")))}</div>',
        f"<div {blocks.seen_in(seen['curves'])}>",
        blocks.bar(
            blocks.legend(dict.fromkeys(ramp, ""), symbols=dict.fromkeys(ramp, "circle")),
            blocks.switch("axis", "against", {key: key if key != "seconds" else "time" for key in AXES}, "samples"),
            still=True,
        ),
        "</div>",
        *_places(drawn, seen, ("curves",)),
        *_tables(choices),
        *below,
        *_settings(studies),
        blocks.FOOTER,
    ]
    colours = paint(choices) | ramp
    return Content(f"study: {', '.join(tasks)}", blocks.main(body), drawn, colours)


def _drawn(choices: Sequence[View]) -> tuple[dict[str, Any], dict[str, str]]:
    """Each chart in the form of each choice, and the choices in which it is seen."""
    networks = [view for view in choices if not view.key.startswith("rule")]
    made: dict[str, Any] = {}
    for name, draw in charts.CHARTS.items():
        forms = {}
        for view in networks if name == "curves" else choices:
            for loss in LOSSES:
                if any(line.to(loss).to_target for line in view.lines) or name == "curves":
                    forms[f"{view.key}-{loss}"] = draw(view.lines, loss)
        if forms:
            made[name] = {"of": forms}
    return made, {name: " ".join(made[name]["of"]) if name in made else "" for name in charts.CHARTS}


def _places(drawn: Mapping[str, Any], seen: Mapping[str, str], names: Sequence[str], *, more: str = "") -> list[str]:
    shown = [name for name in names if name in drawn]
    return [blocks.chart(name, charts.TITLES[name], f"{_NOTES[name]}{more}", inside=seen[name]) for name in shown]


def _seen(choices: Sequence[View]) -> dict[str, str]:
    """The choices in which each line is seen, by name."""
    inside: dict[str, list[str]] = {}
    for view in choices:
        for line in view.lines:
            inside.setdefault(line.name, []).extend(f"{view.key}-{loss}" for loss in LOSSES)
    return {name: " ".join(keys) for name, keys in inside.items()}


def _title(studies: Mapping[str, Study]) -> str:
    """Where perfect scaling ends, of all networks and folders."""
    tasks = words.listed(list(dict.fromkeys(study.task for study in studies.values())))
    found = [
        end for study in studies.values() for panel in study.panels for end in [_end(panel)] if end.estimate is not None
    ]
    if not found:
        return f"Where a larger batch stops paying on {tasks} is not found."
    ends = [size(end) for end in sorted(end.estimate or 0.0 for end in found)]
    if ends[0] == ends[-1]:
        return f"Perfect scaling on {tasks} ends at batch size {ends[0]}."
    return f"Perfect scaling on {tasks} ends between batch sizes {ends[0]} and {ends[-1]}."


def _end(panel: Panel) -> Estimate:
    """The end of perfect scaling under the best LR rule, for the test loss."""
    rule = best_rule(panel)
    fits = None if rule is None else rule.test.fits
    return Estimate() if fits is None else believed(fits).batch_at_20_percent_more_samples


def _lead(studies: Mapping[str, Study]) -> str:
    panels = [(folder, panel) for folder, study in studies.items() for panel in study.panels]
    if len(panels) == 1:
        return advice(panels[0][1])
    told_each = []
    for folder, panel in panels:
        rule, end = best_rule(panel), _end(panel).estimate
        name = ", ".join([*([folder] if len(studies) > 1 else []), network(panel)])
        if rule is not None and end is not None:
            told_each.append(f"{name}: {size(end)} under LR {rule.rule}")
    if not told_each:
        return "Too few batch sizes arrived at their targets."
    return f"Up to these batch sizes a target takes at most 20 % more samples. {'; '.join(told_each)}."


def _cards(study: Study, limits: Machines) -> list[str]:
    """The borders of the only network under its best LR rule, for the test loss, and the limits of the machine."""
    panel = study.panels[0]
    rule = best_rule(panel)
    fits = None if rule is None else rule.test.fits
    if rule is None or fits is None:
        return []
    fit = believed(fits)
    where = f"{panel.model}, LR {rule.rule}, test loss"
    made = []
    for label, value in (
        ("perfect scaling ends", fit.batch_at_20_percent_more_samples),
        ("critical batch size", fit.critical_batch),
        ("stagnation begins", fit.stagnation_batch),
    ):
        middle, _, interval = told(value).partition(" [")
        made.append(
            blocks.card(label, middle or told(value), f"95 % interval [{interval}; {where}" if interval else where)
        )
    return [*made, *_limit_cards(rule, limits.get((study.task, panel.model)))]


def _limit_cards(rule: Rule, machine: Machine | None) -> list[str]:
    speed = "95 % of the highest throughput"
    if machine is not None:
        memory = blocks.card("memory is full at", machine.memory, "by the probe, in batch sizes")
        return [blocks.card(speed, machine.speed, "by the probe, in batch sizes"), memory]
    most = peak(rule.cells)
    if most is None:
        return []
    grew = most == max(cell.batch_size for cell in rule.cells)
    note = "of the batch sizes measured; it still grew" if grew else "from there on a larger batch is hardly faster"
    return [blocks.card(speed, f"{most:,}", note)]


def _tables(choices: Sequence[View]) -> Iterator[str]:
    """Sentences and tables, each seen under the choices that it belongs to."""
    for view in choices:
        both = " ".join(f"{view.key}-{loss}" for loss in LOSSES)
        for loss in LOSSES:
            key = f"{view.key}-{loss}"
            told_each = {line.name: line_words(line, loss) for line in view.lines}
            panels = {id(line.panel): line.panel for line in view.lines} if loss == "test" else {}
            more = [t for panel in panels.values() for t in rules_words(panel)]
            more += [t for line in view.lines if (t := errors_words(line))]
            below = "".join(f"<p>{words.html(t)}</p>" for t in more)
            parts = [
                blocks.section("In words", blocks.sentences(told_each) + below),
                _order(view, loss),
                blocks.section("To the target", blocks.table(figures.needs(view.lines, loss)) + _note(view)),
                blocks.section("Fits", blocks.table(figures.fits(view.lines, loss)) + _FORMS),
            ]
            yield f'<div class="stack" {blocks.seen_in(key)}>{"".join(parts)}</div>'
        table = blocks.table(figures.trainings(view.lines)) + _ERRORS
        yield f"<div {blocks.seen_in(both)}>{blocks.details('How the trainings ended', table)}</div>"


def _order(view: View, loss: str) -> str:
    """Borders beside the limits of machines; empty without a probe."""
    if not any(line.machine for line in view.lines):
        return ""
    told_each = {line.name: text for line in view.lines if (text := order_words(line, loss))}
    table = blocks.table(figures.borders(view.lines, [loss]))
    return blocks.section("Which comes first", blocks.sentences(told_each) + table)


_FORMS: Final = (
    '<p class="note">Form 1: updates = fewest × (1 + critical batch / batch). Form 2: the same with (critical batch / '
    "batch) to the power of an exponent. Of both, the critical batch is where updates are twice the fewest. Lack of "
    "fit: how probable a misfit as large is by chance, if the form is true.</p>"
)
_ERRORS: Final = (
    '<p class="note">Linear-approximation error: how far the loss of a batch after one step at the linearly scaled LR '
    "is from what its gradient foretells, at the end of the budget in which the target is set, in units of the loss. "
    "Above about 1 the step is too long for the gradient.</p>"
)


def _note(view: View) -> str:
    return f'<p class="note">{words.html(reading(view.lines[0].study))}</p>'


def _settings(studies: Mapping[str, Study]) -> list[str]:
    differ, same = shared.settings({folder: flat(study.settings) for folder, study in studies.items()})
    others, versions = shared.settings({folder: study.versions for folder, study in studies.items()})
    return [
        blocks.details("Settings", blocks.table(differ) + blocks.facts(same)),
        blocks.details("Versions", blocks.table(others) + blocks.facts(versions)),
    ]


def flat(settings: Json, without: Container[str] = _REPLACED) -> Json:
    """Settings of a study, and those of its trainings except `without`, which it replaces."""
    base = settings.get("base")
    found = {key: value for key, value in base.items() if key not in without} if isinstance(base, Mapping) else {}
    found |= {key: value for key, value in settings.items() if key != "base"}
    return {
        key: ", ".join(words.plain(each) for each in value) if isinstance(value, list | tuple) else value
        for key, value in found.items()
    }
