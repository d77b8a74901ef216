"""What stands on a page: headline, figures, charts and tables of a comparison or of a run, as HTML and JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from adabatch.lab.report import caution, headline, page_course, page_tables, paired_times
from adabatch.lab.report import page_blocks as blocks
from adabatch.lab.report import page_charts as charts
from adabatch.lab.report import page_plot as plot
from adabatch.lab.report import page_words as words
from adabatch.lab.report.page_data import Comparison, Json, Run
from adabatch.lab.report.thinning import thinned

AXES: Final = page_course.AXES
_THIS: Final = "this run"
_ROWS: Final = 500  # evaluations and decisions in a table


@dataclass(frozen=True, slots=True)
class Parts:
    """A page but for style and scripts.

    Attributes:
        title: of the window.
        body: HTML.
        charts: in the words of `page_plot`, by the id of the element that each is drawn in.
        paint: the colour of each arm on a light ground.
    """

    title: str
    body: str
    charts: Mapping[str, Any]
    paint: Mapping[str, str]


def of_comparison(found: Comparison) -> Parts:
    """The page of a comparison."""
    compare = found.compare
    arms = {arm["name"]: arm for arm in compare["arms"]}
    paint, seeds = plot.colours(list(arms)), len(compare["seeds"])
    drawn, places = _small_charts(found, paint)
    panels = ("accuracy", "batch", "lr")
    drawn["course"] = page_course.course(_on_one_clock(found.runs), panels, paint, target=compare.get("target"))
    facts = [compare["task"], compare["model"], device(compare["device"], compare.get("versions", {}))]
    note = _course_note(found) if seeds > 1 else "As measured at each evaluation."
    against = compare["against_fixed_small"]
    body = [
        blocks.header([*facts, f"{seeds} {words.plural('seed', seeds)}"], headline.of_comparison(compare)),
        blocks.cards(_comparison_cards(compare, arms)),
        blocks.controls({name: f"{100 * arm['test_accuracy']['mean']:.1f} %" for name, arm in arms.items()}, AXES),
        blocks.chart("course", "", note, size="tall"),
        f'<div class="grid">{"".join(places)}</div>',
        blocks.section("All figures", page_tables.comparison_table(compare) + _reading(compare)),
        blocks.section("In words", blocks.sentences({name: headline.arm_sentence(compare, name) for name in against}))
        if against
        else "",
        blocks.details("Every run in figures", page_tables.runs_table(found)),
        blocks.settings({name: runs[0].config for name, runs in found.runs.items()}, compare.get("versions", {})),
        blocks.FOOTER,
    ]
    return Parts(f"{compare['task']}, {compare['model']}: {', '.join(arms)}", blocks.main(body), drawn, paint)


def of_run(run: Run) -> Parts:
    """The page of a run."""
    grows = len(run.staircase()) > 1
    paint = {_THIS: plot.colours(["adaptive" if grows else "fixed-small"]).popitem()[1]}
    result = run.result or {}
    losses = any(found.get("test_loss") is not None for found in run.history)
    panels = ("accuracy", "loss", "batch", "lr") if losses else ("accuracy", "batch", "lr")
    drawn = {"course": page_course.course({_THIS: [run]}, panels, paint, target=result.get("target"))}
    places = []
    if charts.differ_in_size([result.get("samples_per_second", {})]):
        drawn["throughput"] = charts.throughput({_THIS: result["samples_per_second"]}, paint)
        places.append(blocks.chart("throughput", "Throughput", "Samples per second of training at each batch size."))
    (few,) = thinned([run], _ROWS)
    if decisions := page_tables.decisions_table(few):
        note = _some_of(few.decisions, run.decisions, "changes")
        places.append(blocks.section("How the batch changed", decisions + note))
    facts = [run.config["task"], run.config["model"], device(run.versions.get("device", ""), run.versions)]
    body = [
        blocks.header([*facts, f"seed {run.config['seed']}"], words.run_headline(run)),
        blocks.cards(_run_cards(run)),
        blocks.controls({}, AXES),
        blocks.chart("course", "", "As measured at each evaluation.", size="taller" if losses else "tall"),
        f'<div class="grid">{"".join(places)}</div>',
        blocks.details(
            f"{'Every evaluation' if len(few.history) == len(run.history) else 'Evaluations'} in figures",
            page_tables.history_table(few) + _some_of(few.history, run.history, "evaluations"),
        ),
        blocks.settings({_THIS: run.config}, run.versions),
        blocks.FOOTER,
    ]
    return Parts(f"{run.config['task']}, {run.config['model']}: a run", blocks.main(body), drawn, paint)


def _small_charts(found: Comparison, paint: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The charts beside the main one, and their places."""
    compare = found.compare
    rates = {arm["name"]: arm["samples_per_second"] for arm in compare["arms"]}
    drawn = {"every-run": charts.every_run(found, paint)}
    several = len(compare["seeds"]) > 1
    ring = ", a ring at each arm's middle" if several else ""
    median = ", median over seeds" if several else ""
    places = [
        blocks.chart("every-run", "Every run", f"A mark for each seed{ring}. Up and left is better."),
    ]
    if charts.differ_in_size(rates.values()):
        drawn["throughput"] = charts.throughput(rates, paint)
        how = f"Samples per second of training at each batch size{median}."
        places.append(blocks.chart("throughput", "Throughput", how))
    if not compare["against_fixed_small"]:
        return drawn, places
    drawn["accuracy"] = charts.accuracy_intervals(compare, paint)
    against = compare["against_fixed_small"]
    timed = {name: found for name, found in against.items() if not headline.diverged(compare, (name, headline.BASE))}
    if timed:
        drawn["time"] = charts.time_intervals({**compare, "against_fixed_small": timed}, paint)
    margin = f"within {100 * compare['margin']:g} %"
    shows = f"Accuracy is shown to stay {margin} where the whole interval lies right of the dashed line"
    shows += ", no run diverged and the seeds differ. The interval is over seeds, on one fixed test set."
    shows = shows if several else f"One seed gives no interval: {margin} is not shown."
    paired = (
        "Right of 1 is faster. Ratios are paired by seed, with 95 % intervals." if several else "Right of 1 is faster."
    )
    return drawn, [
        blocks.chart("accuracy", "Accuracy against fixed-small", shows, size="short"),
        *([blocks.chart("time", "Time against fixed-small", paired, size="short")] if timed else []),
        *places,
    ]


