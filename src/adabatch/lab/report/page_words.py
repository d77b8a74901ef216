"""Figures of a page in words: the headline, the sentences below it and the form of every number."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from adabatch.lab.report.page_data import Json, Run

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
NOTHING = "\N{EN DASH}"
AS_MANY = "as many updates"


@dataclass(frozen=True, slots=True)
class Headline:
    """What a page says first.

    Attributes:
        title: the sentence, in plain text.
        lead: a second one, in plain text.
        sign: how it came out: `"good"`, `"open"`, `"bad"`; empty where nothing is claimed.
    """

    title: str
    lead: str
    sign: str = ""


def run_headline(run: Run) -> Headline:
    """What a run found so far, in two sentences."""
    last = run.history[-1]
    place = f"{100 * last['test_accuracy']:.1f} % test accuracy on {run.config['task']}"
    when = f"after {_updates(last)} in {seconds(last['seconds'])} s"
    state, lead, sign = [] if run.result else ["not finished"], _batch_words(run), ""
    if (lost := diverged_at(run)) is not None:
        state, sign = [*state, "diverged"], "bad"
        lead = f"The loss was not finite {_updates(lost)} after the start. {lead}"
    elif run.result and run.result.get("at_chance"):
        state, sign, chance = ["no better than chance"], "bad", run.result.get("chance")
        told = "" if chance is None else f"Always answering the most frequent class gets {100 * chance:.1f} %. "
        lead = f"{told}{lead}"
    if run.result is None:
        lead = f"Epoch {last.get('epoch', '?')} of {run.config['epochs']}. {lead}"
    head = f"{', '.join(state).capitalize()}: " if state else ""
    return Headline(f"{head}{place} {when}.", lead, sign)


def diverged_at(run: Run) -> Json | None:
    """The first evaluation at which a loss was not finite, None if none was; a loss not in the file says nothing."""
    for found in run.history:
        losses = [found[key] for key in ("train_loss", "test_loss") if key in found]
        if any(loss is None or not math.isfinite(loss) for loss in losses):
            return found
    return None


def epochs(run: Run) -> str:
    """How far a run came: its epochs, or the one that it is in of how many."""
    planned, ended = run.config["epochs"], run.result is not None and diverged_at(run) is None
    some = "" if ended else f"{run.history[-1].get('epoch', '?')} of "
    return f"{some}{whole(planned)} {plural('epoch', planned)}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: `"a"`, `"a and b"`, `"a, b and c"`."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def verdict_words(compare: Json, found: Json) -> str:
    """Whether "within the margin" is shown by the interval."""
    margin = f"within {100 * compare['margin']:g} %"
    within = found.get("within_margin", {})
    if within.get("verdict") in ("shown", "worse") and found["accuracy_difference"]["low"] is not None:
        return f"{margin} is {'shown' if within['verdict'] == 'shown' else 'refuted'}"
    _, _, reason = str(within.get("words", "")).partition(", ")
    if not reason and found["accuracy_difference"]["low"] is None:
        reason = "one seed gives no interval"
    return f"{margin} is not shown" + ("" if reason.startswith("the 95 %") or not reason else f", {reason}")


def updates_words(ratio: float) -> str:
    """`"3.4x fewer updates"`, from fixed-small's updates divided by the arm's."""
    if times(max(ratio, 1 / ratio)) == times(1):
        return AS_MANY
    return f"{times(ratio)} fewer updates" if ratio > 1 else f"{times(1 / ratio)} more updates"


def time_words(ratio: Mapping[str, float | None]) -> str:
    """`"2.2x faster"`, or that no difference is shown when the interval holds 1."""
    median = ratio["median"]
    if median is None or not is_shown(ratio):
        return "a difference in time is not shown"
    return f"{times(median)} faster" if median >= 1 else f"{times(1 / median)} slower"


def is_shown(ratio: Mapping[str, float | None]) -> bool:
    """Whether a ratio differs from 1 by its interval; without an interval it is taken as it is."""
    median, low, high = ratio["median"], ratio["low"], ratio["high"]
    return median is not None and (low is None or high is None or not low <= 1 <= high)


def times(ratio: float) -> str:
    """A ratio with its sign, two figures that count at least."""
    return f"{ratio:.1f}{TIMES}" if ratio >= 1.95 else f"{ratio:.2f}{TIMES}"


def ratio_cell(found: Mapping[str, float | None] | None) -> str:
    """A ratio with its interval."""
    if found is None or found["median"] is None:
        return NOTHING
    if found["low"] is None or found["high"] is None:
        return f"{found['median']:.2f}{TIMES}"
    return f"{found['median']:.2f}{TIMES} [{found['low']:.2f}, {found['high']:.2f}]"


def interval_note(found: Mapping[str, float | None], *, inverse: bool = False) -> str:
    """The interval of a ratio, or of its inverse; empty without one."""
    low, high = found["low"], found["high"]
    if low is None or high is None:
        return ""
    low, high = (1 / high, 1 / low) if inverse else (low, high)
    return f"95 % interval [{low:.2f}, {high:.2f}]" + ("; no difference shown" if low <= 1 <= high else "")


def points_note(found: Mapping[str, float | None]) -> str:
    """The interval of a difference of accuracies; empty without one."""
    low, high = found["low"], found["high"]
    return "" if low is None or high is None else f"95 % interval [{signed(100 * low)}, {signed(100 * high)}]"


def worst(found: Mapping[str, float | None]) -> str:
    """The worst seed's difference of accuracies in points."""
    value = found.get("worst")
    return NOTHING if value is None else signed(100 * value)


