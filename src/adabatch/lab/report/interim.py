"""A comparison before its end: what its finished runs found so far, and which runs are missing. It claims nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Final

COLUMNS: Final = ("runs", "test accuracy, %", "updates", "training seconds", "diverged")
NOTHING: Final = "-"


@dataclass(frozen=True, slots=True)
class Done:
    """A finished run.

    Attributes:
        accuracy: on the test set at the end, a fraction.
        updates: optimizer updates.
        seconds: of training.
        diverged: whether a loss was not finite.
    """

    accuracy: float
    updates: int
    seconds: float
    diverged: bool


@dataclass(frozen=True, slots=True)
class Interim:
    """A comparison under way.

    Attributes:
        facts: what is compared, in words.
        arms: the names of the arms.
        seeds: the seeds.
        done: the finished runs by arm and seed.
    """

    facts: str
    arms: Sequence[str]
    seeds: Sequence[int]
    done: Mapping[tuple[str, int], Done]

    @property
    def title(self) -> str:
        """How far it is."""
        count = sum((arm, seed) in self.done for arm in self.arms for seed in self.seeds)
        whole = len(self.arms) * len(self.seeds)
        return f"Unfinished: {count} of {whole} {'run is' if whole == 1 else 'runs are'} done"

    @property
    def missing(self) -> str:
        """Which runs are not finished, as `"adaptive: seeds 1, 4 to 9; uncoupled: seed 9"`; empty where none is."""
        left = {arm: [seed for seed in self.seeds if (arm, seed) not in self.done] for arm in self.arms}
        return "; ".join(f"{arm}: {_counted(seeds)}" for arm, seeds in left.items() if seeds)

    def sentences(self) -> list[str]:
        """What stands below the table."""
        return [
            f"Missing: {self.missing}." if self.missing else "All runs are done; the outcome is not written yet.",
            "Nothing is claimed before all runs are done: the arms may differ by the seeds that they have so far. "
            "The same adabatch compare command goes on.",
        ]

    def rows(self) -> list[tuple[str, list[str]]]:
        """For each arm the cells of `COLUMNS`."""
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
    """Whole numbers with what follows each other taken together: `"seeds 1, 4 to 9"`."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    texts = [f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(str(seed) for seed in part) for part in parts]
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(texts)}"
