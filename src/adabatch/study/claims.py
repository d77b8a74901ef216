"""What a comparison on the demo's settings must show, as checks of a finished `compare.json`.

The figures are those that the project promises; seconds are not among them, since they belong to the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

FEWER_UPDATES: Final = 2.4
WORSE: Final = 0.015

_TOP: Final = ("task", "model", "device", "versions", "arms", "against_fixed_small")
_ARM: Final = {
    "name": (),
    "batch_sizes": (),
    "updates": (),
    "samples": (),
    "test_accuracy": ("mean", "std", "n", "values"),
    "train_seconds": ("median", "min", "max", "values"),
    "samples_per_second": (),
    "updates_to_target": (),
    "seconds_to_target": (),
}
_AGAINST: Final = {
    "updates_ratio": (),
    "seconds_ratio": ("median", "low", "high"),
    "seconds_to_target_ratio": ("median", "low", "high"),
    "accuracy_difference": ("mean", "low", "high"),
}


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim and how it came out.

    Attributes:
        text: what is claimed.
        found: the figures found, in words.
        holds: whether they show it.
    """

    text: str
    found: str
    holds: bool

    def __str__(self) -> str:
        return f"{'passed' if self.holds else 'FAILED'}: {self.text}; found {self.found}"


def check(compare: Mapping[str, Any]) -> list[Claim]:
    """Every claim about a comparison of the arms fixed-small, fixed-large, adaptive and uncoupled.

    Args:
        compare: the content of a `compare.json`; a claim about an arm that it does not hold fails.

    Returns:
        One record per claim, held or not. Accuracies are fractions, differences the arm minus fixed-small.
    """
    against, margin = compare["against_fixed_small"], compare.get("margin", 0.01)
    adaptive = against.get("adaptive")
    fewer = adaptive["updates_ratio"] if adaptive else None
    low = adaptive["accuracy_difference"]["low"] if adaptive else None
    reached = "no interval" if low is None else f"a lower bound of {100 * low:+.2f} points"
    within = adaptive.get("within_margin", {}) if adaptive else {}
    shown = within.get("verdict", "shown") == "shown"
    found = [
        Claim(
            f"adaptive takes {FEWER_UPDATES:g} times fewer updates",
            "no such arm" if fewer is None else f"{fewer:.2f}",
            fewer is not None and fewer >= FEWER_UPDATES,
        ),
        Claim(
            f"adaptive is within {100 * margin:g} % of fixed-small's accuracy by the interval",
            reached if shown else within["words"],
            low is not None and low > -margin and shown,
        ),
    ]
    for name in ("fixed-large", "uncoupled"):
        behind = against[name]["accuracy_difference"]["mean"] if name in against else None
        found.append(
            Claim(
                f"{name} is at least {100 * WORSE:g} points worse than fixed-small",
                "no such arm" if behind is None else f"{100 * behind:+.2f} points",
                behind is not None and behind <= -WORSE,
            )
        )
    return found


def claims(compare: Mapping[str, Any]) -> list[Claim]:
    """The claims of `check` that failed; empty when the comparison shows all of them.

    Args:
        compare: the content of a `compare.json`.

    Returns:
        The failed claims.
    """
    return [claim for claim in check(compare) if not claim.holds]


def missing_keys(compare: Mapping[str, Any]) -> list[str]:
    """Keys that every `compare.json` has but this one lacks, as paths such as `arms.adaptive.updates`.

    Args:
        compare: the content of a `compare.json`.

    Returns:
        The paths; empty when nothing is missing.
    """
    missing = [key for key in _TOP if key not in compare]
    for arm in compare.get("arms", ()):
        missing += _absent(f"arms.{arm.get('name', '?')}", arm, _ARM)
    names = {arm.get("name") for arm in compare.get("arms", ())}
    against = compare.get("against_fixed_small", {})
    for name in sorted(str(name) for name in names - {"fixed-small", None}):
        missing += _absent(f"against_fixed_small.{name}", against.get(name, {}), _AGAINST)
    return missing


def _absent(path: str, record: Mapping[str, Any], wanted: Mapping[str, tuple[str, ...]]) -> list[str]:
    missing = []
    for key, inner in wanted.items():
        if key not in record:
            missing.append(f"{path}.{key}")
        else:
            missing += [f"{path}.{key}.{name}" for name in inner if name not in record[key]]
    return missing
