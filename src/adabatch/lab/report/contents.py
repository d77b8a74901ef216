"""The content of each kind of page: headline, key figures, charts and tables, as HTML and JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from adabatch.lab.comparison import SMALL, Against, ArmOutcome, Comparison, Ratio
from adabatch.lab.report import blocks, charts, figures, headline, look, words
from adabatch.lab.report.charts import AXES
from adabatch.lab.report.figures import COLUMNS, Done, Interim, Table
from adabatch.lab.report.folders import Finished, Plan, Probe, SavedRun, Together, Unfinished, on_one_clock
from adabatch.lab.report.headline import Headline
from adabatch.lab.report.thinning import thinned
from adabatch.lab.shapes import Json

_THIS: Final = "this run"
_ROWS: Final = 500  # rows of evaluations or decisions in a table
_CONSTANT, _GROWING = "constant batch", "growing batch"
_MOST: Final = 60  # rows of a plan's table
_NOISE: Final = "LR × samples of an epoch / (batch size × (1\N{NO-BREAK SPACE}−\N{NO-BREAK SPACE}momentum))."


@dataclass(frozen=True, slots=True)
class Content:
    """A page without style and scripts.

    Attributes:
        title: of the window.
        body: HTML.
        charts: as `charts` makes them, by the id of the element that shows each.
        paint: the colour of each arm on a light ground.
    """

    title: str
    body: str
    charts: Mapping[str, Any]
    paint: Mapping[str, str]


def of_comparison(found: Finished) -> Content:
    """The page of a comparison."""
    compare = found.compare
    names, seeds = [arm.name for arm in compare.arms], len(compare.seeds)
    paint = look.colours(names)
    drawn, places = _small_charts(compare, paint)
    drawn["course"] = charts.lines(on_one_clock(found.runs), _panels(found.runs), paint, target=compare.target)
    facts = [compare.task, compare.model, device(compare.device, compare.versions)]
    note = _course_note(found) if seeds > 1 else "As measured at each evaluation."
    told = {name: headline.arm_sentence(compare, name) for name in compare.against_fixed_small}
    body = [
        blocks.header([*facts, f"{seeds} {words.plural('seed', seeds)}"], headline.of_comparison(compare)),
        blocks.cards(_comparison_cards(compare)),
        blocks.controls({arm.name: f"{100 * arm.test_accuracy.mean:.1f} %" for arm in compare.arms}, AXES),
        blocks.chart("course", "", note + _noise_note(found.runs), size=_size(_panels(found.runs))),
        f'<div class="grid">{"".join(places)}</div>',
        blocks.section("All figures", blocks.table(figures.comparison(compare)) + _reading(compare)),
        blocks.section("In words", blocks.sentences(told)) if told else "",
        blocks.details("Every run in figures", blocks.table(figures.runs(found))),
        blocks.settings({name: runs[0].config for name, runs in found.runs.items()}, compare.versions),
        blocks.FOOTER,
    ]
    return Content(f"{compare.task}, {compare.model}: {', '.join(names)}", blocks.main(body), drawn, paint)


def of_run(run: SavedRun) -> Content:
    """The page of a run."""
    grows = len(run.staircase()) > 1
    paint = {_THIS: look.COLOURS["adaptive" if grows else SMALL]}
    result = run.result or {}
    panels = _panels({_THIS: [run]}, losses=any(found.get("test_loss") is not None for found in run.history))
    drawn = {"course": charts.lines({_THIS: [run]}, panels, paint, target=result.get("target"))}
    places: list[str] = []
    _add_throughput(drawn, places, {_THIS: result.get("samples_per_second", {})}, paint)
    (few,) = thinned([run], _ROWS)
    if decisions := figures.decisions(few):
        note = _some_of(few.decisions, run.decisions, "changes")
        places.append(blocks.section("How the batch changed", blocks.table(decisions) + note))
    facts = [run.config["task"], run.config["model"], device(run.versions.get("device", ""), run.versions)]
    body = [
        blocks.header([*facts, f"seed {run.config['seed']}"], headline.of_run(run)),
        blocks.cards(_run_cards(run)),
        blocks.controls({}, AXES),
        blocks.chart("course", "", f"As measured at each evaluation.{_noise_note({_THIS: [run]})}", size=_size(panels)),
        f'<div class="grid">{"".join(places)}</div>',
        blocks.details(
            f"{'Every evaluation' if len(few.history) == len(run.history) else 'Evaluations'} in figures",
            blocks.table(figures.history(few)) + _some_of(few.history, run.history, "evaluations"),
        ),
        blocks.settings({_THIS: run.config}, run.versions),
        blocks.FOOTER,
    ]
    return Content(f"{run.config['task']}, {run.config['model']}: a run", blocks.main(body), drawn, paint)


def _panels(runs: Mapping[str, Sequence[SavedRun]], *, losses: bool = False) -> tuple[str, ...]:
    """The panels of the main chart."""
    noise = any(seeds[0].noise() for seeds in runs.values())
    return ("accuracy", *(["loss"] if losses else []), "batch", *(["noise"] if noise else []), "lr")


def _size(panels: Sequence[str]) -> str:
    """The size of the main chart."""
    return {3: "tall", 4: "taller"}.get(len(panels), "tallest")


def _noise_note(runs: Mapping[str, Sequence[SavedRun]]) -> str:
    """A sentence about the noise and what was decided by it; empty where none was measured."""
    if "noise" not in _panels(runs):
        return ""
    which = " of the first seed" if any(len(seeds) > 1 for seeds in runs.values()) else ""
    return (
        f" The noise scale{which} was measured for the policy; where its band has no upper end, the gradient is not "
        "told from noise. A mark on the batch size is a decision."
    )


def _small_charts(compare: Comparison, paint: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The charts after the main one, and the HTML elements for them."""
    rates = {arm.name: arm.samples_per_second for arm in compare.arms}
    drawn = {"every-run": charts.every_run(compare, paint)}
    several = len(compare.seeds) > 1
    ring = ", a ring at each arm's middle" if several else ""
    median = ", median over seeds" if several else ""
    places = [blocks.chart("every-run", "Every run", f"A mark for each seed{ring}. Up and left is better.")]
    _add_throughput(drawn, places, rates, paint, median)
    against = compare.against_fixed_small
    if not against:
        return drawn, places
    drawn["accuracy"] = charts.accuracy_intervals(against, compare.margin, paint)
    timed = {name: found for name, found in against.items() if not headline.diverged(compare, (name, SMALL))}
    if timed:
        drawn["time"] = charts.time_intervals(timed, paint)
    margin = words.within_words(compare)
    shows = f"One seed gives no interval: {margin} is not shown."
    if several:
        shows = f"Accuracy is shown to stay {margin} where the whole interval lies right of the dashed line"
        shows += ", no run diverged and the seeds differ. The interval is over seeds, on one fixed test set."
    paired = "Right of 1 is faster." + (" Ratios are paired by seed, with 95 % intervals." if several else "")
    return drawn, [
        blocks.chart("accuracy", "Accuracy against fixed-small", shows, size="short"),
        *([blocks.chart("time", "Time against fixed-small", paired, size="short")] if timed else []),
        *places,
    ]


