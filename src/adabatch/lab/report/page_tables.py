"""The tables of a page, as HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import PurePath
from typing import Any, Final

from adabatch.lab.report import caution, headline, paired_times
from adabatch.lab.report import page_words as words
from adabatch.lab.report.page_data import Comparison, Json, Run

Row = tuple[str, Sequence[str]]

_LONG: Final = 30  # letters of a column's head
_VERDICTS: Final = {"shown": "✓ shown", "worse": "✗ refuted"}


def comparison_table(compare: Json) -> str:
    """Every figure with its spread or interval: a column per arm.

    Args:
        compare: the content of a `compare.json`.
    """
    arms = compare["arms"]
    several = len(compare["seeds"]) > 1
    rows: list[Row] = [
        ("batch size", [words.sizes(arm["batch_sizes"]) for arm in arms]),
        ("updates", [words.whole(arm["updates"]) for arm in arms]),
        ("samples", [words.whole(arm["samples"]) for arm in arms]),
        ("test accuracy, %" + (" (± std)" if several else ""), [words.accuracy(arm["test_accuracy"]) for arm in arms]),
        ("training seconds" + (" [min, max]" if several else ""), [_seconds(compare, arm) for arm in arms]),
    ]
    if any(arm.get("diverged") for arm in arms):
        rows.append(("runs that diverged", [f"{arm.get('diverged', 0)} of {len(compare['seeds'])}" for arm in arms]))
    if any(arm.get("at_chance") for arm in arms):
        chance = [f"{arm.get('at_chance', 0)} of {len(compare['seeds'])}" for arm in arms]
        rows.append(("runs no better than chance", chance))
    if compare.get("target") is not None and all("to_target" in arm for arm in arms):
        aim = f"{100 * compare['target']:g} %"
        rows.append((f"updates to {aim}", [_reached(arm, arm.get("updates_to_target"), words.whole) for arm in arms]))
        seconds = [_reached(arm, paired_times.seconds_to_target(compare, arm), words.seconds) for arm in arms]
        rows.append((f"seconds to {aim}", seconds))
    speeds: list[Row] = []
    for size in sorted({int(size) for arm in arms for size in arm["samples_per_second"]}):
        rates = [arm["samples_per_second"].get(str(size)) for arm in arms]
        speeds.append((f"batch {size:,}", [words.NOTHING if rate is None else words.whole(rate) for rate in rates]))
    names = [arm["name"] for arm in arms]
    groups = [("", rows)]
    for baseline in ("fixed-small", "fixed-large"):
        against = compare.get(f"against_{baseline.replace('-', '_')}")
        if against:
            groups.append((f"against {baseline}", _against(compare, names, baseline, against)))
    groups.append(("samples per second at", speeds))
    return table(names, groups, marked=True)


def _against(compare: Json, names: Sequence[str], baseline: str, against: Json) -> list[Row]:
    gains = {name: found for name, found in against.items() if not headline.diverged(compare, (name, baseline))}

    def row(label: str, cell: Callable[[Json], str], of: Json = against) -> Row:
        return label, [cell(of[name]) if name in of else words.NOTHING for name in names]

    rows = [  # of runs that diverged they tell nothing
        row("fewer updates", lambda found: f"{found['updates_ratio']:.2f}{words.TIMES}", gains),
        row("faster", lambda found: words.ratio_cell(found["seconds_ratio"]), gains),
    ]
    if baseline != headline.BASE:
        return rows
    if compare.get("target") is not None:
        label = f"faster to {100 * compare['target']:g} %"
        rows.append(row(label, lambda found: words.ratio_cell(found.get("seconds_to_target_ratio")), gains))
    rows.append(row("accuracy, points", lambda found: words.difference(found["accuracy_difference"])))
    if any(map(caution.by_seed, against.values())):
        rows.append(row("worst seed, points", lambda found: words.worst(caution.by_seed(found))))
    if (samples := caution.over_samples(compare)) is not None:
        label = f"over {samples:,} test samples"
        rows.append(row(label, lambda found: words.difference(found.get("accuracy_difference_over_samples"))))
    margin = f"within {100 * compare['margin']:g} %"
    return [*rows, row(margin, lambda found: _VERDICTS.get(found.get("within_margin", {}).get("verdict"), "not shown"))]


def runs_table(comparison: Comparison) -> str:
    """Every run: accuracy and seconds, a row per seed."""
    arms = comparison.compare["arms"]
    rows = [
        (f"seed {seed}", [_one_run(arm, place) for arm in arms])
        for place, seed in enumerate(comparison.compare["seeds"])
    ]
    return table([arm["name"] for arm in arms], [("", rows)], marked=True)


def _one_run(arm: Json, place: int) -> str:
    accuracy, seconds = arm["test_accuracy"]["values"][place], arm["train_seconds"]["values"][place]
    return f"{100 * accuracy:.2f} % in {words.seconds(seconds)} s"


def history_table(run: Run) -> str:
    """Every evaluation of a run."""
    columns = ["updates", "seconds", "batch size", "LR", "training loss", "test loss", "test accuracy, %"]
    rows = []
    for found in run.history:
        losses = [_loss(found.get(key)) for key in ("train_loss", "test_loss")]
        cells = [words.whole(found["updates"]), words.seconds(found["seconds"]), words.whole(found["batch_size"])]
        rows.append(
            (
                words.whole(found["samples"]),
                [*cells, f"{found['lr']:.4g}", *losses, f"{100 * found['test_accuracy']:.2f}"],
            )
        )
    return table(columns, [("", rows)], corner="samples")


def together_table(runs: Mapping[str, Run]) -> str:
    """What each of several runs found so far: a column per run.

    Args:
        runs: by name.
    """
    lasts = {name: run.history[-1] for name, run in runs.items()}
    every = [(run, lasts[name], run.result or {}) for name, run in runs.items()]
    rows: list[Row] = [
        ("state", [_state(run) for run in runs.values()]),
        ("batch size", [words.sizes([size for _, size, _ in run.staircase()]) for run, _, _ in every]),
        ("updates", [words.whole(at["updates"]) for _, at, _ in every]),
        ("samples", [words.whole(found.get("samples", at["samples"])) for _, at, found in every]),
        ("test accuracy, %", [f"{100 * at['test_accuracy']:.2f}" for _, at, _ in every]),
        ("best, %", [f"{100 * max(found['test_accuracy'] for found in run.history):.2f}" for run, _, _ in every]),
        ("test loss", [_loss(at.get("test_loss")) for _, at, _ in every]),
        ("training seconds", [words.seconds(at["seconds"]) for _, at, _ in every]),
    ]
    if any(words.diverged_at(run) for run in runs.values()):
        rows.append(("diverged", ["yes" if words.diverged_at(run) else "no" for run in runs.values()]))
    return table(list(runs), [("", rows)], marked=True)


def _state(run: Run) -> str:
    if words.diverged_at(run):
        return "diverged"
    return "finished" if run.result else f"epoch {run.history[-1].get('epoch', '?')} of {run.config['epochs']}"


def plan_table(values: Json, *, most: int) -> str:
    """The rows of a forecast, the first, the last and some between where there are many.

    Args:
        values: the content of a `plan.json`.
        most: rows at the most, at least 2.
    """
    count = len(values["starts_samples"])
    shown = range(count) if count <= most else sorted({round(step * (count - 1) / (most - 1)) for step in range(most)})
    keys = ("lr_before", "lr", "noise_scale", "noise_scale_before")
    rows = [
        (
            words.whole(values["starts_samples"][place]),
            [
                f"{values['starts_samples'][place] / values['dataset_size']:.4g}",
                words.whole(values["sizes"][place]),
                *(f"{values[key][place]:,.4g}" for key in keys),
            ],
        )
        for place in shown
    ]
    columns = ["epoch", "batch size", "LR of the schedule", "LR in force", "noise scale", "the same before"]
    return table(columns, [("", rows)], corner="from sample")


def probe_table(points: Sequence[Json]) -> str:
    """A throughput curve: a row per batch size.

    Args:
        points: the curve of a `probe.json`.
    """
    rows = [
        (
            words.whole(point["batch_size"]),
            [
                words.whole(point["samples_per_second"]["median"]),
                " to ".join(words.whole(point["samples_per_second"][end]) for end in ("min", "max")),
                words.ratio_cell(point["against_first"]),
            ],
        )
        for point in points
    ]
    columns = ["samples per second", "lowest to highest", f"against {words.whole(points[0]['batch_size'])}, 95 %"]
    return table(columns, [("", rows)], corner="batch size")


def decisions_table(run: Run) -> str:
    """Every change of the batch size with its reason; empty when there was none."""
    rows = [
        (words.whole(found["clock"]), [words.whole(found["batch_size"]), str(found.get("reason", ""))])
        for found in run.decisions
    ]
    return table(["batch size", "because"], [("", rows)], corner="from sample", kind="prose") if rows else ""


def settings_tables(settings: Mapping[str, Json], *, seed: bool = False) -> tuple[str, str]:
    """The settings in which arms differ, as a table with a column per arm, and those that they share, as a list.

    Args:
        settings: for each arm its settings.
        seed: whether the seed is one of them.
    """
    names = list(settings)
    keys = dict.fromkeys(key for values in settings.values() for key in values if seed or key != "seed")
    values = {key: [_setting(key, settings[name].get(key)) for name in names] for key in keys}
    differ = [(key.replace("_", " "), cells) for key, cells in values.items() if len(set(cells)) > 1]
    shared = [(key.replace("_", " "), cells[0]) for key, cells in values.items() if len(set(cells)) == 1]
    return (table(names, [("", differ)], marked=True) if differ else ""), facts(shared)


def versions_list(versions: Json) -> str:
    """What the result depends on besides its settings."""
    found = []
    for key, value in versions.items():
        found.append((key.replace("_", " "), _setting(key, value)))
    return facts(found)


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values as a list."""
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{items}</dl>'


