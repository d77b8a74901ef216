"""What a comparison says first: the title of its page, of its picture and of its table, and the command's last line.

A gain is said only of an arm whose accuracy is shown to lie within the margin and of which, as of fixed-small, no run
diverged: what is faster and wrong is no gain. It is said of

- `adaptive`, where it is compared with fixed-small: that is what the comparison is made for;
- else of the arm that is fastest among those whose accuracy is shown to lie within the margin, if it is shown to be
  faster than fixed-small or takes fewer updates; where no speed is shown, of the one that takes the fewest updates;
- else of none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from adabatch.lab.report import caution
from adabatch.lab.report import page_words as words
from adabatch.lab.report.page_data import Json
from adabatch.lab.report.page_words import Headline

BASE: Final = "fixed-small"


def of_comparison(compare: Json) -> Headline:
    """What a comparison shows, in a title and a few more words from its figures.

    Args:
        compare: the content of a `compare.json`.
    """
    if not compare["against_fixed_small"]:
        return _without_baseline(compare)
    name = hero(compare)
    if name is None:
        return _of_none(compare)
    if lost := diverged(compare, (name, BASE)):
        margin = f"within {100 * compare['margin']:g} %"
        others = diverged(compare, (arm for arm in compare["against_fixed_small"] if arm != name))
        lead = f"A loss was not finite, and accuracy {margin} is not shown.{f' {others}.' if others else ''}"
        return Headline(f"{lost}: no gain is shown.", lead, "bad")
    sign, who, base = standing(compare, name), _who(compare, name), _base(compare)
    titles = {
        "good": f"{who} {_gain(compare['against_fixed_small'][name], base)}.",
        "open": f"{who} is not shown to be as accurate as {base}.",
        "bad": f"{who} is less accurate than {base}.",
    }
    return Headline(titles[sign], _lead(compare, name), sign)


def plain(compare: Json) -> tuple[str, str]:
    """Title and lead for terminals and files, in signs that every keyboard has.

    Args:
        compare: the content of a `compare.json`.
    """
    found = of_comparison(compare)
    title, lead = (text.replace(words.MINUS, "-").replace(words.TIMES, "x") for text in (found.title, found.lead))
    return title, lead


def hero(compare: Json) -> str | None:
    """The arm that the headline is about, by the rule above; None: none.

    Args:
        compare: the content of a `compare.json`.
    """
    against = compare["against_fixed_small"]
    if "adaptive" in against:
        return "adaptive"
    gains = {name: _gains(found) for name, found in against.items() if standing(compare, name) == "good"}
    gains = {name: gain for name, gain in gains.items() if max(gain) > 1}
    return max(gains, key=lambda name: gains[name], default=None)


def standing(compare: Json, name: str) -> str:
    """How an arm came out against fixed-small.

    Args:
        compare: the content of a `compare.json`.
        name: of the arm.

    Returns:
        `"good"`: its accuracy is shown to lie within the margin. `"bad"`: that is refuted, or a run of the two
        diverged. `"open"`: neither.
    """
    if diverged(compare, (name, BASE)):
        return "bad"
    verdict = str(compare["against_fixed_small"][name].get("within_margin", {}).get("verdict"))
    return {"shown": "good", "worse": "bad"}.get(verdict, "open")


def diverged(compare: Json, names: Iterable[str]) -> str:
    """Which arms diverged, as `"adaptive diverged in 2 of 3 runs"`; empty where none did.

    Args:
        compare: the content of a `compare.json`.
        names: the arms that are told of.
    """
    arms = {arm["name"]: arm for arm in compare["arms"]}
    return " and ".join(
        f"{name} diverged in {arms[name]['diverged']} of {words.runs(arms[name]['test_accuracy']['n'])}"
        for name in names
        if arms[name].get("diverged")
    )


def arm_sentence(compare: Json, name: str) -> str:
    """What one arm did against fixed-small, in one line; its accuracy first where it is not shown to be kept.

    Args:
        compare: the content of a `compare.json`.
        name: of the arm.
    """
    found = compare["against_fixed_small"][name]
    accuracy = f"accuracy {words.difference(found['accuracy_difference'])} points: {_verdict(compare, found)}"
    if diverged(compare, (name, BASE)):
        return f"{name}: {accuracy}; updates and time tell nothing."
    gains = f"{words.updates_words(found['updates_ratio'])}, {words.time_words(found['seconds_ratio'])}"
    return f"{name}: {gains}; {accuracy}." if standing(compare, name) == "good" else f"{name}: {accuracy}; {gains}."


def _verdict(compare: Json, found: Json) -> str:
    return words.verdict_words(compare, found) + caution.beside(compare, found).replace("-", words.MINUS)


def _gains(found: Json) -> tuple[float, float]:
    """How much faster, 1 where nothing is shown, and how many times fewer updates."""
    ratio: Mapping[str, float | None] = found["seconds_ratio"]
    return (ratio["median"] or 1.0) if words.is_shown(ratio) else 1.0, found["updates_ratio"]


def _gain(found: Json, base: str) -> str:
    updates, time = words.updates_words(found["updates_ratio"]), words.time_words(found["seconds_ratio"])
    shown = words.is_shown(found["seconds_ratio"])
    if updates == words.AS_MANY:
        return f"takes {updates} as {base}{' and is' if shown else ';'} {time}"
    return f"takes {updates} and is {time} than {base}" if shown else f"takes {updates} than {base}; {time}"


def _lead(compare: Json, name: str) -> str:
    """What the title must not be read without."""
    against = compare["against_fixed_small"]
    found, others = against[name], [other for other in against if other != name]
    differs = "falls:" if standing(compare, name) == "bad" else "differs by"
    points = words.difference(found["accuracy_difference"])
    sentences = [f"Test accuracy {differs} {points} points: {_verdict(compare, found)}."]
    if name != "adaptive" and others:
        first = "is the fastest" if _gains(found)[0] > 1 else "takes the fewest updates"
        sentences.insert(0, f"Of {len(against)} arms it {first} of those shown to keep the accuracy.")
    if lost := diverged(compare, others):
        sentences.append(f"{lost}.")
    return " ".join(sentences)


def _of_none(compare: Json) -> Headline:
    """Where no arm is shown to gain: which one comes closest in accuracy, and which ones diverged."""
    against, lost = compare["against_fixed_small"], diverged(compare, (arm["name"] for arm in compare["arms"]))
    left = [name for name in against if not diverged(compare, (name, BASE))]
    if not left:
        return Headline(f"{lost}: no gain is shown.", "A loss was not finite.", "bad")
    base, best = _base(compare), max(left, key=lambda name: against[name]["accuracy_difference"]["mean"])
    kept = any(standing(compare, name) == "good" for name in left)
    aim = f"be faster than {base} or to take fewer updates" if kept else f"be as accurate as {base}"
    points = words.difference(against[best]["accuracy_difference"])
    lead = f"{best} comes closest in accuracy, by {points} points: {_verdict(compare, against[best])}."
    sign = "bad" if all(standing(compare, name) == "bad" for name in against) else "open"
    return Headline(f"No arm is shown to {aim}.", f"{lead} {lost}." if lost else lead, sign)


def _without_baseline(compare: Json) -> Headline:
    arms, lost = compare["arms"], diverged(compare, (arm["name"] for arm in compare["arms"]))
    sentences = []
    if whole := [arm for arm in arms if not arm.get("diverged")]:
        best = max(whole, key=lambda arm: float(arm["test_accuracy"]["mean"]))
        accuracy = words.accuracy(best["test_accuracy"])
        what = "reaches the highest test accuracy" if len(whole) > 1 else "reaches a test accuracy of"
        sentences.append(f"{best['name']} {what}{':' if len(whole) > 1 else ''} {accuracy} %.")
    if lost:
        sentences.append(f"{lost}: a loss was not finite.")
    title = f"{len(arms)} {words.plural('arm', len(arms))} on {compare['task']}."
    return Headline(title, " ".join(sentences), "bad" if lost else "")


def _who(compare: Json, name: str) -> str:
    """An arm by its name and its batch, as `"adaptive, a batch growing from 16 to 256,"`."""
    sizes = _sizes(compare, name)
    first, last = sizes[0], sizes[-1]
    if len(sizes) == 1:
        return f"{name}, a fixed batch of {words.whole(first)},"
    change = "growing" if last > first else "going"
    return f"{name}, a batch {change} from {words.whole(first)} to {words.whole(last)},"


def _base(compare: Json) -> str:
    return f"a fixed batch of {' then '.join(words.whole(size) for size in _sizes(compare, BASE))}"


def _sizes(compare: Json, name: str) -> list[int]:
    return next(list(arm["batch_sizes"]) for arm in compare["arms"] if arm["name"] == name)
