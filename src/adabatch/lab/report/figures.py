"""Tables as records of text, with every figure of comparisons, runs, plans and probes.

`blocks.table` makes HTML of them, `terminal` plain text for terminals and compare.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from statistics import fmean, median, stdev
from typing import Any, Final, NamedTuple

from adabatch.lab.comparison import LARGE, SMALL, Against, ArmOutcome, Comparison, Ratio
from adabatch.lab.report import headline, words
from adabatch.lab.report.folders import Finished, SavedRun
from adabatch.lab.shapes import Json, setting_in_words
from adabatch.lab.tuning import Tuning

Row = tuple[str, Sequence[str]]


class Table(NamedTuple):
    """A table.

    Attributes:
        columns: heads of the columns after the first.
        groups: each a title, which may be empty, and rows; a row is a label and the cells.
        corner: the head of the first column.
        arms: whether columns are arms, so that their heads get the arms' colours.
        style: a class of the page's style sheet.
    """

    columns: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Row]]]
    corner: str = ""
    arms: bool = False
    style: str = ""


class _Form(NamedTuple):
    """The forms of figures that differ between pages and terminals."""

    size: Callable[[float], str]
    seconds: Callable[[float], str]
    some: str
    verdicts: Mapping[str, str]


_PAGE: Final = _Form(words.whole, words.seconds, f"{words.NOTHING} ({{}})", {"shown": "✓ shown", "worse": "✗ refuted"})
_TERMINAL: Final = _Form(str, "{:.2f}".format, "in {} runs", {})


def comparison(compare: Comparison) -> Table:
    """Every figure of a comparison with its spread or interval: a column per arm."""
    arms, several = compare.arms, len(compare.seeds) > 1
    rows = _arms(compare, _PAGE)
    if several:
        heads = {"test accuracy, %": " (± std)", "training seconds": " [min, max]"}
        rows = [(f"{label}{heads.get(label, '')}", cells) for label, cells in rows]
    for label, counts in (
        ("runs that diverged", [arm.diverged or 0 for arm in arms]),
        ("runs no better than chance", [arm.at_chance for arm in arms]),
    ):
        if any(counts):
            rows.append((label, [f"{count} of {len(compare.seeds)}" for count in counts]))
    groups = [("", [*rows, *_to_target(compare, _PAGE)]), *_against(compare, _PAGE)]
    groups.append(("samples per second at", _speeds(compare, "batch {:,}")))
    return Table([arm.name for arm in arms], groups, arms=True)


def comparison_typed(compare: Comparison) -> Table:
    """The table of a comparison for a terminal."""
    rows = [*_arms(compare, _TERMINAL), *_speeds(compare, "samples/s at {}"), *_to_target(compare, _TERMINAL)]
    return Table([arm.name for arm in compare.arms], [("", rows), *_against(compare, _TERMINAL)])


def _arms(compare: Comparison, form: _Form) -> list[Row]:
    arms = compare.arms
    return [
        ("batch size", [words.sizes(arm.batch_sizes, form.size) for arm in arms]),
        ("updates", [words.whole(arm.updates) for arm in arms]),
        ("samples", [words.whole(arm.samples) for arm in arms]),
        ("test accuracy, %", [words.accuracy(arm.test_accuracy) for arm in arms]),
        ("training seconds", [_seconds(compare, arm, form.seconds) for arm in arms]),
    ]


def _seconds(compare: Comparison, arm: ArmOutcome, form: Callable[[float], str]) -> str:
    found, told = arm.train_seconds, form(compare.seconds(arm))
    return told if len(found.values) == 1 else f"{told} [{form(found.min)}, {form(found.max)}]"


def _speeds(compare: Comparison, label: str) -> list[Row]:
    """A row per batch size: samples per second of each arm."""
    sizes = sorted({int(size) for arm in compare.arms for size in arm.samples_per_second})
    rates = {size: [arm.samples_per_second.get(str(size)) for arm in compare.arms] for size in sizes}
    return [
        (label.format(size), [words.NOTHING if rate is None else words.whole(rate) for rate in found])
        for size, found in rates.items()
    ]


def _to_target(compare: Comparison, form: _Form) -> list[Row]:
    if compare.target is None or not all(arm.to_target for arm in compare.arms):
        return []
    aim, arms = f"{100 * compare.target:g} %", compare.arms
    updates = [_reached(arm, arm.updates_to_target, words.whole, form.some) for arm in arms]
    seconds = [_reached(arm, compare.seconds_to_target(arm), form.seconds, form.some) for arm in arms]
    return [(f"updates to {aim}", updates), (f"seconds to {aim}", seconds)]


def _reached(arm: ArmOutcome, value: float | None, form: Callable[[float], str], some: str) -> str:
    tally = arm.to_target
    if tally is None or not tally.reached:
        return "not reached"
    runs = f"{tally.reached} of {tally.n}"
    if value is None:  # most runs never reached it, so there is no median
        return some.format(runs)
    return form(value) + ("" if tally.reached == tally.n else f" ({runs})")


def _against(compare: Comparison, form: _Form) -> list[tuple[str, list[Row]]]:
    """A group for each baseline."""
    baselines = [name for name in (SMALL, LARGE) if compare.against(name)]
    return [(f"against {name}", _against_rows(compare, name, form)) for name in baselines]


def _against_rows(compare: Comparison, baseline: str, form: _Form) -> list[Row]:
    against = compare.against(baseline)
    gains = {name: found for name, found in against.items() if not headline.diverged(compare, (name, baseline))}

    def row(label: str, cell: Callable[[Against], str], of: Mapping[str, Against] = against) -> Row:
        return label, [cell(of[arm.name]) if arm.name in of else words.NOTHING for arm in compare.arms]

    rows = [  # not for runs that diverged, where they mean nothing
        row("fewer updates", lambda found: f"{found.updates_ratio:.2f}{words.TIMES}", gains),
        row("faster", lambda found: words.ratio_cell(found.seconds_ratio), gains),
    ]
    if baseline == LARGE:
        return rows
    if compare.target is not None:
        label = f"faster to {100 * compare.target:g} %"
        rows.append(row(label, lambda found: words.ratio_cell(found.seconds_to_target_ratio), gains))
    rows.append(row("accuracy, points", lambda found: words.difference(found.accuracy_difference)))
    if any(found.accuracy_difference_by_seed.worst is not None for found in against.values()):
        rows.append(row("worst seed, points", lambda found: words.points(found.accuracy_difference_by_seed.worst)))
    if (samples := words.samples_tested(compare)) is not None:
        label = f"over {samples:,} test samples"
        rows.append(row(label, lambda found: words.difference(found.accuracy_difference_over_samples)))
    verdicts = form.verdicts
    within = row(words.within_words(compare), lambda found: found.within_margin.verdict)
    return [*rows, (within[0], [verdicts.get(cell, cell) for cell in within[1]])]


def runs(found: Finished) -> Table:
    """Every run: accuracy and seconds, a row per seed."""
    arms = found.compare.arms
    rows = [(f"seed {seed}", [_one_run(arm, place) for arm in arms]) for place, seed in enumerate(found.compare.seeds)]
    return Table([arm.name for arm in arms], [("", rows)], arms=True)


def _one_run(arm: ArmOutcome, place: int) -> str:
    accuracy, seconds = arm.test_accuracy.values[place], arm.train_seconds.values[place]
    return f"{100 * accuracy:.2f} % in {words.seconds(seconds)} s"


def history(run: SavedRun) -> Table:
    """Every evaluation of a run."""
    columns = ["updates", "seconds", "batch size", "LR", "training loss", "test loss", "test accuracy, %"]
    noise = any(found.get("noise_low") is not None for found in run.history)
    columns += ["noise scale", "of it 95 %"] if noise else []
    rows = []
    for found in run.history:
        losses = [_loss(found.get(key)) for key in ("train_loss", "test_loss")]
        cells = [words.whole(found["updates"]), words.seconds(found["seconds"]), words.whole(found["batch_size"])]
        cells += [f"{found['lr']:.4g}", *losses, f"{100 * found['test_accuracy']:.2f}"]
        cells += [words.noise_scale(found), words.noise_interval(found) or words.NOTHING] if noise else []
        rows.append((words.whole(found["samples"]), cells))
    return Table(columns, [("", rows)], corner="samples")


def together(runs: Mapping[str, SavedRun]) -> Table:
    """The findings of several runs so far: a column per run."""
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
    return Table(list(runs), [("", rows)], arms=True)


def _state(run: SavedRun) -> str:
    if words.diverged_at(run):
        return "diverged"
    return "finished" if run.result else f"epoch {run.history[-1].get('epoch', '?')} of {run.config['epochs']}"


def plan(values: Json, *, most: int) -> Table:
    """The rows of a `plan.json`: all, or if there are more than `most` the first, the last and some between."""
    count = len(values["starts_samples"])
    shown = range(count) if count <= most else sorted({round(step * (count - 1) / (most - 1)) for step in range(most)})
    keys = ("lr_before", "lr", "noise_scale", "noise_scale_before")
    rows = []
    for place in shown:
        start = values["starts_samples"][place]
        cells = [f"{start / values['dataset_size']:.4g}", words.whole(values["sizes"][place])]
        rows.append((words.whole(start), [*cells, *(f"{values[key][place]:,.4g}" for key in keys)]))
    columns = ["epoch", "batch size", "LR of the schedule", "LR in force", "noise scale", "the same before"]
    return Table(columns, [("", rows)], corner="from sample")


def workers(values: Json) -> Table:
    """A training on any number of workers: a row for each of a `plan.json`."""
    rows = []
    costs = any("cost" in row for row in values["rows"])
    nodes = any("node_efficiency" in row for row in values["rows"])
    for row in values["rows"]:
        cells = [_interval(row["seconds"], words.seconds), _interval(row["constant_seconds"], words.seconds)]
        cells.append(_interval(row["efficiency"], _percent))
        cells += [_interval(row.get("node_efficiency"), _percent)] if nodes else []
        cells.append(_interval(row["worker_hours"], _amount))
        cells += [_interval(row.get("cost"), _amount)] if costs else []
        rows.append((words.whole(row["workers"]), cells))
    columns = ["seconds", "at the constant batch", "efficiency, %", *(["against a node, %"] if nodes else [])]
    return Table([*columns, "worker-hours", *(["cost"] if costs else [])], [("", rows)], corner="workers")


def paying(values: Json) -> Table:
    """Up to how many workers are worth it: a row for each batch size of a `plan.json`, then seconds of an update."""
    counts = [words.whole(update["workers"]) for update in values["sizes"][0]["updates"]]
    rows = [
        (
            words.whole(size["batch_size"]),
            [
                _interval(size["pays_up_to"], words.whole),
                *(words.seconds(update["seconds"]) for update in size["updates"]),
            ],
        )
        for size in values["sizes"]
    ]
    return Table(["pay up to", *(f"update with {count}, s" for count in counts)], [("", rows)], corner="batch size")


def _percent(value: float) -> str:
    return f"{100 * value:.3g}"


def _amount(value: float) -> str:
    return f"{value:,.3g}" if value < 1000 else words.whole(value)


def _interval(found: Json | None, form: Callable[[float], str]) -> str:
    return words.NOTHING if found is None else words.valued(Ratio.of_json(found), form)


def probe(points: Sequence[Json]) -> Table:
    """Throughput: a row for each point of a `probe.json`.

    Bytes of a step and seconds of passes alone come last, if they were measured.
    """
    rows, alone, known = [], "compute_seconds" in points[0], points[0].get("peak_bytes") is not None
    for point in points:
        rate = point["samples_per_second"]
        speeds = [words.whole(rate["median"]), f"{words.whole(rate['min'])} to {words.whole(rate['max'])}"]
        against = None if point["against_first"] is None else Ratio.of_json(point["against_first"])
        passes = [words.seconds(point["compute_seconds"]["median"])] if alone else []
        peak = point.get("peak_bytes")
        taken = [words.NOTHING if peak is None else words.bytes_in(peak)] if known else []
        rows.append((words.whole(point["batch_size"]), [*speeds, words.ratio_cell(against), *taken, *passes]))
    columns = ["samples per second", "lowest to highest", f"against {words.whole(points[0]['batch_size'])}, 95 %"]
    more = [*(["memory of a step"] if known else []), *(["seconds of passes alone"] if alone else [])]
    return Table([*columns, *more], [("", rows)], corner="batch size")


def tuning(found: Tuning) -> Table:
    """The switches that `--tune` measured: how much faster a step is, seconds saved and prepared, and the choice."""
    rows = []
    for each in found.tried:
        ratios = [each.by_batch_size.get(str(size)) for size in found.batch_sizes]
        prepared = words.NOTHING if each.preparation_seconds is None else words.seconds(each.preparation_seconds)
        saved = words.seconds(each.saved_seconds) if each.saved_seconds else words.NOTHING
        cells = [*map(words.ratio_cell, [*ratios, each.training]), saved, prepared, "yes" if each.taken else "no"]
        rows.append((each.name, cells))
    columns = [*(f"at {words.whole(size)}" for size in found.batch_sizes), "whole training", "saves, s", "prepares, s"]
    return Table([*columns, "taken"], [("", rows)], corner="switch")


def reduced(communication: Json) -> Table:
    """Seconds of all-reduces: a row for each size of a `probe.json`, and one for the network's gradients."""
    found = {words.bytes_in(point["bytes"]): point["seconds"] for point in communication["curve"]}
    found["the gradients"] = communication["gradients"]["seconds"]
    rows = [
        (label, [words.seconds(times["median"]), f"{words.seconds(times['min'])} to {words.seconds(times['max'])}"])
        for label, times in found.items()
    ]
    return Table(["seconds", "lowest to highest"], [("", rows)], corner="all-reduce")