def _add_throughput(
    drawn: dict[str, Any], places: list[str], rates: Mapping[str, Json], paint: Mapping[str, str], over: str = ""
) -> None:
    """Adds a chart of throughput and its element if there is more than one batch size."""
    if charts.differ_in_size(rates.values()):
        drawn["throughput"] = charts.throughput({name: found for name, found in rates.items() if found}, paint)
        how = f"Samples per second of training at each batch size{over}."
        places.append(blocks.chart("throughput", "Throughput", how))


def _comparison_cards(compare: Comparison) -> list[str]:
    """The gains and the accuracy of the headline's arm; accuracy comes first if it is not shown to be kept.

    The gains of an arm that lost accuracy or diverged are left out.
    """
    name = headline.hero(compare)
    if name is None:
        return []
    found, pair = compare.against_fixed_small[name], [compare.arm(SMALL), compare.arm(name)]
    accuracy = blocks.card(
        "points of test accuracy",
        words.points(found.accuracy_difference.mean),
        words.points_note(found.accuracy_difference),
        below=blocks.interval(name, found.accuracy_difference, margin=compare.margin),
    )
    standing = headline.standing(compare, name)
    if standing == "bad":
        means = {arm.name: 100 * arm.test_accuracy.mean for arm in pair}
        below = blocks.bars(means, {key: f"{value:.2f} %" for key, value in means.items()})
        made = [accuracy, blocks.card("test accuracy", f"{means[name]:.1f} %", below=below)]
        if headline.diverged(compare, means):
            lost = {arm.name: f"{arm.diverged or 0} of {arm.test_accuracy.n}" for arm in pair}
            counts = {arm.name: float(arm.diverged or 0) for arm in pair}
            made.append(blocks.card("runs diverged", lost[name], below=blocks.bars(counts, lost)))
        return made
    updates = _updates_card(found.updates_ratio, {arm.name: arm.updates for arm in pair})
    gains = [updates, *_time_cards(compare, found, pair)]
    place = 0 if standing == "open" else 2
    return [*gains[:place], accuracy, *gains[place:]]


