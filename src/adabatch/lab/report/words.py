"""Figures in words: clauses about a comparison and a run, and the form of every number."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, Final

from adabatch.lab.comparison import SMALL, Against, Comparison, Difference, Ratio, Summary, lost_words, unjudged
from adabatch.lab.report.folders import SavedRun
from adabatch.lab.shapes import Json
from adabatch.lab.tuning import Tuning

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
NOTHING = "\N{EN DASH}"
AS_MANY = "as many updates"
SKEWED: Final = "the differences are skewed, so the interval may miss more often than 5 %"


def diverged_at(run: SavedRun) -> Json | None:
    """The first evaluation with a loss that is not finite; None if there is none. Missing losses do not count."""
    for found in run.history:
        losses = [found[key] for key in ("train_loss", "test_loss") if key in found]
        if any(loss is None or not math.isfinite(loss) for loss in losses):
            return found
    return None


def epochs(run: SavedRun) -> str:
    """The epochs of a run, as `"14 epochs"`; of one that did not end well, `"5 of 14 epochs"`."""
    planned, ended = run.config["epochs"], run.result is not None and diverged_at(run) is None
    some = "" if ended else f"{run.history[-1].get('epoch', '?')} of "
    return f"{some}{whole(planned)} {plural('epoch', planned)}"


def noise_scale(found: Json) -> str:
    """The noise scale at an evaluation, in samples; a dash where the signal is not told from 0."""
    scale = found.get("noise_scale")
    return NOTHING if scale is None or scale <= 0 else f"{scale:,.3g}"


def noise_interval(found: Json) -> str:
    """The interval of the noise scale at an evaluation; empty where none was measured."""
    low, high = found.get("noise_low"), found.get("noise_high")
    return "" if low is None else f"{low:,.3g} to {'infinite' if high is None else f'{high:,.3g}'}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: `"a"`, `"a and b"`, `"a, b and c"`."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def verdict_words(compare: Comparison, name: str) -> str:
    """Whether an arm is shown to be within the margin of fixed-small, with a reason if it is not the interval."""
    found, arm, base = compare.against_fixed_small[name], compare.arm(name), compare.arm(SMALL)
    within, difference, margin = found.within_margin, found.accuracy_difference, within_words(compare)
    if within.verdict in ("shown", "worse") and difference.low is not None:
        return f"{margin} is {'shown' if within.verdict == 'shown' else 'refuted'}"
    if within.words and arm.diverged is None:  # of an older file, which has its reason only there
        return f"{margin} is {within.words}"
    reason = unjudged(difference, lost_words(arm, base))
    return f"{margin} is not shown" + (f", {reason}" if reason else "")


def within_words(compare: Comparison) -> str:
    """The margin: `"within 1 %"`."""
    return f"within {100 * compare.margin:g} %"


def updates_words(ratio: float) -> str:
    """`"3.4x fewer updates"`, from fixed-small's updates divided by the arm's."""
    if times(max(ratio, 1 / ratio)) == times(1):
        return AS_MANY
    return f"{times(ratio)} fewer updates" if ratio > 1 else f"{times(1 / ratio)} more updates"


def time_words(ratio: Ratio) -> str:
    """`"2.2x faster"`, or that no difference is shown if the interval holds 1."""
    if ratio.median is None or not ratio.is_shown:
        return "a difference in time is not shown"
    return f"{times(ratio.median)} faster" if ratio.median >= 1 else f"{times(1 / ratio.median)} slower"


def speed_words(ratio: Ratio) -> str:
    """`"2.24x faster [2.10, 2.40]"`, with a clause if no difference is shown; in plain text."""
    faster = (ratio.median or 1.0) >= 1
    shown = ratio if faster else ratio.inverse
    told = f"{shown.median or 1.0:.2f}x {'faster' if faster else 'slower'} {_interval(shown, '{:.2f}'.format)}".rstrip()
    return told if ratio.interval is None or ratio.is_shown else f"{told} (a difference in speed is not shown)"


def times(ratio: float) -> str:
    """A ratio with at least two significant figures and its sign."""
    return f"{ratio:.1f}{TIMES}" if ratio >= 1.95 else f"{ratio:.2f}{TIMES}"


def ratio_cell(found: Ratio | None) -> str:
    """A ratio with its interval."""
    if found is None or found.median is None:
        return NOTHING
    return f"{found.median:.2f}{TIMES} {_interval(found, '{:.2f}'.format)}".rstrip()


def interval_note(found: Ratio) -> str:
    """The interval of a ratio; empty without one."""
    if found.interval is None:
        return ""
    return f"95 % interval {_interval(found, '{:.2f}'.format)}" + ("" if found.is_shown else "; no difference shown")


def _interval(found: Ratio | Difference, form: Callable[[float], str]) -> str:
    return "" if found.interval is None else f"[{form(found.interval[0])}, {form(found.interval[1])}]"


def points(value: float | None) -> str:
    """A difference of accuracies in points."""
    return NOTHING if value is None else f"{100 * value:+.2f}".replace("-", MINUS)


def points_note(found: Difference) -> str:
    """The interval of a difference of accuracies; empty without one."""
    return f"95 % interval {_interval(found, points)}" if found.interval else ""


def difference(found: Difference | None) -> str:
    """A difference of accuracies in points, with its interval."""
    return NOTHING if found is None else f"{points(found.mean)} {_interval(found, points)}".rstrip()


def accuracy(found: Summary) -> str:
    """Mean and standard deviation in %, without the sign."""
    mean = f"{100 * found.mean:.2f}"
    return mean if found.std is None else f"{mean} ± {100 * found.std:.2f}"


def seconds(value: float) -> str:
    """Seconds with three significant figures, whole from 100 on."""
    return whole(value) if value >= 99.95 else f"{value:#.3g}"


def bytes_in(value: float) -> str:
    """Bytes with three significant figures, in the unit that leaves 1 to 1,023 of them: `"64 MiB"`."""
    units = ("bytes", "KiB", "MiB", "GiB")
    power = min(len(units) - 1, int(math.log2(max(value, 1)) // 10))
    return f"{value / 2 ** (10 * power):.4g} {units[power]}"


def all_reduce(communication: Json) -> str:
    """Sentences about the all-reduces in a `probe.json`."""
    gradients, latency = communication["gradients"], communication["latency_seconds"]["median"]
    per_byte, buckets = communication["seconds_per_byte"]["median"], len(gradients["buckets"])
    rate = f" and moves {bytes_in(1 / per_byte)} per second" if per_byte > 1e-15 else ""
    return (
        f"An all-reduce over {communication['world_size']} processes ({communication['backend']}) takes "
        f"{seconds(latency)} s to begin with{rate}, by least squares over sizes. That of the gradients, "
        f"{bytes_in(gradients['bytes'])} in {buckets} {plural('bucket', buckets)}, takes "
        f"{seconds(gradients['seconds']['median'])} s."
    )


def tuned(found: Tuning) -> list[str]:
    """Sentences about what `--tune` chose, and why it did not choose the rest."""
    taken = [each.name for each in found.tried if each.taken]
    if taken:
        first = f"--tune takes {listed(taken)}, each measured on top of those before it."
    else:
        first = "--tune takes nothing: no switch is shown to pay, and settings stay as they are."
    why = [f"{each.name}: {each.reason}." for each in found.tried]
    left = [f"{name}, not measured: {reason}." for name, reason in found.left.items()]
    return [first, *why, *left, f"Measured in {seconds(found.seconds)} s. An option that is given stays as it is."]


def valued(found: Ratio, form: Callable[[float], str]) -> str:
    """A median with its interval, where it has one that shows."""
    middle, *ends = (None if value is None else form(value) for value in (found.median, found.low, found.high))
    return f"{middle}" if ends[0] is None or ends == [middle, middle] else f"{middle} [{', '.join(map(str, ends))}]"


def paying(workers: Json) -> str:
    """Up to how many workers are worth it at the batch sizes of a `plan.json`, in a sentence."""
    sizes = workers["sizes"]
    shown = sizes if len(sizes) < 4 else [sizes[0], sizes[len(sizes) // 2], sizes[-1]]
    none = [size for size in shown if size["pays_up_to"]["median"] == 1 == (size["pays_up_to"]["high"] or 1)]
    parts = [
        f"up to {valued(Ratio.of_json(size['pays_up_to']), whole)} at a batch of {whole(size['batch_size'])}"
        for size in shown
        if size not in none
    ]
    name, narrow = workers["link"]["name"], workers.get("compress")
    over = "Over the probe's link" if name == "probe" else f"Over {name}"
    with_ = f" with gradients in {narrow}" if narrow else ""
    times_as_fast = f"{workers['pays']:g} times as fast"
    clauses = [f"twice the workers make an update at least {times_as_fast} {listed(parts)}"] if parts else []
    if none:
        at = listed([whole(size["batch_size"]) for size in none])
        clauses.append(f"two workers make an update less than {times_as_fast} as one at a batch of {at}")
    return f"{over}{with_}, {'; '.join(clauses)}."


def whole(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{round(value):,}"


def sizes(found: Sequence[int], form: Callable[[float], str] = whole) -> str:
    """Batch sizes in the order in which they came; of more than three the first and last."""
    return f"{form(found[0])} to {form(found[-1])}" if len(found) > 3 else ", ".join(form(size) for size in found)


def typed(text: str) -> str:
    """The text in characters that every keyboard has, for terminals and files."""
    return text.translate({ord(MINUS): "-", ord(TIMES): "x", ord(NOTHING): "-"})


def plural(word: str, count: float) -> str:
    """The word, with an s unless `count` is 1."""
    return word if count == 1 else f"{word}s"


def runs(count: int) -> str:
    """A number of runs: `"1 run"`, `"3 runs"`."""
    return f"{whole(count)} {plural('run', count)}"


def html(text: str) -> str:
    """Text as HTML that does not wrap before a percent sign or in an interval."""
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


def beside(compare: Comparison, found: Against) -> str:
    """Clauses that must follow a verdict: the worst seed, skewed seeds; empty for one seed."""
    if len(compare.seeds) == 1:
        return ""
    worst, skewed = found.accuracy_difference_by_seed.worst, found.accuracy_difference_by_seed.skewed
    return ("" if worst is None else f"; worst seed {points(worst)}") + (f"; {SKEWED}" if skewed else "")


def reading(compare: Comparison, end: str = "") -> str:
    """Sentences that explain the figures of several seeds; `end` ends the one about ratios."""
    told = "fixed-small's median, in the other arms divided by the ratio," if compare.against_fixed_small else "median"
    text = f"Accuracy: mean ± standard deviation over seeds. Seconds: {told} [smallest, largest]."
    if not compare.against_fixed_small and not compare.against_fixed_large:
        return text
    return f"{text} Ratios and differences are paired by seed, with 95 % intervals{end}."


def scope(compare: Comparison) -> str:
    """Sentences on the data that "within the margin" is claimed for, and on its limits; empty if it is not claimed."""
    against, n = list(compare.against_fixed_small.values()), len(compare.seeds)
    if not against or n == 1:
        return ""
    text = f"{within_words(compare).capitalize()}: in absolute points, over {n} seeds, on one fixed test set."
    unseen = against[0].accuracy_difference_by_seed.unseen_failures
    if unseen is not None:
        text += (
            f" {n} seeds cannot show rare failures: where none of {n} runs fails, up to {100 * unseen:.0f} % may "
            "(at 95 %)."
        )
    if samples_tested(compare):
        text += (
            " The interval over test samples is for the networks trained here: how far another test set would move "
            "the difference."
        )
    return text


def samples_tested(compare: Comparison) -> int | None:
    """The number of test samples in intervals over test samples; None if the runs did not keep their answers."""
    kept = [found.accuracy_difference_over_samples for found in compare.against_fixed_small.values()]
    return next((found.samples for found in kept if found), None)
