from dataclasses import replace
from typing import Any

import pytest
from tests.lab.report.page_studies import probe, rule_of, study

from adabatch.lab.report.scaling.lines import lines
from adabatch.lab.report.scaling.machine import Machine
from adabatch.lab.report.scaling.words import (
    advice,
    believed,
    best_rule,
    beyond,
    border,
    censored,
    edges,
    errors_words,
    form_words,
    line_words,
    misfit_words,
    order_words,
    peak,
    reading,
    rules_words,
    sentences,
    size,
    stops,
    told,
)
from adabatch.lab.scaling import Estimate, FTest, ToLoss


@pytest.fixture(scope="module")
def panel():
    return study(rules=("linear", "constant")).panels[0]


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (Estimate(353.2, 346.7, 359.1), "353 [347, 359]"),
        (Estimate(1352.0, 1061.0, None), "1,352 [1,061, no end]"),
        (Estimate(1.0, 1.0, 1.0), "1"),
        (Estimate(40.97, 0.0, None), "41"),
        (Estimate(None, 349.1, None), "over 349"),
        (Estimate(None, 0.0, 1.02), "under 1.02"),
        (Estimate(None, 19.2, 24.6), "19.2 to 24.6"),
        (Estimate(None, 1.0, 1.0), "1"),
        (Estimate(None, 0.0, None), "not known"),
    ],
)
def test_an_estimate_in_words(estimate, words):
    assert told(estimate) == words


def test_batch_sizes_are_whole():
    assert [size(value) for value in (3.14159, 80.9, 1234.5)] == ["3.14", "81", "1,234"]


def with_p(fits, p):
    return replace(fits, exponent_needed=None if p is None else FTest(1.0, (1, 10), p))


def test_which_form_is_believed(panel):
    fits = panel.rules[0].test.fits
    assert believed(with_p(fits, 0.3)).form == 1
    assert believed(with_p(fits, 0.049)).form == 2
    assert believed(with_p(fits, None)).form == 1
    assert form_words(with_p(fits, 0.3)) == "Form 1 is used: a free exponent fits no better (p = 0.3)."
    assert form_words(with_p(fits, 1e-7)).startswith("Form 2 is used: its exponent, ")
    assert form_words(with_p(fits, 1e-7)).endswith(", is needed (p < 0.0001).")
    assert "cannot be told from these runs" in form_words(with_p(fits, None))


def test_a_misfit_is_told(panel):
    fit = panel.rules[0].test.fits.form_1
    assert misfit_words(replace(fit, lack_of_fit=None)) == ""
    assert misfit_words(replace(fit, lack_of_fit=FTest(1.0, (3, 10), 0.4))) == ""
    told_words = misfit_words(replace(fit, lack_of_fit=FTest(30.0, (3, 10), 0.002)))
    assert told_words.startswith("It misfits by more than the runs of a batch size differ (p = 0.002)")


def test_borders_outside_of_what_was_measured(panel):
    found = panel.rules[0].test
    assert border(Estimate(80.0, 70.0, 90.0), found) == beyond(Estimate(80.0, 70.0, 90.0), found) == "80 [70, 90]"
    assert border(Estimate(1.0, 0.0, 5.8), found) == "under 16"
    assert beyond(Estimate(1300.0, 1000.0, None), found) == "1,300 [1,000, no end], extrapolated"


def test_runs_that_did_not_arrive_are_told_with_their_batch_sizes(panel):
    linear, constant = panel.rules
    assert censored(linear.test) == ""
    assert censored(constant.test) == (
        "At batch sizes 64, 128 and 256 not every run arrived (0 of 3, 0 of 3 and 0 of 3): their means are bounds."
    )


def test_edges_of_a_search_are_told():
    assert edges(rule_of("tuned", critical=300, seeds=2)) == ""
    assert edges(rule_of("tuned", critical=300, seeds=2, edge=True)).startswith(
        "At batch size 256 the best LR or momentum lay at the edge of its grid"
    )


def test_how_trainings_ended(panel):
    cell = replace(panel.rules[0].cells[0], stopped={"arrived": 2, "diverged": 1})
    assert stops(cell) == "2 at the target, 1 diverged"


def test_a_line_in_words(panel):
    linear, constant = lines({"": study(rules=("linear", "constant"))})
    text = line_words(linear, "test")
    end = told(believed(linear.rule.test.fits).batch_at_20_percent_more_samples)
    assert text.startswith(
        f"mlp, LR linear, test loss 0.14: perfect scaling ends at batch size {end}; stagnation begins"
    )
    assert "Form 1 is used" in text
    assert "not every run arrived" in line_words(constant, "train")
    assert "; stagnation begins at " in text or "; stagnation begins under 16;" in text
    none = replace(linear, rule=replace(linear.rule, test=ToLoss(target=None)))
    assert line_words(none, "test").endswith("no target, since no batch size has a finite loss with every seed.")
    unfitted = replace(linear, rule=replace(linear.rule, test=replace(linear.rule.test, fits=None)))
    assert line_words(unfitted, "test").endswith("fewer than two batch sizes have a loss, so there is nothing to fit.")