def _comparison_cards(compare: Json, arms: Mapping[str, Json]) -> list[str]:
    """What the arm of the headline did, with the figures that it comes from; its accuracy first where it is not kept.

    Of an arm that lost accuracy or diverged its gains are no key figures.
    """
    name = headline.hero(compare)
    if name is None:
        return []
    found, pair = compare["against_fixed_small"][name], {key: arms[key] for key in (headline.BASE, name)}
    accuracy = _accuracy_card(compare, name, found)
    standing = headline.standing(compare, name)
    if standing == "bad":
        means = {key: 100 * arm["test_accuracy"]["mean"] for key, arm in pair.items()}
        below = blocks.bars(means, {key: f"{value:.2f} %" for key, value in means.items()})
        lost = {key: f"{arm.get('diverged', 0)} of {arm['test_accuracy']['n']}" for key, arm in pair.items()}
        made = [accuracy, blocks.card("test accuracy", f"{means[name]:.1f} %", below=below)]
        if headline.diverged(compare, pair):
            counts = {key: float(arm.get("diverged", 0)) for key, arm in pair.items()}
            made.append(blocks.card("runs diverged", lost[name], below=blocks.bars(counts, lost)))
        return made
    gains = [_updates_card(found["updates_ratio"], pair), *_time_cards(compare, found, pair)]
    place = 0 if standing == "open" else 2
    return [*gains[:place], accuracy, *gains[place:]]


def _accuracy_card(compare: Json, name: str, found: Json) -> str:
    difference = found["accuracy_difference"]
    return blocks.card(
        "points of test accuracy",
        words.signed(100 * difference["mean"]),
        words.points_note(difference),
        below=blocks.interval(name, difference, margin=compare["margin"]),
    )


def _updates_card(fewer: float, pair: Mapping[str, Json]) -> str:
    updates = {key: arm["updates"] for key, arm in pair.items()}
    return blocks.card(
        "fewer updates" if fewer >= 1 else "more updates",
        words.times(max(fewer, 1 / fewer)),
        below=blocks.bars(updates, {key: words.whole(value) for key, value in updates.items()}),
    )