def _updates_card(fewer: float, updates: Mapping[str, int]) -> str:
    return blocks.card(
        "fewer updates" if fewer >= 1 else "more updates",
        words.times(max(fewer, 1 / fewer)),
        below=blocks.bars(updates, {key: words.whole(value) for key, value in updates.items()}),
    )


def _time_cards(compare: Comparison, found: Against, pair: Sequence[ArmOutcome]) -> list[str]:
    """How much faster an arm is, in all and, if both arms have a time to the target, up to it."""
    seconds: dict[str, float | None] = {arm.name: compare.seconds(arm) for arm in pair}
    told: dict[str, tuple[Ratio, Mapping[str, Any]]] = {"": (found.seconds_ratio, seconds)}
    if compare.target is not None:
        to_target = {arm.name: compare.seconds_to_target(arm) for arm in pair}
        told[f" to {100 * compare.target:g} %"] = (found.seconds_to_target_ratio, to_target)
    made = []
    for aim, (ratio, bars) in told.items():
        if not ratio.median or None in bars.values():
            continue
        slower = ratio.median < 1
        note = words.interval_note(ratio.inverse if slower else ratio)
        how = "bars: fixed-small's median, and that divided by the ratio" if note else ""
        made.append(
            blocks.card(
                f"{'slower' if slower else 'faster'}{aim}",
                words.times(1 / ratio.median if slower else ratio.median),
                "; ".join(text for text in (note, how) if text),
                below=_seconds_bars(bars),
            )
        )
    return made


def _seconds_bars(found: Mapping[str, float]) -> str:
    return blocks.bars(found, {key: f"{words.seconds(value)} s" for key, value in found.items()})


def _run_cards(run: SavedRun) -> list[str]:
    last, result = run.history[-1], run.result or {}
    best = max(found["test_accuracy"] for found in run.history)
    trained = result.get("samples", last["samples"])  # without samples dropped at the ends of epochs
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
    if (sent := last.get("communication_bytes")) is not None:
        waited = last.get("communication_seconds")
        note = "" if waited is None else f"{words.seconds(1000 * waited)} ms in an update"
        made.append(blocks.card("gradients sent in an update", f"{sent / 1e6:#.3g} MB", note))
    if result.get("target") is not None:
        reached, after = result.get("updates_to_target"), result.get("seconds_to_target")
        value = "not reached" if reached is None or after is None else f"{words.seconds(after)} s"
        note = "" if reached is None else f"{words.whole(reached)} {words.plural('update', reached)}"
        made.append(blocks.card(f"to {100 * result['target']:g} % test accuracy", value, note))
    return made


def _some_of(shown: Sequence[Json], every: Sequence[Json], what: str) -> str:
    """A note that a table leaves rows out; empty if it does not."""
    if len(shown) == len(every):
        return ""
    few, all_of_them = words.whole(len(shown)), words.whole(len(every))
    return f'<p class="note">{few} of {all_of_them} {what}; the folder of the run holds all of them.</p>'


def _course_note(found: Finished) -> str:
    note = charts.spread_words(found.runs)
    differ = any(run.staircase() != runs[0].staircase() for runs in found.runs.values() for run in runs)
    return f"{note} Batch size and learning rate are those of the first seed." if differ else note


def device(kind: str, versions: Json) -> str:
    """A device in words: its kind, such as cpu, and its name if the `versions` of a run have it."""
    name = re.sub(r"\((R|TM|C)\)|\bProcessor\b", "", str(versions.get("device_name") or ""))
    return f"{kind}, {' '.join(name.split())}" if name.strip() else str(kind)


def _reading(compare: Comparison) -> str:
    if len(compare.seeds) == 1:
        return ""
    told = words.reading(compare, end="; ratios are the baseline divided by the arm")
    return f'<p class="note">{told} {words.html(words.scope(compare))}</p>'


