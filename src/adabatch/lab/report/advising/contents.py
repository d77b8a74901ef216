"""The page of an advice, or of several: verdict, charts, tables, settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from adabatch.lab.advice import NO_GAIN, Advice
from adabatch.lab.report import blocks, look, words
from adabatch.lab.report import figures as shared
from adabatch.lab.report.advising import charts, figures
from adabatch.lab.report.advising.words import coverage, outcome, ratio, regret, sentences, verdict
from adabatch.lab.report.contents import Content, device
from adabatch.lab.report.folders import Advices
from adabatch.lab.report.headline import Headline
from adabatch.lab.report.scaling.charts import batch_name
from adabatch.lab.report.scaling.words import number, told

# Settings of a training that the advice replaces by its own.
_REPLACED: Final = frozenset(("growth", "growth_file", "every", "max_batch_size", "rule", "coupling", "lr_schedule"))
_LOSSES: Final = (
    "A line for each training at a constant batch size; each of its losses was measured after a cooldown of its own. A "
    "mark for each training by a schedule, at its end: what lies below and left of the best line is faster."
)
_RATIOS: Final = (
    "The time of the best constant batch over that of the schedule, to the same test loss; right of the dashed line "
    "growth is faster. Thick: the forecast for three other seeds with 80 %; thin: with 95 %. A diamond: the outcome, "
    "with a 95 % interval."
)
_READING: Final = (
    '<p class="note">Regret: the time that the advised choice takes over that of the best constant batch, by the '
    "outcome; below 1 it is faster.</p>"
)


def of_advices(found: Advices) -> Content:
    """The page of the advice in one or more folders."""
    if len(found.advices) > 1:
        return _several(found.advices)
    ((name, advice),) = found.advices.items()
    return _one(name, advice)


def _one(name: str, found: Advice) -> Content:
    drawn = (
        {}
        if found.verdict == NO_GAIN
        else {"losses": charts.losses(found), "ratios": charts.forecasts({f"schedule {found.chosen}": found})}
    )
    ramp = look.ramp(batch_name(row.batch_size) for row in found.fixed)
    symbols = charts.symbols(found)
    lead, *others = sentences(found)
    said = "".join(f"<li>{words.html(text)}</li>" for text in others)
    where = device(str(found.versions.get("device", "")), found.versions)
    seeds = f"{len(found.seeds)} {words.plural('seed', len(found.seeds))}" if found.seeds else ""
    body = [
        blocks.header(["advice", found.task, found.model, where, seeds], Headline(verdict(found), lead)),
        blocks.cards(_cards(found)),
        blocks.bar(blocks.legend(dict.fromkeys(symbols, ""), symbols=symbols)) if drawn else "",
    ]
    if drawn:
        marks = {charts.FORECAST: "circle", charts.OUTCOME: "diamond"}
        if found.outcome is None:
            del marks[charts.OUTCOME]
        body += [
            blocks.chart("losses", "Test loss against time", _LOSSES),
            blocks.bar(blocks.legend(dict.fromkeys(marks, ""), symbols=marks), still=True),
            blocks.chart("ratios", "Times as fast", _RATIOS),
            blocks.section("In words", f'<ul class="sentences">{said}</ul>'),
            blocks.section("Schedules", blocks.table(figures.growing(found))),
            blocks.section("Constant batch sizes", blocks.table(figures.constant(found))),
        ]
    if found.outcome is not None:
        body.append(blocks.section("Forecast beside outcome", blocks.table(figures.beside({name: found})) + _READING))
    body += [
        blocks.details("Settings", blocks.facts(shared.settings({name: _settings(found)})[1])),
        blocks.details("Versions", blocks.facts(shared.versions(found.versions))),
        blocks.FOOTER,
    ]
    paint = ramp | charts.SCHEDULES | charts.PAINT
    return Content(f"advice: {found.task}, {found.model}", blocks.main(body), drawn, paint)


def _cards(found: Advice) -> list[str]:
    choice = found.choice
    made = []
    if choice is not None:
        middle, _, interval = ratio(choice.ratio).partition(" [")
        note = f"80 % interval [{interval}; schedule {choice.name}" if interval else f"schedule {choice.name}"
        made.append(blocks.card("times as fast", middle, note))
        note = "takes the least time to the loss that the best one reaches"
        made.append(blocks.card("best constant batch", f"{found.best_fixed:,}", note))
    if found.critical_batch is not None:
        middle, _, interval = told(found.critical_batch).partition(" [")
        made.append(
            blocks.card("critical batch size", middle, f"95 % interval [{interval}" if interval else "test loss")
        )
    if found.gain is not None:
        made.append(blocks.card("throughput", f"{found.gain:.2f}{words.TIMES}", "at four times the base batch size"))
    if found.outcome is not None:
        lost = regret(found)
        note = "" if lost is None else f"regret against the best constant batch: {number(lost)}"
        made.append(blocks.card("outcome", ratio(found.outcome.ratio).partition(" [")[0], note))
    return made


def _several(advices: Mapping[str, Advice]) -> Content:
    drawn = {"ratios": charts.forecasts(advices)} if any(found.choice for found in advices.values()) else {}
    told_each = list(coverage(list(advices.values())))
    lead = " ".join(told_each) or "No advice here has an outcome yet: adabatch advise TASK --check measures it."
    marks = {charts.FORECAST: "circle", charts.OUTCOME: "diamond"}
    said = {
        name: " ".join(part for part in (verdict(found), outcome(found)) if part) for name, found in advices.items()
    }
    listed = "".join(f"<li><b>{words.html(name)}</b>: {words.html(text)}</li>" for name, text in said.items())
    body = [
        blocks.header(["advice", f"{len(advices)} folders"], Headline("Forecasts beside outcomes.", lead)),
        blocks.bar(blocks.legend(dict.fromkeys(marks, ""), symbols=marks)) if drawn else "",
        blocks.chart("ratios", "Times as fast", _RATIOS) if drawn else "",
        blocks.section("All figures", blocks.table(figures.beside(advices)) + _READING),
        blocks.section("In words", f'<ul class="sentences">{listed}</ul>'),
        blocks.FOOTER,
    ]
    return Content("advice: forecasts beside outcomes", blocks.main(body), drawn, charts.PAINT)


def _settings(found: Advice) -> dict[str, object]:
    """Settings without those of a training that the advice replaces."""
    base = found.settings.get("base")
    own = {key: value for key, value in base.items() if key not in _REPLACED} if isinstance(base, Mapping) else {}
    return own | {key: value for key, value in found.settings.items() if key != "base"}