def decisions(run: SavedRun) -> Table | None:
    """Every change of the batch size with its reason; None if there was none."""
    rows = [
        (words.whole(found["clock"]), [words.whole(found["batch_size"]), str(found.get("reason", ""))])
        for found in run.decisions
    ]
    return Table(["batch size", "because"], [("", rows)], corner="from sample", style="prose") if rows else None


def settings(found: Mapping[str, Json], *, seed: bool = False) -> tuple[Table | None, list[tuple[str, str]]]:
    """A table of the settings in which arms differ, and names and values of those that they share."""
    names = list(found)
    keys = dict.fromkeys(key for values in found.values() for key in values if seed or key != "seed")
    values = {key: [_setting(key, found[name].get(key)) for name in names] for key in keys}
    differ = [(key.replace("_", " "), cells) for key, cells in values.items() if len(set(cells)) > 1]
    shared = [(key.replace("_", " "), cells[0]) for key, cells in values.items() if len(set(cells)) == 1]
    return (Table(names, [("", differ)], arms=True) if differ else None), shared


def versions(found: Json) -> list[tuple[str, str]]:
    """Names and values of the software and hardware that a result depends on."""
    return [(key.replace("_", " "), _setting(key, value)) for key, value in found.items()]


def _loss(value: float | None) -> str:
    return words.NOTHING if value is None else f"{value:.4g}"


