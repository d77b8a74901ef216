"""A study in words: estimates, borders, doubts, and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from adabatch.lab.report.scaling.lines import LOSSES, Line, lines, network, to
from adabatch.lab.report.scaling.machine import Machine, fast_from
from adabatch.lab.report.words import TIMES, listed, plural
from adabatch.lab.scaling import Cell, Estimate, Fit, Fits, Panel, Rule, Study, ToLoss, ToTarget

UNKNOWN: Final = "not known"
_STOPS: Final = {
    "budget": "at the end of the budget",
    "arrived": "at the target",
    "out of reach": "out of reach of the target",
    "diverged": "diverged",
    "out of memory": "out of memory",
    "lost": "lost by its worker",
}


def number(value: float) -> str:
    """A number with three significant figures, whole from 100 on."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def size(value: float) -> str:
    """A batch size: whole from 10 on."""
    return f"{value:,.0f}" if value >= 9.5 else number(value)


def told(value: Estimate) -> str:
    """An estimate with its interval; of one that data do not give, its bounds."""
    low, high = value.low, value.high
    if value.estimate is None:
        if high is None:
            return f"over {number(low)}" if low > 0 else UNKNOWN
        if low == high:
            return number(low)
        return f"{number(low)} to {number(high)}" if low > 0 else f"under {number(high)}"
    middle = number(value.estimate)
    if low == high == value.estimate or (low == 0 and high is None):
        return middle
    return f"{middle} [{number(low)}, {'no end' if high is None else number(high)}]"


def believed(fits: Fits) -> Fit:
    """The form to believe: 2 if the data need its free exponent, else 1."""
    needed = fits.exponent_needed
    return fits.form_2 if needed is not None and needed.p < 1 - fits.confidence else fits.form_1


def form_words(fits: Fits) -> str:
    """Which form is believed, and why, in a sentence."""
    needed = fits.exponent_needed
    if needed is None:
        return "Form 1 is used: whether a free exponent is needed cannot be told from these runs."
    if believed(fits).form == 2:
        exponent = told(fits.form_2.exponent)
        return f"Form 2 is used: its exponent, {exponent}, is needed ({_p(needed.p)})."
    return f"Form 1 is used: a free exponent fits no better ({_p(needed.p)})."


def misfit_words(fit: Fit) -> str:
    """A sentence if the form misfits by more than repeats differ; else empty."""
    if fit.lack_of_fit is None or fit.lack_of_fit.p >= 0.05:
        return ""
    return (
        f"It misfits by more than the runs of a batch size differ ({_p(fit.lack_of_fit.p)}), so its intervals are too "
        "narrow."
    )


def border(value: Estimate, found: ToLoss) -> str:
    """A border with its interval; one below the batch sizes that were measured is told as that."""
    first = min((row.batch_size for row in found.to_target), default=0)
    return f"under {first:,}" if value.estimate is not None and value.estimate < first else told(value)


def beyond(value: Estimate, found: ToLoss) -> str:
    """A border in a sentence, which says whether it lies beyond the batch sizes at which all runs arrived."""
    last = max((row.batch_size for row in found.to_target if row.arrived == row.n), default=math.inf)
    return border(value, found) + (", extrapolated" if value.estimate is not None and value.estimate > last else "")


def censored(found: ToLoss) -> str:
    """The batch sizes whose runs did not all arrive, in a sentence; empty if there is none."""
    rows = [row for row in found.to_target if row.arrived < row.n]
    if not rows:
        return ""
    sizes = listed([f"{row.batch_size:,}" for row in rows])
    counts = listed([f"{row.arrived} of {row.n}" for row in rows])
    which = f"At batch {plural('size', len(rows))} {sizes} not every run arrived ({counts})"
    return f"{which}: their means are bounds."


def edges(rule: Rule) -> str:
    """The batch sizes whose search ended at an edge of its grid, in a sentence; empty if there is none."""
    sizes = [f"{cell.batch_size:,}" for cell in rule.cells if cell.at_edge]
    if not sizes:
        return ""
    return (
        f"At batch {plural('size', len(sizes))} {listed(sizes)} the best LR or momentum lay at the edge of its grid: a "
        "better one may lie beyond it."
    )


def stops(cell: Cell) -> str:
    """How the trainings of a batch size ended: `"2 at the target, 1 diverged"`."""
    return ", ".join(f"{count} {_STOPS.get(reason, reason)}" for reason, count in cell.stopped.items())


