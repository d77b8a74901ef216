"""Headlines of pages, pictures, tables and the command's last line; a sentence for each arm.

A gain is claimed only for an arm whose accuracy is shown to lie within the margin, and only if no run of it or of
fixed-small diverged: to be faster and wrong is no gain. The headline is about

- `adaptive`, if it is compared with fixed-small: the comparison is made for it;
- else the fastest of the arms shown to lie within the margin, if it is shown to be faster than fixed-small or takes
  fewer updates; if no speed is shown, the one with the fewest updates;
- else no arm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from adabatch.lab.comparison import SMALL, Against, Comparison
from adabatch.lab.report import words
from adabatch.lab.report.folders import SavedRun
from adabatch.lab.shapes import Json

ENOUGH_SEEDS: Final = 6  # with fewer, an interval by Student's t is wide for any runs


@dataclass(frozen=True, slots=True)
class Headline:
    """The first words of a page.

    Attributes:
        title: a sentence, in plain text.
        lead: more sentences, in plain text.
        sign: the outcome: `"good"`, `"open"` or `"bad"`; empty if nothing is claimed.
    """

    title: str
    lead: str
    sign: str = ""


def of_comparison(compare: Comparison) -> Headline:
    """The headline of a comparison."""
    if not compare.against_fixed_small:
        return _without_baseline(compare)
    name = hero(compare)
    if name is None:
        return _of_none(compare)
    if lost := diverged(compare, (name, SMALL)):
        others = diverged(compare, (arm for arm in compare.against_fixed_small if arm != name))
        lead = f"A loss was not finite, and accuracy {words.within_words(compare)} is not shown."
        lead += f" {others}." if others else ""
        return Headline(f"{lost}: no gain is shown.", lead, "bad")
    sign, who, base = standing(compare, name), _who(compare, name), _base(compare)
    titles = {
        "good": f"{who} {_gain(compare.against_fixed_small[name], base)}.",
        "open": f"{who} is not shown to be as accurate as {base}.",
        "bad": f"{who} is less accurate than {base}.",
    }
    return Headline(titles[sign], _lead(compare, name), sign)


def of_run(run: SavedRun) -> Headline:
    """The findings of a run so far."""
    last = run.history[-1]
    place = f"{100 * last['test_accuracy']:.1f} % test accuracy on {run.config['task']}"
    when = f"after {_updates(last)} in {words.seconds(last['seconds'])} s"
    state, lead, sign = [] if run.result else ["not finished"], _batch_words(run), ""
    if (lost := words.diverged_at(run)) is not None:
        state, sign = [*state, "diverged"], "bad"
        lead = f"The loss was not finite {_updates(lost)} after the start. {lead}"
    elif run.result and run.result.get("at_chance"):
        state, sign, chance = ["no better than chance"], "bad", run.result.get("chance")
        told = "" if chance is None else f"Always answering the most frequent class gets {100 * chance:.1f} %. "
        lead = f"{told}{lead}"
    lead += _noise_words(run)
    if run.result is None:
        lead = f"Epoch {last.get('epoch', '?')} of {run.config['epochs']}. {lead}"
    head = f"{', '.join(state).capitalize()}: " if state else ""
    return Headline(f"{head}{place} {when}.", lead, sign)


def _updates(found: Json) -> str:
    return f"{words.whole(found['updates'])} {words.plural('update', found['updates'])}"


def _batch_words(run: SavedRun) -> str:
    sizes = [size for _, size, _ in run.staircase() if size]
    if len(sizes) == 1:
        why = run.history[-1].get("decided")
        return f"The batch stayed at {words.whole(sizes[0])} samples{f': {why}' if why else ''}."
    told = f"The batch went {_change(sizes[0], sizes[-1], len(sizes) - 1, ' samples')}"
    rates = {int(size): rate for size, rate in (run.result or {}).get("samples_per_second", {}).items()}
    first, last = rates.get(sizes[0]), rates.get(sizes[-1])
    if first and last:
        told += f", and throughput from {words.whole(first)} to {words.whole(last)} samples per second"
    return f"{told}."


def _noise_words(run: SavedRun) -> str:
    """A sentence about the noise at the end; empty where none was measured for a policy."""
    last, source = run.history[-1], (run.result or {}).get("noise_from")
    if not (interval := words.noise_interval(last)):
        return ""
    scale = words.noise_scale(last)
    told = "is not told from infinite" if scale == words.NOTHING else f"is {scale} samples"
    return f" The noise scale at the end {told}, 95 %: {interval}{f', from {source}' if source else ''}."


def _change(first: int, last: int, steps: int, unit: str = "") -> str:
    return f"from {words.whole(first)} to {words.whole(last)}{unit} in {steps} {words.plural('step', steps)}"


def of_together(runs: Mapping[str, SavedRun]) -> Headline:
    """Which of several runs is the most accurate, which diverged and which go on."""
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


def of_plan(values: Json) -> Headline:
    """How many updates a `plan.json` saves, and how its batch grows."""
    before, after, sizes = values["updates_before"], values["updates_after"], values["sizes"]
    if before == after:
        title = f"{words.whole(before)} updates, as many as with a constant batch."
    else:
        title = f"{words.whole(before)} updates become {words.whole(after)}: {words.updates_words(before / after)}."
    steps = sum(one != other for one, other in pairwise(sizes))
    lead = f"The batch stays at {words.whole(sizes[0])}."
    if steps:
        epochs = f"{words.whole(values['epochs'])} {words.plural('epoch', values['epochs'])}"
        lead = f"The batch goes {_change(sizes[0], sizes[-1], steps)} over {epochs}."
    if values.get("coupling"):
        lead += f" Coupling: {values['coupling']}."
    return Headline(title, f"{lead} A forecast: it knows updates exactly, and of accuracy nothing.")


def plain(compare: Comparison) -> tuple[str, str]:
    """Title and lead for terminals and files, in characters that every keyboard has."""
    found = of_comparison(compare)
    return words.typed(found.title), words.typed(found.lead)


def hero(compare: Comparison) -> str | None:
    """The arm that the headline is about, by the rule above; None for no arm."""
    against = compare.against_fixed_small
    if "adaptive" in against:
        return "adaptive"
    gains = {name: _gains(found) for name, found in against.items() if standing(compare, name) == "good"}
    gains = {name: gain for name, gain in gains.items() if max(gain) > 1}
    return max(gains, key=lambda name: gains[name], default=None)


def standing(compare: Comparison, name: str) -> str:
    """The outcome of an arm against fixed-small.

    `"good"`: its accuracy is shown to lie within the margin; `"bad"`: that is refuted, or a run of either diverged;
    `"open"`: neither.
    """
    if diverged(compare, (name, SMALL)):
        return "bad"
    verdict = compare.against_fixed_small[name].within_margin.verdict
    return {"shown": "good", "worse": "bad"}.get(verdict, "open")


def diverged(compare: Comparison, names: Iterable[str]) -> str:
    """Which arms diverged, as `"adaptive diverged in 2 of 3 runs"`; empty if none did."""
    lost = [arm for name in names if (arm := compare.arm(name)).diverged]
    return " and ".join(f"{arm.name} diverged in {arm.diverged} of {words.runs(arm.test_accuracy.n)}" for arm in lost)


def arm_sentence(compare: Comparison, name: str) -> str:
    """A sentence on an arm against fixed-small for pages; accuracy first if it is not shown to be kept."""
    found = compare.against_fixed_small[name]
    accuracy = f"accuracy {words.difference(found.accuracy_difference)} points: {_verdict(compare, name)}"
    gains = f"{words.updates_words(found.updates_ratio)}, {words.time_words(found.seconds_ratio)}"
    return f"{name}: {_in_order(compare, name, gains, accuracy)}."


def sentences(compare: Comparison) -> list[str]:
    """A sentence per arm with every figure, and the limits of the comparison; for terminals and compare.md."""
    made = []
    for name, found in compare.against_fixed_small.items():
        fewer = found.updates_ratio
        updates = f"{fewer:.2f}x fewer updates" if fewer > 1 else f"{1 / fewer:.2f}x more updates"
        updates = words.AS_MANY if f"{fewer:.2f}" == "1.00" else updates
        beside = words.typed(words.beside(compare, found))
        accuracy = f"accuracy {words.within_words(compare)}: {found.within_margin.words}{beside}"
        gains = f"{updates}, {words.speed_words(found.seconds_ratio)}"
        made.append(f"{name} against {SMALL}: {_in_order(compare, name, gains, accuracy)}.")
    made += _target_sentences(compare)
    made += [f"{diverged(compare, [arm.name])}: a loss was not finite." for arm in compare.arms if arm.diverged]
    for arm in compare.arms:
        if arm.at_chance:
            made.append(
                f"{arm.name} ended no better than chance in {arm.at_chance} of {words.runs(arm.test_accuracy.n)}."
            )
    reading = words.reading(compare) if len(compare.seeds) > 1 else ""
    return [*made, *(text for text in (words.scope(compare), reading) if text)]


def _in_order(compare: Comparison, name: str, gains: str, accuracy: str) -> str:
    """Gains before an accuracy that is shown to be kept, else accuracy before gains."""
    if diverged(compare, (name, SMALL)):
        return f"{accuracy}; updates and time tell nothing"
    return f"{gains}; {accuracy}" if standing(compare, name) == "good" else f"{accuracy}; {gains}"


def _target_sentences(compare: Comparison) -> list[str]:
    if compare.target is None:
        return []
    target = f"{100 * compare.target:g} %"
    counts = {arm.name: (arm.to_target.reached, arm.to_target.n) for arm in compare.arms if arm.to_target}
    if not any(reached for reached, _ in counts.values()):
        return [f"Target {target}: never reached by any arm."]
    short = [f"{name} in {reached} of {n} runs" for name, (reached, n) in counts.items() if reached < n]
    if not short:
        return [f"Target {target}: reached in every run."]
    return [f"Target {target}: reached by {', '.join(short)}; by the other arms in every run."]


def _verdict(compare: Comparison, name: str) -> str:
    return words.verdict_words(compare, name) + words.beside(compare, compare.against_fixed_small[name])


def _gains(found: Against) -> tuple[float, float]:
    """How many times faster, 1 if no difference is shown, and how many times fewer updates."""
    ratio = found.seconds_ratio
    return (ratio.median or 1.0) if ratio.is_shown else 1.0, found.updates_ratio


def _gain(found: Against, base: str) -> str:
    updates, time = words.updates_words(found.updates_ratio), words.time_words(found.seconds_ratio)
    shown = found.seconds_ratio.is_shown
    if updates == words.AS_MANY:
        return f"takes {updates} as {base}{' and is' if shown else ';'} {time}"
    return f"takes {updates} and is {time} than {base}" if shown else f"takes {updates} than {base}; {time}"


def _lead(compare: Comparison, name: str) -> str:
    """The sentences that must go with the title: accuracy, diverged arms, too few seeds."""
    against = compare.against_fixed_small
    found, others = against[name], [other for other in against if other != name]
    differs = "falls:" if standing(compare, name) == "bad" else "differs by"
    points = words.difference(found.accuracy_difference)
    sentences = [f"Test accuracy {differs} {points} points: {_verdict(compare, name)}."]
    if name != "adaptive" and others:
        first = "is the fastest" if _gains(found)[0] > 1 else "takes the fewest updates"
        sentences.insert(0, f"Of {len(against)} arms it {first} of those shown to keep the accuracy.")
    if lost := diverged(compare, others):
        sentences.append(f"{lost}.")
    mean, low = found.accuracy_difference.mean, found.accuracy_difference.low
    if low is not None and low < -compare.margin <= mean and len(compare.seeds) < ENOUGH_SEEDS:
        sentences.append(f"{len(compare.seeds)} seeds give a wide interval; take {ENOUGH_SEEDS} or more.")
    return " ".join(sentences)


def _of_none(compare: Comparison) -> Headline:
    """The headline if no arm is shown to gain: the closest arm in accuracy, and the arms that diverged."""
    against, lost = compare.against_fixed_small, diverged(compare, (arm.name for arm in compare.arms))
    left = [name for name in against if not diverged(compare, (name, SMALL))]
    if not left:
        return Headline(f"{lost}: no gain is shown.", "A loss was not finite.", "bad")
    base, best = _base(compare), max(left, key=lambda name: against[name].accuracy_difference.mean)
    kept = any(standing(compare, name) == "good" for name in left)
    aim = f"be faster than {base} or to take fewer updates" if kept else f"be as accurate as {base}"
    points = words.difference(against[best].accuracy_difference)
    lead = f"{best} comes closest in accuracy, by {points} points: {_verdict(compare, best)}."
    sign = "bad" if all(standing(compare, name) == "bad" for name in against) else "open"
    return Headline(f"No arm is shown to {aim}.", f"{lead} {lost}." if lost else lead, sign)


def _without_baseline(compare: Comparison) -> Headline:
    arms, lost = compare.arms, diverged(compare, (arm.name for arm in compare.arms))
    sentences = []
    if whole := [arm for arm in arms if not arm.diverged]:
        best = max(whole, key=lambda arm: arm.test_accuracy.mean)
        what = "reaches the highest test accuracy:" if len(whole) > 1 else "reaches a test accuracy of"
        sentences.append(f"{best.name} {what} {words.accuracy(best.test_accuracy)} %.")
    if lost:
        sentences.append(f"{lost}: a loss was not finite.")
    title = f"{len(arms)} {words.plural('arm', len(arms))} on {compare.task}."
    return Headline(title, " ".join(sentences), "bad" if lost else "")


def _who(compare: Comparison, name: str) -> str:
    """An arm's name and batch, as `"adaptive, a batch growing from 16 to 256,"`."""
    sizes = compare.arm(name).batch_sizes
    first, last = sizes[0], sizes[-1]
    if len(sizes) == 1:
        return f"{name}, a fixed batch of {words.whole(first)},"
    change = "growing" if last > first else "going"
    return f"{name}, a batch {change} from {words.whole(first)} to {words.whole(last)},"


def _base(compare: Comparison) -> str:
    return f"a fixed batch of {' then '.join(words.whole(size) for size in compare.arm(SMALL).batch_sizes)}"
