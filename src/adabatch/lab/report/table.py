"""Tables of a comparison and of a throughput curve, for terminals (rich) and for files (plain text)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adabatch.lab.report import caution, headline, paired_times
from adabatch.lab.report import page_words as words
from adabatch.lab.report.interim import COLUMNS, Interim

NOTHING = "-"
_BOUNDLESS: Final = 1_000_000


def compare_table(compare: Mapping[str, Any], *, narrow: bool = False) -> Table:
    """One table of a comparison: a column per arm, a row per figure.

    Args:
        compare: the content of a `compare.json`.
        narrow: put intervals on lines of their own, for terminals below about 110 columns.

    Returns:
        The table: what each arm did, then what it gained over fixed-small and over fixed-large.
    """
    arms = compare["arms"]
    seeds = arms[0]["test_accuracy"]["n"]
    facts = f"{compare['task']}, {compare['model']} on {compare['device']}, {seeds} {'seed' if seeds == 1 else 'seeds'}"
    table = _table(f"{facts}: {headline.plain(compare)[0]}", ["", *(arm["name"] for arm in arms)])
    rows = _arm_rows(compare)
    for baseline in ("fixed-small", "fixed-large"):
        against = compare.get(f"against_{baseline.replace('-', '_')}")
        if against:
            rows.append((f"[bold]against {baseline}[/bold]", [""] * len(arms)))
            rows += [(f"- {label}", cells) for label, cells in _against_rows(compare, against, baseline)]
    for label, cells in rows:
        table.add_row(label, *(cell.replace(" \\[", "\n\\[") if narrow else cell for cell in cells))
    return table


def compare_words(compare: Mapping[str, Any]) -> list[str]:
    """What the comparison shows, a sentence per arm, and what it does not show.

    Args:
        compare: the content of a `compare.json`.

    Returns:
        Sentences in plain text.
    """
    margin = f"{100 * compare['margin']:g} %"
    sentences = []
    for name, against in compare["against_fixed_small"].items():
        fewer = against["updates_ratio"]
        updates = f"{fewer:.2f}x fewer updates" if fewer > 1 else f"{1 / fewer:.2f}x more updates"
        updates = "as many updates" if f"{fewer:.2f}" == "1.00" else updates
        gained = f"{updates}, {_speed_words(against['seconds_ratio'])}"
        within = f"accuracy within {margin}: {against['within_margin']['words']}{caution.beside(compare, against)}"
        if headline.diverged(compare, (name, headline.BASE)):
            sentences.append(f"{name} against fixed-small: {within}; updates and time tell nothing.")
        elif headline.standing(compare, name) == "good":
            sentences.append(f"{name} against fixed-small: {gained}; {within}.")
        else:  # what was lost comes first
            sentences.append(f"{name} against fixed-small: {within}; {gained}.")
    sentences += _target_words(compare)
    for arm in compare["arms"]:
        if arm.get("diverged"):
            n = arm["test_accuracy"]["n"]
            sentences.append(f"{arm['name']} diverged in {arm['diverged']} of {words.runs(n)}: a loss was not finite.")
    for arm in compare["arms"]:
        if arm.get("at_chance"):
            n = arm["test_accuracy"]["n"]
            sentences.append(f"{arm['name']} ended no better than chance in {arm['at_chance']} of {words.runs(n)}.")
    sentences += [scope] if (scope := caution.scope(compare)) else []
    if compare["arms"][0]["test_accuracy"]["n"] > 1:
        sentences.append(
            f"Accuracy: mean ± standard deviation over seeds. {caution.seconds_words(compare)}"
            f"{' Ratios and differences are paired by seed, with 95 % intervals.' if caution.compared(compare) else ''}"
        )
    return sentences


def interim_table(interim: Interim) -> Table:
    """A comparison under way: a row per arm.

    Args:
        interim: its finished runs.
    """
    table = _table(f"{interim.facts}. {interim.title}", ["", *COLUMNS])
    for name, cells in interim.rows():
        table.add_row(Text(name), *cells)
    return table


def probe_table(probe: Mapping[str, Any]) -> Table:
    """The throughput curve as a table: a row per batch size.

    Args:
        probe: the content of a `probe.json`.

    Returns:
        The table: samples per second, and how much faster than the first batch size.
    """
    first = probe["curve"][0]["batch_size"]
    title = f"{probe['task']}, {probe['model']} on {probe['device']}: training throughput"
    columns = ["batch size", "samples/s", "lowest to highest", "seconds a step", f"against {first}, 95 %"]
    table = _table(title, columns, first="right")
    for point in probe["curve"]:
        rate = point["samples_per_second"]
        table.add_row(
            str(point["batch_size"]),
            f"{rate['median']:,.0f}",
            f"{rate['min']:,.0f} to {rate['max']:,.0f}",
            f"{point['batch_size'] / rate['median']:.3g}",
            _ratio(point["against_first"]),
        )
    return table


def whole_width(table: Table) -> int:
    """The width at which no cell of a table is cut off or broken, in characters.

    Args:
        table: any rich table.
    """
    return Console(width=_BOUNDLESS).measure(table).maximum


def plain(table: Table) -> str:
    """A table as plain text without colour, as wide as its cells; its form is Markdown's, a line for each row.

    Args:
        table: any rich table.

    Returns:
        The text, without spaces at line ends.
    """
    stream = io.StringIO()
    shown, table.box = table.box, box.MARKDOWN
    title, table.title = table.title, None
    Console(file=stream, width=whole_width(table), color_system=None, force_terminal=False, highlight=False).print(
        table
    )
    table.box, table.title = shown, title
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    return "\n".join([f"{title}", "", *(line for line in lines if line)])


def _table(title: str, columns: Sequence[str], *, first: str = "left") -> Table:
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 and first == "left" else "right", no_wrap=index == 0)
    return table


def _arm_rows(compare: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    arms = compare["arms"]
    target = compare.get("target")
    rows = [
        ("batch size", [_sizes(arm["batch_sizes"]) for arm in arms]),
        ("updates", [f"{arm['updates']:,}" for arm in arms]),
        ("samples", [f"{arm['samples']:,}" for arm in arms]),
        ("test accuracy, %", [_accuracy(arm["test_accuracy"]) for arm in arms]),
        ("training seconds", [_seconds(compare, arm) for arm in arms]),
    ]
    sizes = sorted({int(size) for arm in arms for size in arm["samples_per_second"]})
    for size in sizes:
        rates = [arm["samples_per_second"].get(str(size)) for arm in arms]
        rows.append((f"samples/s at {size}", [NOTHING if rate is None else f"{rate:,.0f}" for rate in rates]))
    if target is not None:
        updates = [_reached(arm, arm["updates_to_target"], ",.0f") for arm in arms]
        rows.append((f"updates to {100 * target:g} %", updates))
        seconds = [_reached(arm, paired_times.seconds_to_target(compare, arm), ".2f") for arm in arms]
        rows.append((f"seconds to {100 * target:g} %", seconds))
    return rows


def _against_rows(compare: Mapping[str, Any], against: Mapping[str, Any], baseline: str) -> list[tuple[str, list[str]]]:
    names = [arm["name"] for arm in compare["arms"]]

    def row(label: str, cell: Any, of: Mapping[str, Any] = against) -> tuple[str, list[str]]:
        return label, [cell(of[name]) if name in of else NOTHING for name in names]

    gains = {name: found for name, found in against.items() if not headline.diverged(compare, (name, baseline))}
    rows = [  # of runs that diverged they tell nothing
        row("fewer updates", lambda found: f"{found['updates_ratio']:.2f}x", gains),
        row("faster", lambda found: _ratio(found["seconds_ratio"]), gains),
    ]
    if baseline == "fixed-large":
        return rows
    if compare.get("target") is not None:
        to_target = f"faster to {100 * compare['target']:g} %"
        rows.append(row(to_target, lambda found: _ratio(found["seconds_to_target_ratio"]), gains))
    rows.append(row("accuracy, points", lambda found: _points(found["accuracy_difference"])))
    if any(map(caution.by_seed, against.values())):
        rows.append(row("worst seed, points", lambda found: _worst(caution.by_seed(found))))
    if (samples := caution.over_samples(compare)) is not None:
        label = f"over {samples:,} test samples"
        rows.append(row(label, lambda found: _points(found.get("accuracy_difference_over_samples"))))
    rows.append(row(f"within {100 * compare['margin']:g} %", lambda found: found["within_margin"]["verdict"]))
    return rows


def _sizes(sizes: Sequence[int]) -> str:
    if len(sizes) == 1:
        return str(sizes[0])
    return f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 3 else ", ".join(str(size) for size in sizes)


def _accuracy(found: Mapping[str, Any]) -> str:
    mean = f"{100 * found['mean']:.2f}"
    return mean if found["std"] is None else f"{mean} ± {100 * found['std']:.2f}"


def _seconds(compare: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    found, told = arm["train_seconds"], f"{paired_times.seconds(compare, arm):.2f}"
    return told if len(found["values"]) == 1 else f"{told} \\[{found['min']:.2f}, {found['max']:.2f}]"


def _ratio(found: Mapping[str, float | None] | None) -> str:
    if found is None or found["median"] is None:
        return NOTHING
    median = f"{found['median']:.2f}x"
    return median if found["low"] is None else f"{median} \\[{found['low']:.2f}, {found['high']:.2f}]"


def _worst(found: Mapping[str, float | None]) -> str:
    worst = found.get("worst")
    return NOTHING if worst is None else f"{100 * worst:+.2f}"


def _points(found: Mapping[str, float | None] | None) -> str:
    if found is None:
        return NOTHING
    mean, low, high = found["mean"], found["low"], found["high"]
    text = f"{100 * (mean or 0):+.2f}"
    return text if low is None or high is None else f"{text} \\[{100 * low:+.2f}, {100 * high:+.2f}]"


def _reached(arm: Mapping[str, Any], value: float | None, form: str) -> str:
    tally = arm["to_target"]
    if tally["reached"] == 0:
        return "not reached"
    runs = f"{tally['reached']} of {tally['n']}"
    if value is None:  # where most runs never arrived, so did the median one
        return f"in {runs} runs"
    return format(value, form) + ("" if tally["reached"] == tally["n"] else f" ({runs})")


def _speed_words(ratio: Mapping[str, float]) -> str:
    interval = "" if ratio["low"] is None else f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    if ratio["median"] >= 1:
        words = f"{ratio['median']:.2f}x faster{interval}"
    else:
        words = f"{1 / ratio['median']:.2f}x slower"
        words += "" if ratio["low"] is None else f" [{1 / ratio['high']:.2f}, {1 / ratio['low']:.2f}]"
    if ratio["low"] is not None and ratio["low"] <= 1 <= ratio["high"]:
        words += " (a difference in speed is not shown)"
    return words


def _target_words(compare: Mapping[str, Any]) -> list[str]:
    if compare.get("target") is None:
        return []
    target = f"{100 * compare['target']:g} %"
    counts = {arm["name"]: (arm["to_target"]["reached"], arm["to_target"]["n"]) for arm in compare["arms"]}
    if not any(reached for reached, _ in counts.values()):
        return [f"Target {target}: never reached by any arm."]
    short = [f"{name} in {reached} of {n} runs" for name, (reached, n) in counts.items() if reached < n]
    if not short:
        return [f"Target {target}: reached in every run."]
    return [f"Target {target}: reached by {', '.join(short)}; by the other arms in every run."]