def line_words(line: Line, loss: str) -> str:
    """The findings of a line for one loss, in sentences."""
    found = line.to(loss)
    head = f"{network(line.panel)}, LR {line.rule.rule}, {LOSSES[loss]}"
    if found.target is None:
        return f"{head}: no target, since no batch size has a finite loss with every seed."
    head += f" {found.target.loss:.4g}"
    if found.fits is None:
        return f"{head}: fewer than two batch sizes have a loss, so there is nothing to fit."
    fit = believed(found.fits)
    if fit.batch_at_20_percent_more_samples.estimate is None:
        parts = [f"{head}: too few batch sizes arrived for borders.", censored(found), edges(line.rule)]
    else:
        parts = [
            f"{head}: perfect scaling ends at batch size {beyond(fit.batch_at_20_percent_more_samples, found)}; "
            f"stagnation begins {_at(beyond(fit.stagnation_batch, found))}; the critical batch size is "
            f"{beyond(fit.critical_batch, found)}.",
            form_words(found.fits),
            misfit_words(fit),
            censored(found),
            edges(line.rule),
        ]
    return " ".join(part for part in parts if part)


def order_words(line: Line, loss: str) -> str:
    """The borders and a machine's limits in the order of batch sizes; empty without a probe or without borders."""
    machine, found = line.machine, line.to(loss)
    if machine is None or found.fits is None:
        return ""
    fit, first = believed(found.fits), min((row.batch_size for row in found.to_target), default=0)
    borders = {
        "the end of perfect scaling": fit.batch_at_20_percent_more_samples.estimate,
        "the critical batch size": fit.critical_batch.estimate,
        "the beginning of stagnation": fit.stagnation_batch.estimate,
    }
    places = [
        (at, f"{name} ({size(at) if at >= first else f'under {first:,}'})")
        for name, at in borders.items()
        if at is not None
    ]
    if not places:
        return ""
    if machine.fast is not None:
        places.append((machine.fast, f"95 % of the highest throughput ({machine.speed})"))
    if machine.full is not None:
        places.append((machine.largest, f"full memory ({machine.memory})"))
    earliest, *later = [text for _, text in sorted(places)]
    head = f"{network(line.panel)}, LR {line.rule.rule}, {LOSSES[loss]}: as batch sizes grow, {earliest} comes first"
    parts = [f"{head}, then {listed(later)}." if later else f"{head}.", _not_found(machine), _elsewhere(line, machine)]
    return " ".join(part for part in parts if part)


def _not_found(machine: Machine) -> str:
    """What a probe did not reach, in a sentence; empty if it reached all."""
    missing = {"throughput still grew": machine.fast, "memory was not full": machine.full}
    texts = [text for text, found in missing.items() if found is None]
    return f"At {machine.largest:,}, the largest batch size probed, {listed(texts)}." if texts else ""


def _elsewhere(line: Line, machine: Machine) -> str:
    """That the probe is of another machine than the study, in a sentence; empty if it is not."""
    versions = line.study.versions
    device = versions.get("device_name") or versions.get("device") or machine.device
    return "" if device == machine.device else f"The probe is of {machine.device}, the study of {device}."


def errors_words(line: Line) -> str:
    """Where the error of the linear approximation passes 1, in a sentence; empty if it is not known."""
    errors = {cell.batch_size: cell.linear_approximation_error.estimate for cell in line.rule.cells}
    known = {batch: error for batch, error in errors.items() if error is not None}
    if not known:
        return ""
    past = [batch for batch, error in known.items() if error > 1]
    where = f"passes 1 at batch size {past[0]:,}" if past else f"does not pass 1 up to batch size {max(known):,}"
    return f"{network(line.panel)}, LR {line.rule.rule}: the error of the linear approximation {where}."


def _at(place: str) -> str:
    return place if place.startswith("under") else f"at {place}"


def sentences(study: Study) -> Iterator[str]:
    """The findings of a study for a terminal: for each network, share of the data and LR rule both losses."""
    for line in lines({"": study}):
        for loss in LOSSES:
            yield line_words(line, loss)
        if told_error := errors_words(line):
            yield told_error
    for panel in study.panels:
        yield from rules_words(panel)
    yield reading(study)


