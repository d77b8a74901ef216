"""Verdicts on the claims of `inefficiency.py`, each with the intervals on which it rests, from finished studies.

A verdict is "holds", "does not hold" or "cannot tell"; PARTS there says by which rule. All quantities are compared on
logarithms.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, Final, NamedTuple, Self

from adabatch.lab.report.scaling.words import believed
from adabatch.lab.scaling import Arrival, Estimate, Fit, Rule, Study, ToLoss
from adabatch.lab.study.fits import fits
from adabatch.lab.study.profile import SAVES

HOLDS, NOT, UNKNOWN = "holds", "does not hold", "cannot tell"
LINEAR, SUB_LINEAR, FLAT, UNTOLD = "linear", "sub-linear", "not at all", "not told"
MORE: Final = 0.1  # samples that a doubled batch may cost more where updates fall linearly
STEEP: Final = 1 - math.log2(1 + MORE)  # the slope at that border
STAGNANT: Final = -math.log2(1 - SAVES)  # the slope at which a doubled batch saves so little that it stagnates
NEARLY: Final = 1 - math.log2(1.25)  # where a doubled batch costs 25 % more samples
SCARCELY: Final = -math.log2(0.8)  # where it saves 20 % of the updates
_FAR: Final = 600.0  # a logarithm, from which on a number counts as infinite


class Log(NamedTuple):
    """A logarithm with its 95 % interval; bounds may be infinite, and the middle is not a number if it is not known."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, value: Estimate) -> Self:
        """The logarithm of an estimate."""
        low, high = value.interval
        middle = math.log(value.estimate) if value.estimate else math.nan
        return cls(middle, math.log(low) if low else -math.inf, math.log(high) if high else -math.inf)

    def to_json(self) -> dict[str, Any]:
        """The quantity itself; what is infinite or not known is missing."""
        return Estimate.of(*(math.exp(value) if value < _FAR else math.nan for value in self)).to_json()


NEVER: Final = Log(math.inf, math.inf, math.inf)  # the updates of a training that diverged
ANY: Final = Log(math.nan, -math.inf, math.inf)


def contrast(*terms: tuple[float, Log]) -> Log:
    """A weighted sum of independent logarithms, with its interval.

    Distances from the middle to the ends are added as roots of sums of squares. Where a middle is not known, or
    infinite, the ends themselves are added.

    Args:
        terms: weights and logarithms.

    Source: Zou and Donner 2008, Statistics in Medicine 27, 1693 (MOVER).
    """
    middle = sum(weight * value.middle for weight, value in terms)
    lows = [weight * (value.low if weight > 0 else value.high) for weight, value in terms]
    highs = [weight * (value.high if weight > 0 else value.low) for weight, value in terms]
    if not math.isfinite(middle):
        low, high = sum(lows), sum(highs)
        return Log(middle, -math.inf if math.isnan(low) else low, math.inf if math.isnan(high) else high)
    middles = [weight * value.middle for weight, value in terms]
    down = math.hypot(*(one - low for one, low in zip(middles, lows, strict=True)))
    up = math.hypot(*(high - one for one, high in zip(middles, highs, strict=True)))
    return Log(middle, middle - down, middle + up)


def ratio(top: Log, bottom: Log) -> Log:
    """The logarithm of a ratio."""
    return contrast((1.0, top), (-1.0, bottom))


def mean(values: Sequence[Log]) -> Log:
    """The mean of logarithms."""
    return contrast(*((1 / len(values), value) for value in values))


def side(value: Log, above: str, below: str) -> str:
    """The side of 1 on which the whole interval of a ratio lies, in the words given."""
    return above if value.low > 0 else below if value.high < 0 else UNTOLD


def all_of(verdicts: Sequence[str]) -> str:
    """The verdict on a claim of several parts."""
    return NOT if NOT in verdicts else UNKNOWN if UNKNOWN in verdicts else HOLDS


# Quantities of a study.


def rule_of(study: Study, *, model: str | None = None, rule: str = "tuned") -> Rule:
    """A network's batch sizes under an LR rule; None takes the first network."""
    panel = next(panel for panel in study.panels if model in (None, panel.model))
    return next(each for each in panel.rules if each.rule == rule)