def of_together(found: Together) -> Content:
    """The page of several runs with any settings."""
    runs = found.runs
    paint = look.colours(runs)
    targets = {(run.result or {}).get("target") for run in runs.values()}
    target = targets.pop() if len(targets) == 1 else None
    by_name = {name: [run] for name, run in runs.items()}
    course = charts.lines(by_name, _panels(by_name), paint, target=target)
    drawn: dict[str, Any] = {"course": course}
    places: list[str] = []
    rates = {name: run.result["samples_per_second"] for name, run in runs.items() if run.result}
    _add_throughput(drawn, places, rates, paint)
    differ, shared = figures.settings({name: run.config for name, run in runs.items()}, seed=True)
    others, versions = figures.settings({name: run.versions for name, run in runs.items()})
    tasks = list(dict.fromkeys(f"{run.config['task']}, {run.config['model']}" for run in runs.values()))
    body = [
        blocks.header([*tasks[:3], f"{len(runs)} runs"], headline.of_together(runs)),
        blocks.controls({name: f"{100 * run.history[-1]['test_accuracy']:.1f} %" for name, run in runs.items()}, AXES),
        blocks.chart(
            "course", "", f"As measured at each evaluation.{_noise_note(by_name)}", size=_size(_panels(by_name))
        ),
        blocks.section("In what their settings differ", blocks.table(differ) or '<p class="note">In nothing.</p>'),
        blocks.section("All figures", blocks.table(figures.together(runs))),
        f'<div class="grid">{"".join(places)}</div>',
        blocks.details("Settings that they share", blocks.facts(shared)),
        blocks.details("Versions", blocks.table(others) + blocks.facts(versions)),
        blocks.FOOTER,
    ]
    return Content(f"{', '.join(tasks)}: {', '.join(runs)}", blocks.main(body), drawn, paint)


def of_unfinished(found: Unfinished) -> Content:
    """The page of a comparison with missing runs."""
    interim, note = interim_of(found), found.note
    finished = {name: list(found.finished(name).values()) for name in found.arms}
    paint, finished = look.colours(found.arms), {name: runs for name, runs in finished.items() if runs}
    lead = " ".join([*interim.sentences(), *_under_way(found)])
    legend = {name: f"{len(found.finished(name))} of {len(found.seeds)}" for name in found.arms}
    drawn, body = {}, [blocks.header([interim.facts, "not finished"], Headline(f"{interim.title}.", lead, "open"))]
    if finished:
        panels = _panels(finished)
        drawn["course"] = charts.lines(finished, panels, paint, target=note.get("target"))
        how = charts.spread_words(finished, "the seeds that are finished") + _noise_note(finished)
        body += [blocks.controls(legend, AXES), blocks.chart("course", "", how, size=_size(panels))]
    body.append(blocks.section("So far", blocks.table(Table(COLUMNS, [("", interim.rows())], corner="arm"))))
    some = {name: runs[0].config for name, runs in finished.items()}
    body += [blocks.settings(some, note.get("versions", {})), blocks.FOOTER]
    return Content(f"{interim.facts}: unfinished", blocks.main(body), drawn, paint)


def interim_of(found: Unfinished) -> Interim:
    """The finished runs of a comparison under way."""
    done = {(name, seed): _done(run) for name in found.arms for seed, run in found.finished(name).items()}
    known: Json = next((run.config for run in found.runs.values()), {})
    names = [str(found.note.get(key) or known.get(key, "")) for key in ("task", "model")]
    place = device(found.note.get("versions", {}).get("device", ""), {})
    facts = ", ".join(name for name in names if name) or "comparison"
    return Interim(f"{facts} on {place}" if place else facts, found.arms, found.seeds, done)


def _done(run: SavedRun) -> Done:
    last = run.history[-1]
    return Done(last["test_accuracy"], last["updates"], last["seconds"], words.diverged_at(run) is not None)


def _under_way(found: Unfinished) -> list[str]:
    """A sentence for each run that was begun and is not finished."""
    told = []
    for (name, seed), run in found.runs.items():
        if run.result is None:
            epoch, accuracy = run.history[-1].get("epoch", "?"), 100 * run.history[-1]["test_accuracy"]
            place = f"{name}, seed {seed}, is at epoch {epoch} of {run.config['epochs']}"
            told.append(f"{place}: {accuracy:.1f} % test accuracy.")
    return told


def of_plan(found: Plan) -> Content:
    """The page of a forecast."""
    values = found.values
    title = str(values.get("title") or "LR schedule")
    samples = f"{words.whole(values['dataset_size'])} samples an epoch"
    paint = {_GROWING: look.COLOURS["adaptive"], _CONSTANT: look.COLOURS[SMALL]}
    drawn = charts.forecast(values, paint)
    shown = blocks.table(figures.plan(values, most=_MOST))
    note = "" if len(values["sizes"]) <= _MOST else '<p class="note">Some of the rows; all are in plan.json.</p>'
    _, settings = figures.settings({title: values.get("settings", {})}, seed=True)
    body = [
        blocks.header(["plan", title, samples], headline.of_plan(values)),
        blocks.cards(_plan_cards(values)),
        blocks.controls({_GROWING: "", _CONSTANT: ""}, {}),
        blocks.chart("lr", "Learning rate in force", "The schedule's, times the coupling.", size="short"),
        blocks.chart("batch", "Batch size", "Samples per update.", size="short"),
        blocks.chart("noise", "Noise scale", _NOISE, size="short"),
        blocks.section("Where something changes", shown + note),
        _on_workers(values["workers"]) if "workers" in values else "",
        blocks.details("Settings", blocks.facts(settings)) if settings else "",
        blocks.FOOTER,
    ]
    return Content(f"plan: {title}", blocks.main(body), drawn, paint)