def reading(study: Study) -> str:
    """How to read the figures."""
    seeds = {row.n for panel in study.panels for rule in panel.rules for row in rule.test.to_target}
    means = (
        "Perfect scaling: at most 20 % more samples than the fewest. Stagnation: a doubled batch saves less than 10 % "
        "of the updates. Cost: samples over those of the smallest batch."
    )
    if seeds == {1}:
        return f"{means} One seed gives no interval of a mean; those of fits are from what the fit leaves over."
    return f"{means} Intervals cover 95 %: Student's t on logarithms, variance pooled over batch sizes."


def rules_words(panel: Panel) -> Iterator[str]:
    """Where LR rules differ for certain in the updates that they need to the target test loss."""
    first = {rule.rule: {row.batch_size: row for row in rule.test.to_target} for rule in panel.rules}
    names = list(first)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            shared = sorted(first[one].keys() & first[other].keys())
            for fast, slow in ((one, other), (other, one)):
                sizes = [size for size in shared if _fewer(first[fast][size], first[slow][size])]
                if sizes:
                    told_sizes = listed([f"{size:,}" for size in sizes])
                    yield (
                        f"{network(panel)}: LR {fast} needs fewer updates than LR {slow} at batch "
                        f"{plural('size', len(sizes))} {told_sizes}, where their intervals lie apart."
                    )


def _fewer(one: ToTarget, other: ToTarget) -> bool:
    """Whether the intervals of the updates lie apart; without one nothing is said."""
    high, low = one.updates.high, other.updates.low
    return high is not None and low > high


def best_rule(panel: Panel, loss: str = "test") -> Rule | None:
    """The LR rule under which perfect scaling goes on for longest; None if there is no border."""
    found: list[tuple[float, Rule]] = []
    for rule in panel.rules:
        fits = to(rule, loss).fits
        if fits is None:
            continue
        end = believed(fits).batch_at_20_percent_more_samples
        if end.estimate is not None:
            found.append((end.low or end.estimate, rule))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def advice(panel: Panel, loss: str = "test") -> str:
    """What to do with this network, in sentences."""
    rule, head = best_rule(panel, loss), f"With {network(panel)}"
    if rule is None:
        return f"{head} no batch size can be recommended: too few arrived at the target {LOSSES[loss]}."
    found = to(rule, loss)
    assert found.fits is not None
    fit, sizes = believed(found.fits), [row.batch_size for row in found.to_target]
    end, under = fit.batch_at_20_percent_more_samples, f"under LR {rule.rule}"
    middle = end.estimate or 0.0
    if middle >= max(sizes):
        text = f"{head} take batch size {max(sizes):,} {under}, or try larger ones: up to there updates fall in "
        text += "proportion."
    elif len(sizes) > 1 and middle < sizes[1]:
        text = f"{head} keep batch size {sizes[0]:,}: by the fit already {sizes[1]:,} takes over 20 % more samples."
    else:
        text = f"{head} take batch sizes up to about {size(middle)} {under}: so far updates fall in proportion, at "
        text += "no more than 20 % more samples."
    return " ".join(part for part in (text, _seconds_words(found), _peak_words(rule)) if part)


def _seconds_words(found: ToLoss) -> str:
    """At which batch size the target took the fewest seconds, on the machine of the study."""
    timed = [row for row in found.to_target if row.seconds.estimate is not None]
    if len(timed) < 2:
        return ""
    best = min(timed, key=lambda row: row.seconds.estimate or 0.0)
    first = found.to_target[0].batch_size
    if best.batch_size == first:
        return f"Batch size {first:,} took the fewest seconds here."
    middle, *interval = told(best.seconds_speedup).split(" ", 1)
    fewer = " ".join([f"{middle}{TIMES} fewer than {first:,}", *interval])
    return f"Batch size {best.batch_size:,} took the fewest seconds here, {fewer}."


def peak(cells: Sequence[Cell]) -> int | None:
    """The smallest batch size with 95 % of the highest throughput in training; None if it was not measured."""
    rates = {cell.batch_size: cell.samples_per_second for cell in cells if cell.samples_per_second}
    if len(rates) < 2:
        return None
    return fast_from(rates)


def _peak_words(rule: Rule) -> str:
    found = peak(rule.cells)
    if found is None:
        return ""
    if found == max(cell.batch_size for cell in rule.cells):
        return "Throughput still grew up to the largest batch size."
    return f"Throughput is at 95 % of its highest from batch size {found:,} on."


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value >= 1e-4 else "p < 0.0001"
