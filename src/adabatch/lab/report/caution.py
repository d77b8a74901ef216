"""What stands beside a claim about accuracy: what it is over, its worst seed, and what so few seeds cannot show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

SKEWED: Final = "the differences are skewed, so the interval may miss more often than 5 %"


def by_seed(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the seeds tell besides mean and interval; empty in files of before.

    Args:
        found: an arm against a baseline, of a `compare.json`.
    """
    told: Mapping[str, Any] = found.get("accuracy_difference_by_seed", {})
    return told


def worst_words(found: Mapping[str, Any]) -> str:
    """The worst seed's difference of accuracies; empty where the file does not hold it.

    Args:
        found: an arm against a baseline, of a `compare.json`.
    """
    worst = by_seed(found).get("worst")
    return "" if worst is None else f"worst seed {100 * worst:+.2f}"


def beside(compare: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What an arm's claim must not be read without: its worst seed, and whether differences are skewed.

    Args:
        compare: the content of a `compare.json`.
        found: an arm against a baseline, of it.

    Returns:
        Clauses that follow a verdict; empty for one seed, which shows nothing.
    """
    if len(compare["seeds"]) == 1:
        return ""
    clauses = [worst_words(found), SKEWED if by_seed(found).get("skewed") else ""]
    return "".join(f"; {clause}" for clause in clauses if clause)


def seconds_words(compare: Mapping[str, Any]) -> str:
    """Which statistic the seconds are, in a sentence.

    Args:
        compare: the content of a `compare.json`.
    """
    if not compare["against_fixed_small"]:
        return "Seconds: median [smallest, largest]."
    return "Seconds: fixed-small's median, in the other arms divided by the ratio, [smallest, largest]."


def compared(compare: Mapping[str, Any]) -> bool:
    """Whether arms are compared with a baseline.

    Args:
        compare: the content of a `compare.json`.
    """
    return bool(compare["against_fixed_small"] or compare.get("against_fixed_large"))


def scope(compare: Mapping[str, Any]) -> str:
    """What "within the margin" is over, and what it leaves open, in sentences; empty where nothing is compared.

    Args:
        compare: the content of a `compare.json`.
    """
    against, n = list(compare["against_fixed_small"].values()), len(compare["seeds"])
    if not against or n == 1:
        return ""
    text = f"Within {100 * compare['margin']:g} %: in absolute points, over {n} seeds, on one fixed test set."
    unseen = by_seed(against[0]).get("unseen_failures")
    if unseen is not None:
        text += (
            f" {n} seeds cannot show rare failures: where none of {n} runs fails, up to {100 * unseen:.0f} % may "
            "(at 95 %)."
        )
    if over_samples(compare):
        text += (
            " The interval over test samples is for the networks trained here: how far another test set would move "
            "the difference."
        )
    return text


def over_samples(compare: Mapping[str, Any]) -> int | None:
    """How many test samples the intervals over them are of; None where the runs did not keep which ones were right.

    Args:
        compare: the content of a `compare.json`.
    """
    kept = [found.get("accuracy_difference_over_samples") for found in compare["against_fixed_small"].values()]
    return next((found["samples"] for found in kept if found), None)