def updates_of(rule: Rule, loss: str) -> dict[int, Log]:
    """The updates to target of each batch size; infinite where a run diverged and not every one arrived."""
    rows = {row.batch_size: row for row in getattr(rule, loss).to_target}
    found: dict[int, Log] = {}
    for cell in rule.cells:
        row = rows.get(cell.batch_size)
        if "diverged" in cell.stopped and (row is None or row.arrived < row.n):
            found[cell.batch_size] = NEVER
        elif row is not None:
            found[cell.batch_size] = Log.of(row.updates)
    return found


def fitted(way: ToLoss) -> Fit | None:
    """The fit that borders are taken from: form 2 where the data need its exponent, else form 1; None without one.

    Where it misfits by more than seeds differ, as where the search for an LR ended beside the best one, the intervals
    from seeds are too narrow. Then it is the fit to one mean for each batch size, with intervals from what it leaves.
    """
    if way.fits is None:
        return None
    form = believed(way.fits)
    if form.lack_of_fit is None or form.lack_of_fit.p >= 1 - way.fits.confidence:
        return form
    rows = [row for row in way.to_target if len({run.censored for run in row.runs} - {""}) < 2]  # one kind of bound
    return believed(fits({row.batch_size: [middle(row.runs)] for row in rows})) if len(rows) > 1 else form


def middle(runs: Sequence[Arrival]) -> Arrival:
    """The geometric mean of runs; a bound if one of them is."""
    bound = next((run.censored for run in runs if run.censored), "")
    return Arrival(statistics.geometric_mean([run.updates for run in runs]), censored=bound)


def critical(rule: Rule, loss: str) -> Log:
    """The critical batch size."""
    form = fitted(getattr(rule, loss))
    return ANY if form is None else Log.of(form.critical_batch)


# a: three regimes.


def three_regimes(studies: Mapping[str, Study], loss: str) -> dict[str, Any]:
    """The regimes under each LR rule of the one study; the verdict is that of the tuned LR."""
    (study,) = studies.values()
    rules = {rule.rule: regimes(rule, loss) for rule in study.panels[0].rules}
    return {"verdict": rules["tuned"]["verdict"], "rules": rules}


def regimes(rule: Rule, loss: str) -> dict[str, Any]:
    """The slopes between neighbouring batch sizes with their regimes, the borders by the fit, and the verdict."""
    rows: list[dict[str, Any]] = []
    for (small, before), (large, after) in pairwise(sorted(updates_of(rule, loss).items())):
        unit = 1 / math.log(large / small)
        slope = contrast((unit, before), (-unit, after))
        values = {name: value if math.isfinite(value) else None for name, value in slope._asdict().items()}
        rows.append({"from": small, "to": large, "slope": values, "regime": regime(slope)})
    borders: dict[str, Any] = {}
    if (form := fitted(getattr(rule, loss))) is not None:
        names = ("batch_at_20_percent_more_samples", "critical_batch", "stagnation_batch")
        borders = {"form": form.form, "std_from": form.std_from}
        borders |= {name: getattr(form, name).to_json() for name in names}
    return {"verdict": order([row["regime"] for row in rows]), "slopes": rows, "borders": borders}


def regime(slope: Log) -> str:
    """The regime between two batch sizes, by the fall of log updates for each unit of log batch size."""
    if slope.low > NEARLY and slope.high >= STEEP:
        return LINEAR
    if slope.low > STAGNANT and slope.high < STEEP:
        return SUB_LINEAR
    return FLAT if slope.low <= STAGNANT and slope.high < SCARCELY else UNTOLD


def order(told: Sequence[str]) -> str:
    """The verdict on regimes from the smallest batch sizes to the largest."""
    if LINEAR not in told or FLAT not in told:
        return UNKNOWN
    last_linear = max(place for place, one in enumerate(told) if one == LINEAR)
    if last_linear > told.index(FLAT):
        return NOT
    return HOLDS if SUB_LINEAR in told else UNKNOWN


# b: LR rules.