def _setting(key: str, value: Any) -> str:
    """A setting in words: of a data folder only the last part, which is not private; of a revision its beginning."""
    if isinstance(value, Mapping):
        changed = ", with changes" if value.get("changed") else ""
        value = f"{str(value.get('revision', ''))[:12]}{changed}"
    return words.plain(
        PurePath(value).name if key == "data" and isinstance(value, str) else setting_in_words(key, value)
    )


COLUMNS: Final = ("runs", "test accuracy, %", "updates", "training seconds", "diverged")
NOTHING: Final = "-"


@dataclass(frozen=True, slots=True)
class Done:
    """A finished run: final accuracy, a fraction, updates, seconds, and whether a loss was not finite."""

    accuracy: float
    updates: int
    seconds: float
    diverged: bool


@dataclass(frozen=True, slots=True)
class Interim:
    """A comparison under way: its facts in words, the names of its arms, its seeds, and the finished runs."""

    facts: str
    arms: Sequence[str]
    seeds: Sequence[int]
    done: Mapping[tuple[str, int], Done]

    @property
    def title(self) -> str:
        """How many runs are done, in words."""
        count = sum((arm, seed) in self.done for arm in self.arms for seed in self.seeds)
        whole = len(self.arms) * len(self.seeds)
        return f"Unfinished: {count} of {whole} {'run is' if whole == 1 else 'runs are'} done"

    @property
    def missing(self) -> str:
        """The unfinished runs, as `"adaptive: seeds 1, 4 to 9; uncoupled: seed 9"`; empty if all are finished."""
        left = {arm: [seed for seed in self.seeds if (arm, seed) not in self.done] for arm in self.arms}
        return "; ".join(f"{arm}: {_counted(seeds)}" for arm, seeds in left.items() if seeds)

    def sentences(self) -> list[str]:
        """The sentences below the table."""
        return [
            f"Missing: {self.missing}." if self.missing else "All runs are done; the outcome is not written yet.",
            "Nothing is claimed before all runs are done: the arms may differ by the seeds that they have so far. "
            "The same adabatch compare command goes on.",
        ]

    def rows(self) -> list[tuple[str, list[str]]]:
        """Each arm's name with its cells for `COLUMNS`."""
        return [(arm, self._cells(arm)) for arm in self.arms]

    def _cells(self, arm: str) -> list[str]:
        found = [self.done[arm, seed] for seed in self.seeds if (arm, seed) in self.done]
        count = f"{len(found)} of {len(self.seeds)}"
        if not found:
            return [count, *[NOTHING] * (len(COLUMNS) - 1)]
        percent = [100 * run.accuracy for run in found]
        spread = f" ± {stdev(percent):.2f}" if len(found) > 1 else ""
        updates, seconds = median(run.updates for run in found), median(run.seconds for run in found)
        lost = sum(run.diverged for run in found)
        return [count, f"{fmean(percent):.2f}{spread}", f"{updates:,.0f}", f"{seconds:,.2f}", f"{lost or NOTHING}"]


def _counted(seeds: Sequence[int]) -> str:
    """Seeds in words, with consecutive ones as a range: `"seeds 1, 4 to 9"`."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    texts = [f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(str(seed) for seed in part) for part in parts]
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(texts)}"