def _time_cards(compare: Json, found: Json, pair: Mapping[str, Json]) -> list[str]:
    """How much faster, in all and to the target, where every run of both arms reached it."""
    seconds = {key: paired_times.seconds(compare, arm) for key, arm in pair.items()}
    told: dict[str, tuple[Any, Mapping[str, Any]]] = {"": (found["seconds_ratio"], seconds)}
    if compare.get("target") is not None:
        to_target = {key: paired_times.seconds_to_target(compare, arm) for key, arm in pair.items()}
        told[f" to {100 * compare['target']:g} %"] = (found.get("seconds_to_target_ratio"), to_target)
    made = []
    for aim, (ratio, bars) in told.items():
        if not ratio or not ratio["median"] or None in bars.values():
            continue
        slower = ratio["median"] < 1
        note = words.interval_note(ratio, inverse=slower)
        how = "bars: fixed-small's median, and that divided by the ratio" if note else ""
        made.append(
            blocks.card(
                f"{'slower' if slower else 'faster'}{aim}",
                words.times(1 / ratio["median"] if slower else ratio["median"]),
                "; ".join(text for text in (note, how) if text),
                below=blocks.bars(bars, {key: f"{words.seconds(value)} s" for key, value in bars.items()}),
            )
        )
    return made


def _run_cards(run: Run) -> list[str]:
    last, result = run.history[-1], run.result or {}
    best = max(found["test_accuracy"] for found in run.history)
    trained = result.get("samples", last["samples"])  # without what was dropped at the ends of epochs
    samples = f"{words.whole(trained)} samples, {words.epochs(run)}"
    made = [
        blocks.card("test accuracy", f"{100 * last['test_accuracy']:.2f} %", f"best {100 * best:.2f} %"),
        blocks.card("updates", words.whole(last["updates"]), samples),
        blocks.card(
            "seconds of training",
            words.seconds(last["seconds"]),
            f"{words.whole(trained / last['seconds'])} samples per second" if last["seconds"] else "",
        ),
    ]
    if result.get("target") is not None:
        reached, after = result.get("updates_to_target"), result.get("seconds_to_target")
        value = "not reached" if reached is None or after is None else f"{words.seconds(after)} s"
        note = "" if reached is None else f"{words.whole(reached)} {words.plural('update', reached)}"
        made.append(blocks.card(f"to {100 * result['target']:g} % test accuracy", value, note))
    return made


def _on_one_clock(runs: Mapping[str, Sequence[Run]]) -> dict[str, list[Run]]:
    """The runs with the seconds that tables and ratios tell of, so that curves end where bars do."""
    told = paired_times.on_one_clock({name: [run.history for run in seeds] for name, seeds in runs.items()})
    return {
        name: [replace(run, history=history) for run, history in zip(seeds, told[name], strict=True)]
        for name, seeds in runs.items()
    }


def _some_of(shown: Sequence[Json], every: Sequence[Json], what: str) -> str:
    """That a table leaves rows out; empty where it does not."""
    if len(shown) == len(every):
        return ""
    few, all_of_them = words.whole(len(shown)), words.whole(len(every))
    return f'<p class="note">{few} of {all_of_them} {what}; the folder of the run holds all of them.</p>'


def _course_note(found: Comparison) -> str:
    note = page_course.spread_words(found.runs)
    differ = any(run.staircase() != runs[0].staircase() for runs in found.runs.values() for run in runs)
    return f"{note} Batch size and learning rate are those of the first seed." if differ else note


def device(kind: str, versions: Json) -> str:
    """A device in words: its kind and, where it is known, its name.

    Args:
        kind: cpu or cuda.
        versions: what a run or a comparison says of its machine.
    """
    name = re.sub(r"\((R|TM|C)\)|\bProcessor\b", "", str(versions.get("device_name") or ""))
    return f"{kind}, {' '.join(name.split())}" if name.strip() else str(kind)


def _reading(compare: Json) -> str:
    if len(compare["seeds"]) == 1:
        return ""
    paired = (
        "Ratios and differences are paired by seed, with 95 % intervals; ratios are the baseline divided by the arm."
    )
    return (
        f'<p class="note">Accuracy: mean ± standard deviation over seeds. {caution.seconds_words(compare)} '
        f"{paired if caution.compared(compare) else ''} {words.html(caution.scope(compare))}</p>"
    )