def table(
    columns: Sequence[str],
    groups: Sequence[tuple[str, Sequence[Row]]],
    *,
    corner: str = "",
    marked: bool = False,
    kind: str = "",
) -> str:
    """A table that scrolls sideways by itself where it is too wide.

    Args:
        columns: their heads.
        groups: a title, empty for none, and rows: a label and the cells.
        corner: the head of the first column.
        marked: whether the columns are arms, whose heads carry their colour.
        kind: a class of the style.
    """
    heads = "".join(
        f'<th scope="col"{_wide(name)}>{mark(name) if marked else ""}{escape(name)}</th>' for name in columns
    )
    body = ""
    for title, rows in groups:
        if title:
            span = f'scope="rowgroup" colspan="{len(columns) + 1}"'
            body += f'<tr class="group"><th {span}><span>{escape(title)}</span></th></tr>'
        for label, cells in rows:
            row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            body += f'<tr><th scope="row">{words.html(label)}</th>{row}</tr>'
    head = f'<thead><tr><th scope="col">{escape(corner)}</th>{heads}</tr></thead>'
    return f'<div class="scroll {kind}" tabindex="0"><table>{head}<tbody>{body}</tbody></table></div>'


def _wide(name: str) -> str:
    """A column wide enough that a long name does not make a high head."""
    return ' class="long"' if len(name) > _LONG else ""


def mark(arm: str) -> str:
    """A spot in the colour of an arm; the colours are in the page's style."""
    return f'<i class="spot" data-arm="{escape(arm)}"></i>'


def _seconds(compare: Json, arm: Json) -> str:
    found, told = arm["train_seconds"], words.seconds(paired_times.seconds(compare, arm))
    if len(found["values"]) == 1:
        return told
    return f"{told} [{words.seconds(found['min'])}, {words.seconds(found['max'])}]"


def _reached(arm: Json, value: float | None, form: Callable[[float], str]) -> str:
    tally = arm["to_target"]
    if not tally["reached"]:
        return "not reached"
    some = "" if tally["reached"] == tally["n"] else f" ({tally['reached']} of {tally['n']})"
    return f"{words.NOTHING if value is None else form(value)}{some}"


def _loss(value: float | None) -> str:
    return words.NOTHING if value is None else f"{value:.4g}"


def _setting(key: str, value: Any) -> str:
    """Of a data folder only the last part: where it lies is nobody's business; of a revision its beginning."""
    if isinstance(value, Mapping):
        changed = ", with changes" if value.get("changed") else ""
        value = f"{str(value.get('revision', ''))[:12]}{changed}"
    return words.plain(PurePath(value).name if key == "data" and value else value)