def test_where_rules_differ(panel):
    (text,) = rules_words(panel)
    assert text == (
        "mlp: LR linear needs fewer updates than LR constant at batch sizes 16, 32, 64, 128 and 256, where their "
        "intervals lie apart."
    )
    same = replace(panel, rules=(panel.rules[0], replace(panel.rules[0], rule="sqrt")))
    assert list(rules_words(same)) == []


def test_the_advice_is_the_rule_that_scales_for_longest(panel):
    assert best_rule(panel).rule == "linear"
    text = advice(panel)
    end = believed(panel.rules[0].test.fits).batch_at_20_percent_more_samples.estimate
    assert text.startswith(
        f"With mlp take batch sizes up to about {size(end)} under LR linear: so far updates fall in "
    )
    assert "Batch size 256 took the fewest seconds here, " in text
    assert text.endswith("Throughput still grew up to the largest batch size.")


def test_the_advice_where_scaling_never_or_at_once_ends(panel):
    far = study(critical=100_000, rules=("linear",)).panels[0]
    assert "take batch size 256 under LR linear, or try larger ones" in advice(far)
    near = study(critical=10, rules=("linear",), budget=1e9).panels[0]
    assert "keep batch size 16: by the fit already 32 takes over 20 % more samples." in advice(near)
    rule = replace(panel.rules[0], test=ToLoss(target=None))
    assert "no batch size can be recommended" in advice(replace(panel, rules=(rule,)))


def test_the_throughput_that_is_enough(panel):
    cells = panel.rules[0].cells
    assert peak(cells) == 256
    flat = [replace(cell, samples_per_second=1000.0 if cell.batch_size >= 64 else 500.0) for cell in cells]
    assert peak(flat) == 64
    assert peak([replace(cell, samples_per_second=None) for cell in cells]) is None


def test_one_seed_says_that_it_gives_no_interval():
    assert reading(study(seeds=1)).endswith("those of fits are from what the fit leaves over.")
    assert "Student's t on logarithms" in reading(study())


def test_all_sentences_of_a_study():
    found = list(sentences(study()))
    assert len(found) == 2 * (2 + 1) + 1 + 1
    assert found[0].startswith("mlp, LR linear, test loss")
    assert found[1].startswith("mlp, LR linear, training loss")
    assert found[2] == "mlp, LR linear: the error of the linear approximation passes 1 at batch size 128."


def test_where_the_linear_approximation_ends():
    (line,) = lines({"": study(rules=("linear",))})
    cells = line.rule.cells
    small = [replace(cell, linear_approximation_error=Estimate(0.4)) for cell in cells]
    said = errors_words(replace(line, rule=replace(line.rule, cells=tuple(small))))
    assert said.endswith("LR linear: the error of the linear approximation does not pass 1 up to batch size 256.")
    unknown = [replace(cell, linear_approximation_error=Estimate()) for cell in cells]
    assert errors_words(replace(line, rule=replace(line.rule, cells=tuple(unknown)))) == ""


def bordered(scaling, critical, stagnation, **changes):
    """A line with these borders beside a probe."""
    machine = Machine.of(probe(**changes))
    (line,) = lines({"": study(rules=("linear",))}, {("digits", "mlp"): machine})
    fits: Any = line.rule.test.fits
    ends = dict(zip(("batch_at_20_percent_more_samples", "critical_batch", "stagnation_batch"),
                    (scaling, critical, stagnation), strict=True))  # fmt: skip
    fit = replace(fits.form_1, **{name: Estimate(end) for name, end in ends.items()})
    test = replace(line.rule.test, fits=replace(fits, form_1=fit, exponent_needed=None))
    return replace(line, rule=replace(line.rule, test=test))


HEAD = "mlp, LR linear, test loss: as batch sizes grow, "


def test_which_comes_first():
    assert order_words(bordered(80.0, 300.0, 1200.0), "test") == (
        f"{HEAD}95 % of the highest throughput (64) comes first, then the end of perfect scaling (80), full memory "
        "(128 to 256), the critical batch size (300) and the beginning of stagnation (1,200)."
    )
    assert order_words(bordered(300.0, 400.0, 1200.0, rates={16: 400.0, 32: 700.0}, full=64), "test").startswith(
        f"{HEAD}95 % of the highest throughput (32) comes first, then full memory (32 to 64), the end of"
    )
    assert order_words(bordered(4.0, 300.0, 1200.0), "test").startswith(
        f"{HEAD}the end of perfect scaling (under 16) comes first, then 95 % of the highest throughput (64)"
    )


def test_limits_that_a_probe_did_not_reach():
    said = order_words(bordered(80.0, 300.0, None, rates={16: 400.0, 32: 700.0}, full=None), "test")
    assert said == (
        f"{HEAD}the end of perfect scaling (80) comes first, then the critical batch size (300). At 32, the largest "
        "batch size probed, throughput still grew and memory was not full."
    )


def test_a_probe_of_another_machine_says_so():
    said = order_words(bordered(80.0, 300.0, 1200.0, device="Fast GPU"), "test")
    assert said.endswith("The probe is of Fast GPU, the study of Some(R) Processor.")


def test_no_order_without_a_probe_or_borders():
    (line,) = lines({"": study(rules=("linear",))})
    assert order_words(line, "test") == ""
    assert order_words(bordered(None, None, None), "test") == ""