def difference(found: Mapping[str, float | None] | None) -> str:
    """A difference of accuracies in points, with its interval."""
    if found is None:
        return NOTHING
    mean, low, high = found["mean"] or 0.0, found["low"], found["high"]
    if low is None or high is None:
        return signed(100 * mean)
    return f"{signed(100 * mean)} [{signed(100 * low)}, {signed(100 * high)}]"


def signed(value: float) -> str:
    """With its sign and two places."""
    return f"{value:+.2f}".replace("-", MINUS)


def accuracy(found: Json) -> str:
    """Mean and standard deviation in %, without the sign."""
    mean = f"{100 * found['mean']:.2f}"
    return mean if found.get("std") is None else f"{mean} ± {100 * found['std']:.2f}"


def seconds(value: float) -> str:
    """Three figures that count, whole from 100 on."""
    return whole(value) if value >= 99.95 else f"{value:#.3g}"


def sizes(found: Sequence[int]) -> str:
    """Batch sizes in the order in which they came, first and last of more than three."""
    if len(found) > 3:
        return f"{whole(found[0])} to {whole(found[-1])}"
    return ", ".join(whole(size) for size in found)


def whole(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{round(value):,}"


def plural(word: str, count: float) -> str:
    """The word with an s, but for one."""
    return word if count == 1 else f"{word}s"


def runs(count: int) -> str:
    """So many runs."""
    return f"{whole(count)} {plural('run', count)}"


def html(text: str) -> str:
    """Text as HTML whose lines do not break before a sign or within an interval."""
    found = re.sub(r"(?<=\d) %|(?<=,) (?=[+\u2212\d.]+\])", lambda found: found[0].replace(" ", "&nbsp;"), escape(text))
    return found.replace("\N{NO-BREAK SPACE}", "&nbsp;")


def plain(value: Any) -> str:
    """A setting as a person writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _updates(found: Json) -> str:
    return f"{whole(found['updates'])} {plural('update', found['updates'])}"


def _batch_words(run: Run) -> str:
    sizes = [size for _, size, _ in run.staircase() if size]
    if len(sizes) == 1:
        return f"The batch stayed at {whole(sizes[0])} samples."
    steps = len(sizes) - 1
    words = f"The batch went from {whole(sizes[0])} to {whole(sizes[-1])} samples in {steps} {plural('step', steps)}"
    rates = {int(size): rate for size, rate in (run.result or {}).get("samples_per_second", {}).items()}
    first, last = rates.get(sizes[0]), rates.get(sizes[-1])
    if first and last:
        words += f", and throughput from {whole(first)} to {whole(last)} samples per second"
    return f"{words}."