def _on_workers(values: Json) -> str:
    """What a plan would take on more workers."""
    link = values["link"]
    source = f" Link {link['name']}: {link['source']}." if link["source"] else ""
    tables = blocks.table(figures.workers(values)) + blocks.table(figures.paying(values))
    text = f"{words.paying(values)} Medians over the turns of the probe, with 95 % intervals.{source}"
    return blocks.section("On more workers", tables + _note(text))


def _plan_cards(values: Json) -> list[str]:
    updates = {_CONSTANT: values["updates_before"], _GROWING: values["updates_after"]}
    made = [
        _updates_card(values["updates_before"] / values["updates_after"], updates),
        blocks.card("largest batch", words.whole(max(values["sizes"])), f"from {words.whole(values['sizes'][0])}"),
    ]
    before, after = values.get("seconds_before"), values.get("seconds_after")
    if before and after:
        bars = _seconds_bars({_CONSTANT: before, _GROWING: after})
        faster, times = before >= after, words.times(max(before / after, after / before))
        made.append(blocks.card("faster" if faster else "slower", times, "by the probe's throughput", below=bars))
    return made


def of_probe(found: Probe) -> Content:
    """The page of a probe."""
    values = found.values
    name = f"{values['task']}, {values['model']}"
    paint = {name: look.COLOURS[SMALL]}
    points = values["curve"]
    drawn = {"throughput": charts.probed(name, points)} if len(points) > 1 else {}
    versions = values.get("versions", {})
    sentence = re.sub(r"(?<=\d)x\b", words.TIMES, values["sentence"])
    title = f"{sentence[:1].upper()}{sentence[1:]}."
    lead = f"Real training steps, each batch size in {values['repeats']} {words.plural('turn', values['repeats'])}."
    if values["out_of_memory_at"] is not None:
        lead += f" Out of memory at a batch size of {words.whole(values['out_of_memory_at'])}."
    how = "Samples per second of training, median over turns; the band is from the slowest turn to the fastest."
    paired = "Ratios are paired by turn, with 95 % intervals." if drawn else ""
    if "compute_seconds" in points[0]:
        paired += " Passes alone: forward and backward of a process's share, without the reduction of its gradients."
    if points[0].get("peak_bytes") is not None:
        paired += " Memory of a step: its peak beyond what is kept between steps."
    between = values.get("communication")
    if between is not None:
        lead += f" {between['world_size']} processes share each batch; each turn has the seconds of the slowest one."
    body = [
        blocks.header(["probe", name, device(values["device"], versions)], Headline(title, lead)),
        blocks.cards(_probe_cards(values)),
        blocks.chart("throughput", "Throughput", how) if drawn else "",
        blocks.section("All figures", blocks.table(figures.probe(points)) + _note(paired)),
        "" if between is None else _communication(between),
        blocks.details("Versions", blocks.facts(figures.versions(versions))),
        blocks.FOOTER,
    ]
    return Content(f"probe: {name}", blocks.main(body), drawn, paint)


def _communication(found: Json) -> str:
    shown = blocks.table(figures.reduced(found)) + _note(words.all_reduce(found))
    return blocks.section("Communication", shown)


def _note(text: str) -> str:
    return f'<p class="note">{words.html(text.strip())}</p>' if text else ""


def _probe_cards(values: Json) -> list[str]:
    first, speedup = values["curve"][0], Ratio.of_json(values["speedup"])
    rate = f"{words.whole(first['samples_per_second']['median'])} samples per second"
    made = [blocks.card("first batch size", words.whole(first["batch_size"]), rate)]
    if values["fastest"] != first["batch_size"] and speedup.median:
        where = f"at batch {words.whole(values['fastest'])}"
        note = "; ".join(text for text in (where, words.interval_note(speedup)) if text)
        made.append(blocks.card("faster at most", f"{speedup.median:.2f}{words.TIMES}", note))
    if values["enough"] is not None and len(values["curve"]) > 1:
        enough = words.whole(values["enough"])
        made.append(blocks.card("batch that is enough", enough, "no larger one is shown to be faster"))
    return made