def lr_rules(studies: Mapping[str, Study], loss: str) -> dict[str, Any]:
    """The batch sizes at which scaled LRs need fewer and more updates than a constant one, in the one study."""
    (study,) = studies.values()
    constant = updates_of(rule_of(study, rule="constant"), loss)
    found: dict[str, Any] = {}
    for name in ("linear", "sqrt"):
        mine = updates_of(rule_of(study, rule=name), loss)
        sizes = sorted(constant.keys() & mine.keys())[1:]  # at the smallest both are the same trainings
        ratios = {size: ratio(constant[size], mine[size]) for size in sizes}
        told = [side(value, "fewer", "more") for value in ratios.values()]
        found[name] = {
            "verdict": up_to_a_size(told),
            "fewer_updates_at": [size for size, word in zip(sizes, told, strict=True) if word == "fewer"],
            "more_updates_at": [size for size, word in zip(sizes, told, strict=True) if word == "more"],
            "updates_of_constant_over_these": {str(size): value.to_json() for size, value in ratios.items()},
        }
    return {"verdict": all_of([one["verdict"] for one in found.values()]), **found}


def up_to_a_size(told: Sequence[str]) -> str:
    """The verdict on a rule that should need fewer updates up to some batch size and more beyond."""
    known = [word for word in told if word != UNTOLD]
    if "fewer" not in known:
        return NOT if known else UNKNOWN
    if known[-1] == "more":
        return HOLDS
    return NOT if told[-1] == "fewer" else UNKNOWN


# c: the network or the size of the data set.


def network_against_size(studies: Mapping[str, Study], loss: str) -> dict[str, Any]:
    """The largest ratio of critical batch sizes over networks, and over shares of the data, a study each."""
    models = [panel.model for panel in next(iter(studies.values())).panels]
    found = {
        model: {share: critical(rule_of(study, model=model), loss) for share, study in studies.items()}
        for model in models
    }
    networks = largest_ratio([mean(list(of.values())) for of in found.values()])
    shares = largest_ratio([mean([of[share] for of in found.values()]) for share in studies])
    return {
        "verdict": HOLDS if networks.low > shares.high else NOT if networks.high < shares.low else UNKNOWN,
        "largest_ratio_over_networks": networks.to_json(),
        "largest_ratio_over_shares": shares.to_json(),
        "critical_batch": {model: as_json(of) for model, of in found.items()},
    }


def largest_ratio(values: Sequence[Log]) -> Log:
    """The largest ratio of any two; not known if one of them is not."""
    if not all(math.isfinite(value.middle) for value in values):
        return ANY
    ordered = sorted(values, key=lambda value: value.middle)
    return ratio(ordered[-1], ordered[0])


# d, e: what kind of data.


def difficulty(studies: Mapping[str, Study], loss: str) -> dict[str, Any]:
    """The critical batch sizes of data sets, the easiest first, and the ratios of easier to harder ones."""
    found = {name: critical(rule_of(study), loss) for name, study in studies.items()}
    ratios = {f"{easy} over {hard}": ratio(found[easy], found[hard]) for easy, hard in combinations(found, 2)}
    sides = {name: side(value, "larger", "smaller") for name, value in ratios.items()}
    first, *_, last = found
    verdict = HOLDS if sides[f"{first} over {last}"] == "larger" else UNKNOWN
    verdict = NOT if "smaller" in sides.values() else verdict
    return {"verdict": verdict, "critical_batch": as_json(found), "ratios": as_json(ratios)}


def kinds(studies: Mapping[str, Study], loss: str, *, images: Sequence[str]) -> dict[str, Any]:
    """The critical batch size of each task that is no image classification, and the ratios of those that are to it.

    Args:
        studies: of all tasks.
        loss: `"train"` or `"test"`.
        images: names of the studies of image classification.
    """
    found = {name: critical(rule_of(study), loss) for name, study in studies.items()}
    result: dict[str, Any] = {}
    for kind in (name for name in studies if name not in images):
        ratios = {f"{image} over {kind}": ratio(found[image], found[kind]) for image in images}
        sides = {side(value, "larger", "smaller") for value in ratios.values()}
        verdict = NOT if "smaller" in sides else HOLDS if sides == {"larger"} else UNKNOWN
        result[kind] = {"verdict": verdict, "critical_batch": found[kind].to_json(), "ratios": as_json(ratios)}
    return {"verdict": all_of([one["verdict"] for one in result.values()]), **result}


def as_json(values: Mapping[str, Log]) -> dict[str, Any]:
    """Quantities by name, for a result."""
    return {name: value.to_json() for name, value in values.items()}
