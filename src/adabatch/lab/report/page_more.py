"""Pages of what is no finished comparison and no single run: runs side by side, a comparison under way, plan, probe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from adabatch.lab.report import page_blocks as blocks
from adabatch.lab.report import page_charts as charts
from adabatch.lab.report import page_course, page_tables
from adabatch.lab.report import page_plot as plot
from adabatch.lab.report import page_words as words
from adabatch.lab.report.interim import COLUMNS, Done, Interim
from adabatch.lab.report.page_data import Json, Plan, Probe, Run, Together, Unfinished
from adabatch.lab.report.page_parts import AXES, Parts, device
from adabatch.lab.report.page_words import Headline

_PANELS: Final = ("accuracy", "batch", "lr")
_CONSTANT, _GROWING = "constant batch", "growing batch"
_MOST: Final = 60  # rows of a plan's table
_NOISE: Final = "LR × samples of an epoch / (batch size × (1\N{NO-BREAK SPACE}−\N{NO-BREAK SPACE}momentum))."


def of_together(found: Together) -> Parts:
    """The page of several runs of any settings."""
    runs = found.runs
    paint = plot.colours(list(runs))
    targets = {(run.result or {}).get("target") for run in runs.values()}
    target = targets.pop() if len(targets) == 1 else None
    course = page_course.course({name: [run] for name, run in runs.items()}, _PANELS, paint, target=target)
    drawn, places = {"course": course}, []
    rates = {name: run.result["samples_per_second"] for name, run in runs.items() if run.result}
    if charts.differ_in_size(rates.values()):
        drawn["throughput"] = charts.throughput({name: found for name, found in rates.items() if found}, paint)
        places.append(blocks.chart("throughput", "Throughput", "Samples per second of training at each batch size."))
    differ, shared = page_tables.settings_tables({name: run.config for name, run in runs.items()}, seed=True)
    others, versions = page_tables.settings_tables({name: run.versions for name, run in runs.items()})
    tasks = list(dict.fromkeys(f"{run.config['task']}, {run.config['model']}" for run in runs.values()))
    body = [
        blocks.header([*tasks[:3], f"{len(runs)} runs"], _together_headline(runs)),
        blocks.controls({name: f"{100 * run.history[-1]['test_accuracy']:.1f} %" for name, run in runs.items()}, AXES),
        blocks.chart("course", "", "As measured at each evaluation.", size="tall"),
        blocks.section("In what their settings differ", differ or '<p class="note">In nothing.</p>'),
        blocks.section("All figures", page_tables.together_table(runs)),
        f'<div class="grid">{"".join(places)}</div>',
        blocks.details("Settings that they share", shared),
        blocks.details("Versions", others + versions),
        blocks.FOOTER,
    ]
    return Parts(f"{', '.join(tasks)}: {', '.join(runs)}", blocks.main(body), drawn, paint)


def _together_headline(runs: Mapping[str, Run]) -> Headline:
    tasks = {run.config["task"] for run in runs.values()}
    where = f" on {tasks.pop()}" if len(tasks) == 1 else ""
    lost = [name for name, run in runs.items() if words.diverged_at(run)]
    whole = [name for name in runs if name not in lost]
    sentences = [f"{words.listed(lost)} diverged: a loss was not finite."] if lost else []
    if where and len(whole) > 1:
        best = max(whole, key=lambda name: float(runs[name].history[-1]["test_accuracy"]))
        accuracy, among = 100 * runs[best].history[-1]["test_accuracy"], "Of the others, " if lost else ""
        sentences.append(f"{among}{best} has the highest test accuracy at its last evaluation: {accuracy:.2f} %.")
    sentences.append("One run of each does not tell a difference from luck; adabatch compare trains over seeds.")
    if going := [name for name, run in runs.items() if run.result is None]:
        sentences.append(f"Not finished yet: {', '.join(going)}.")
    return Headline(f"{len(runs)} runs{where} side by side.", " ".join(sentences), "bad" if lost else "")


def of_unfinished(found: Unfinished) -> Parts:
    """The page of a comparison of which runs are missing."""
    interim, note = interim_of(found), found.note
    finished = {name: list(found.finished(name).values()) for name in found.arms}
    paint, finished = plot.colours(list(found.arms)), {name: runs for name, runs in finished.items() if runs}
    lead = " ".join([*interim.sentences(), *_under_way(found)])
    legend = {name: f"{len(found.finished(name))} of {len(found.seeds)}" for name in found.arms}
    drawn, body = {}, [blocks.header([interim.facts, "not finished"], Headline(f"{interim.title}.", lead, "open"))]
    if finished:
        drawn["course"] = page_course.course(finished, _PANELS, paint, target=note.get("target"))
        how = page_course.spread_words(finished, "the seeds that are finished")
        body += [blocks.controls(legend, AXES), blocks.chart("course", "", how, size="tall")]
    body.append(blocks.section("So far", page_tables.table(COLUMNS, [("", interim.rows())], corner="arm")))
    some = {name: runs[0].config for name, runs in finished.items()}
    body += [blocks.settings(some, note.get("versions", {})), blocks.FOOTER]
    return Parts(f"{interim.facts}: unfinished", blocks.main(body), drawn, paint)


def interim_of(found: Unfinished) -> Interim:
    """The finished runs of a comparison under way."""
    done = {
        (name, seed): Done(
            run.history[-1]["test_accuracy"],
            run.history[-1]["updates"],
            run.history[-1]["seconds"],
            words.diverged_at(run) is not None,
        )
        for name in found.arms
        for seed, run in found.finished(name).items()
    }
    known: Json = next((run.config for run in found.runs.values()), {})
    names = [str(found.note.get(key) or known.get(key, "")) for key in ("task", "model")]
    place = device(found.note.get("versions", {}).get("device", ""), {})
    facts = ", ".join(name for name in names if name) or "comparison"
    return Interim(f"{facts} on {place}" if place else facts, found.arms, found.seeds, done)


def _under_way(found: Unfinished) -> list[str]:
    """Runs that were begun and are not finished."""
    told = []
    for (name, seed), run in found.runs.items():
        if run.result is None:
            epoch, accuracy = run.history[-1].get("epoch", "?"), 100 * run.history[-1]["test_accuracy"]
            told.append(
                f"{name}, seed {seed}, is at epoch {epoch} of {run.config['epochs']}: {accuracy:.1f} % test accuracy."
            )
    return told


def of_plan(found: Plan) -> Parts:
    """The page of a forecast."""
    values = found.values
    title = str(values.get("title") or "LR schedule")
    paint = dict(zip((_GROWING, _CONSTANT), plot.colours(["adaptive", "fixed-small"]).values(), strict=True))
    first = [values["sizes"][0]] * len(values["sizes"])
    drawn = {
        "lr": _stairs(values, {_GROWING: values["lr"], _CONSTANT: values["lr_before"]}, paint, "LR"),
        "batch": _stairs(values, {_GROWING: values["sizes"], _CONSTANT: first}, paint, "batch"),
        "noise": _stairs(
            values, {_GROWING: values["noise_scale"], _CONSTANT: values["noise_scale_before"]}, paint, "noise scale"
        ),
    }
    drawn["batch"]["layout"]["yaxis"] |= plot.sizes_axis(values["sizes"], most=6, margin=0.1)
    scales = [value for value in (*values["noise_scale"], *values["noise_scale_before"]) if value > 0]
    drawn["noise"]["layout"]["yaxis"] |= plot.log_axis(scales, room=0.1) if scales else {}
    drawn["lr"]["layout"]["yaxis"] |= {"rangemode": "tozero"}
    shown = page_tables.plan_table(values, most=_MOST)
    note = "" if len(values["sizes"]) <= _MOST else '<p class="note">Some of the rows; all are in plan.json.</p>'
    _, settings = (
        page_tables.settings_tables({title: values["settings"]}, seed=True) if values.get("settings") else ("", "")
    )
    body = [
        blocks.header(
            ["plan", title, f"{words.whole(values['dataset_size'])} samples an epoch"], _plan_headline(values)
        ),
        blocks.cards(_plan_cards(values)),
        blocks.controls({_GROWING: "", _CONSTANT: ""}, {}),
        blocks.chart("lr", "Learning rate in force", "The schedule's, times the coupling.", size="short"),
        blocks.chart("batch", "Batch size", "Samples per update.", size="short"),
        blocks.chart("noise", "Noise scale", _NOISE, size="short"),
        blocks.section("Where something changes", shown + note),
        blocks.details("Settings", settings) if settings else "",
        blocks.FOOTER,
    ]
    return Parts(f"plan: {title}", blocks.main(body), drawn, paint)


def _plan_headline(values: Json) -> Headline:
    before, after, sizes = values["updates_before"], values["updates_after"], values["sizes"]
    if before == after:
        title = f"{words.whole(before)} updates, as many as with a constant batch."
    else:
        title = f"{words.whole(before)} updates become {words.whole(after)}: {words.updates_words(before / after)}."
    steps = sum(one != other for one, other in pairwise(sizes))
    lead = f"The batch stays at {words.whole(sizes[0])}."
    if steps:
        change = f"from {words.whole(sizes[0])} to {words.whole(sizes[-1])} in {steps} {words.plural('step', steps)}"
        epochs = values["epochs"]
        lead = f"The batch goes {change} over {words.whole(epochs)} {words.plural('epoch', epochs)}."
    if values.get("coupling"):
        lead += f" Coupling: {values['coupling']}."
    return Headline(title, f"{lead} A forecast: it knows updates exactly, and of accuracy nothing.")


def _plan_cards(values: Json) -> list[str]:
    updates = {_CONSTANT: values["updates_before"], _GROWING: values["updates_after"]}
    ratio = values["updates_before"] / values["updates_after"]
    made = [
        blocks.card(
            "fewer updates" if ratio >= 1 else "more updates",
            words.times(max(ratio, 1 / ratio)),
            below=blocks.bars(updates, {key: words.whole(value) for key, value in updates.items()}),
        ),
        blocks.card("largest batch", words.whole(max(values["sizes"])), f"from {words.whole(values['sizes'][0])}"),
    ]
    before, after = values.get("seconds_before"), values.get("seconds_after")
    if before and after:
        seconds = {_CONSTANT: before, _GROWING: after}
        bars = blocks.bars(seconds, {key: f"{words.seconds(value)} s" for key, value in seconds.items()})
        faster, times = before >= after, words.times(max(before / after, after / before))
        made.append(blocks.card("faster" if faster else "slower", times, "by the probe's throughput", below=bars))
    return made


def _stairs(values: Json, lines: Mapping[str, Sequence[float]], paint: Mapping[str, str], what: str) -> Any:
    """What holds from each start on, a line for each name."""
    starts = [*values["starts_samples"], values["dataset_size"] * values["epochs"]]
    traces = []
    for name, heights in lines.items():
        ys = [*heights, heights[-1]]
        text = [
            f"<b>{name}</b> {what} {height:,.4g}<br>{words.whole(start)} samples<br>"
            f"epoch {start / values['dataset_size']:.4g}"
            for start, height in zip(starts, ys, strict=True)
        ]
        line = {"width": 2, "dash": plot.dash(name, paint), "shape": "hv"}
        traces.append(plot.trace(name, starts, ys, text) | {"mode": "lines", "line": line})
    layout = plot.layout("samples")
    layout["xaxis"] |= {"rangemode": "tozero"}
    return {"traces": traces, "layout": layout}


def of_probe(found: Probe) -> Parts:
    """The page of a throughput curve."""
    values = found.values
    name = f"{values['task']}, {values['model']}"
    paint = {name: plot.colours(["fixed-small"]).popitem()[1]}
    points = values["curve"]
    drawn = {"throughput": charts.probed(name, points)} if len(points) > 1 else {}
    versions = values.get("versions", {})
    sentence = re.sub(r"(?<=\d)x\b", words.TIMES, values["sentence"])
    title = f"{sentence[:1].upper()}{sentence[1:]}."
    lead = f"Real training steps, each batch size in {values['repeats']} {words.plural('turn', values['repeats'])}."
    if values["out_of_memory_at"] is not None:
        lead += f" Out of memory at a batch size of {words.whole(values['out_of_memory_at'])}."
    how = "Samples per second of training, median over turns; the band is from the slowest turn to the fastest."
    paired = '<p class="note">Ratios are paired by turn, with 95 % intervals.</p>' if drawn else ""
    body = [
        blocks.header(["probe", name, device(values["device"], versions)], Headline(title, lead)),
        blocks.cards(_probe_cards(values)),
        blocks.chart("throughput", "Throughput", how) if drawn else "",
        blocks.section("All figures", page_tables.probe_table(points) + paired),
        blocks.details("Versions", page_tables.versions_list(versions)),
        blocks.FOOTER,
    ]
    return Parts(f"probe: {name}", blocks.main(body), drawn, paint)


def _probe_cards(values: Json) -> list[str]:
    first, speedup = values["curve"][0], values["speedup"]
    rate = f"{words.whole(first['samples_per_second']['median'])} samples per second"
    made = [blocks.card("first batch size", words.whole(first["batch_size"]), rate)]
    if values["fastest"] != first["batch_size"] and speedup["median"]:
        where = f"at batch {words.whole(values['fastest'])}"
        note = "; ".join(text for text in (where, words.interval_note(speedup)) if text)
        made.append(blocks.card("faster at most", f"{speedup['median']:.2f}{words.TIMES}", note))
    if values["enough"] is not None and len(values["curve"]) > 1:
        made.append(
            blocks.card("batch that is enough", words.whole(values["enough"]), "no larger one is shown to be faster")
        )
    return made
