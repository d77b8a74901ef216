"""What stands on a page: headline, figures, charts and tables of a comparison or of a run, as HTML and JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from adabatch.report import caution, page_course, page_tables
from adabatch.report import page_blocks as blocks
from adabatch.report import page_charts as charts
from adabatch.report import page_plot as plot
from adabatch.report import page_words as words
from adabatch.report.page_data import Comparison, Json, Run

AXES: Final = page_course.AXES
_THIS: Final = "this run"


@dataclass(frozen=True, slots=True)
class Parts:
    """A page but for style and scripts.

    Attributes:
        title: of the window.
        body: HTML.
        charts: plotly's JSON by the id of the element that each is drawn in.
        paint: the colour of each arm.
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
    drawn["course"] = page_course.course(found.runs, ("accuracy", "batch", "lr"), paint, target=compare.get("target"))
    facts = [compare["task"], compare["model"], _device(compare["device"], compare.get("versions", {}))]
    note = _course_note(found) if seeds > 1 else "As measured at each evaluation."
    against = compare["against_fixed_small"]
    body = [
        blocks.header([*facts, f"{seeds} {words.plural('seed', seeds)}"], words.comparison_headline(compare)),
        blocks.cards(_comparison_cards(compare, arms)),
        blocks.controls({name: f"{100 * arm['test_accuracy']['mean']:.1f} %" for name, arm in arms.items()}, AXES),
        blocks.chart("course", "", note, size="tall"),
        f'<div class="grid">{"".join(places)}</div>',
        blocks.section("All figures", page_tables.comparison_table(compare) + _reading(compare)),
        blocks.section("In words", blocks.sentences({name: words.arm_sentence(compare, name) for name in against}))
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
    if result.get("samples_per_second"):
        drawn["throughput"] = charts.throughput({_THIS: result["samples_per_second"]}, paint)
        places.append(blocks.chart("throughput", "Throughput", "Samples per second of training at each batch size."))
    if decisions := page_tables.decisions_table(run):
        places.append(blocks.section("How the batch changed", decisions))
    facts = [run.config["task"], run.config["model"], _device(run.versions.get("device", ""), run.versions)]
    body = [
        blocks.header([*facts, f"seed {run.config['seed']}"], words.run_headline(run)),
        blocks.cards(_run_cards(run)),
        blocks.controls({}, AXES),
        blocks.chart("course", "", "As measured at each evaluation.", size="taller" if losses else "tall"),
        f'<div class="grid">{"".join(places)}</div>',
        blocks.details("Every evaluation in figures", page_tables.history_table(run)),
        blocks.settings({_THIS: run.config}, run.versions),
        blocks.FOOTER,
    ]
    return Parts(f"{run.config['task']}, {run.config['model']}: a run", blocks.main(body), drawn, paint)


def _small_charts(found: Comparison, paint: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The charts beside the main one, and their places."""
    compare = found.compare
    rates = {arm["name"]: arm["samples_per_second"] for arm in compare["arms"]}
    drawn = {"every-run": charts.every_run(found, paint), "throughput": charts.throughput(rates, paint)}
    several = len(compare["seeds"]) > 1
    ring = ", a ring at each arm's middle" if several else ""
    median = ", median over seeds" if several else ""
    places = [
        blocks.chart("every-run", "Every run", f"A mark for each seed{ring}. Up and left is better."),
        blocks.chart("throughput", "Throughput", f"Samples per second of training at each batch size{median}."),
    ]
    if not compare["against_fixed_small"]:
        return drawn, places
    drawn |= {"accuracy": charts.accuracy_intervals(compare, paint), "time": charts.time_intervals(compare, paint)}
    margin = f"within {100 * compare['margin']:g} %"
    shows = f"Accuracy is shown to stay {margin} where the whole interval lies right of the dashed line"
    shows += ", no run diverged and the seeds differ. The interval is over seeds, on one fixed test set."
    shows = shows if several else f"One seed gives no interval: {margin} is not shown."
    paired = (
        "Right of 1 is faster. Ratios are paired by seed, with 95 % intervals." if several else "Right of 1 is faster."
    )
    return drawn, [
        blocks.chart("accuracy", "Accuracy against fixed-small", shows, size="short"),
        blocks.chart("time", "Time against fixed-small", paired, size="short"),
        *places,
    ]


def _comparison_cards(compare: Json, arms: Mapping[str, Json]) -> list[str]:
    """What the arm of the headline gained, with the figures that it comes from."""
    name = words.hero(compare)
    if name is None:
        return []
    found, pair = compare["against_fixed_small"][name], {key: arms[key] for key in ("fixed-small", name)}
    updates = {key: arm["updates"] for key, arm in pair.items()}
    seconds = {key: arm["train_seconds"]["median"] for key, arm in pair.items()}
    fewer, less, difference = found["updates_ratio"], found["seconds_ratio"], found["accuracy_difference"]
    made = [
        blocks.card(
            "fewer updates" if fewer >= 1 else "more updates",
            words.times(max(fewer, 1 / fewer)),
            below=blocks.bars(updates, {key: words.whole(value) for key, value in updates.items()}),
        )
    ]
    if less["median"]:
        slower = less["median"] < 1
        made.append(
            blocks.card(
                "more time" if slower else "less time",
                words.times(1 / less["median"] if slower else less["median"]),
                words.interval_note(less, inverse=slower),
                below=blocks.bars(seconds, {key: f"{words.seconds(value)} s" for key, value in seconds.items()}),
            )
        )
    made.append(
        blocks.card(
            "points of test accuracy",
            words.signed(100 * difference["mean"]),
            words.points_note(difference),
            below=blocks.interval(name, difference, margin=compare["margin"]),
        )
    )
    made += _target_card(compare, found, pair)
    return made


def _target_card(compare: Json, found: Json, pair: Mapping[str, Json]) -> list[str]:
    """Time to the target, where every run of both arms reached it."""
    ratio = found.get("seconds_to_target_ratio") or {"median": None}
    seconds: dict[str, Any] = {key: arm.get("seconds_to_target") for key, arm in pair.items()}
    if not ratio["median"] or compare.get("target") is None or None in seconds.values():
        return []
    slower = ratio["median"] < 1
    return [
        blocks.card(
            f"{'more' if slower else 'less'} time to {100 * compare['target']:g} %",
            words.times(1 / ratio["median"] if slower else ratio["median"]),
            words.interval_note(ratio, inverse=slower),
            below=blocks.bars(seconds, {key: f"{words.seconds(value)} s" for key, value in seconds.items()}),
        )
    ]


def _run_cards(run: Run) -> list[str]:
    last, result = run.history[-1], run.result or {}
    best = max(found["test_accuracy"] for found in run.history)
    epochs = run.config["epochs"]
    done = f"{epochs}" if run.result else f"{last.get('epoch', '?')} of {epochs}"
    trained = result.get("samples", last["samples"])  # without what was dropped at the ends of epochs
    samples = f"{words.whole(trained)} samples, {done} epochs"
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
        note = "" if reached is None else f"{words.whole(reached)} updates"
        made.append(blocks.card(f"to {100 * result['target']:g} % test accuracy", value, note))
    return made


def _course_note(found: Comparison) -> str:
    note = "Mean over seeds; the band is one standard deviation."
    differ = any(run.staircase() != runs[0].staircase() for runs in found.runs.values() for run in runs)
    return f"{note} Batch size and learning rate are those of the first seed." if differ else note


def _device(kind: str, versions: Json) -> str:
    name = re.sub(r"\((R|TM|C)\)|\bProcessor\b", "", str(versions.get("device_name") or ""))
    return f"{kind}, {' '.join(name.split())}" if name.strip() else str(kind)


def _reading(compare: Json) -> str:
    if len(compare["seeds"]) == 1:
        return ""
    return (
        '<p class="note">Accuracy: mean ± standard deviation over seeds. Seconds: median [smallest, largest]. '
        "Ratios and differences are paired by seed, with 95 % intervals; ratios are the baseline divided by the "
        f"arm. {escape(caution.scope(compare))}</p>"
    )
