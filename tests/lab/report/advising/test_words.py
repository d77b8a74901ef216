from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.lab.advices import advice, growing, no_gain, outcome

from adabatch.lab.report.advising.words import coverage, ratio, regret, sentences, share, verdict
from adabatch.lab.scaling import Estimate


def test_the_verdict():
    assert verdict(advice()) == "Growth pays here: 1.6× [1.3, 1.9] as fast as the best constant batch, with 80 %."
    for found in (advice(verdict="no evidence"), no_gain()):
        assert verdict(found) == "No evidence that growth pays here."


def test_what_it_rests_on():
    said = list(sentences(advice()))
    assert said[0] == (
        "digits, mlp: the schedule 'early' (32 to 512, early) against batch size 128, to the same test loss: "
        "1.6× [1.3, 1.9] as fast with 80 %. Of three other seeds the mean is expected within [1.2, 2.1] with 80 %, "
        "[0.9, 2.8] with 95 %."
    )
    assert said[1] == "Critical batch size: 300 [200, 500]."
    assert said[2] == "Trainings of 5 of 20 epochs with 2 seeds; the best LR at the base batch size is 0.05."
    assert len(said) == 3
    few = list(sentences(advice(samples=400)))[2]
    assert few.startswith("Trainings of 5 of 20 epochs on 400 of 1,437 training samples with 2 seeds; ")
    edge = list(sentences(advice(lr_at_edge=True, epochs=20)))[2]
    assert edge.startswith("Trainings of 20 epochs, a whole training, with 2 seeds; ")
    assert edge.endswith("0.05, the last that was tried on that side: a better one may lie beyond it.")
    assert "So the best is batch size 128, constant." in sentences(advice(verdict="no evidence"))


def test_no_gain_in_speed():
    (said,) = sentences(no_gain())
    assert said == (
        "digits, mlp: a batch four times as large trains only 1.03 times the samples per second, so there is no time "
        "to win."
    )


@pytest.mark.parametrize(
    ("within", "words"),
    [
        ((True, True), "The forecast's intervals of 80 % and 95 % hold it."),
        ((False, True), "The forecast's intervals of 95 % hold it."),
        ((False, False), "No interval of the forecast holds it."),
    ],
)
def test_the_outcome(within, words):
    seen = outcome(within_80=within[0], within_95=within[1])
    last = list(sentences(advice(outcome=seen)))[-1]
    assert last == f"Outcome, 3 other seeds over 20 epochs: 1.5× [1.3, 1.8] as fast. {words}"


def test_ratios():
    assert ratio(Estimate(1.6, 1.2, None)) == "1.6× [1.2, no end]"
    assert ratio(Estimate(None, 2.0, None)) == "over 2×"
    assert ratio(Estimate()) == "not known"


def test_regret_is_that_of_what_was_advised():
    assert regret(advice()) is None
    assert regret(advice(outcome=outcome())) == pytest.approx(1 / 1.4)
    assert regret(advice(verdict="no evidence", outcome=outcome())) == pytest.approx(1 / 0.93)
    assert regret(advice(verdict="no evidence", outcome=outcome(fixed_against_best=None))) is None
    further = outcome(against_best=Estimate(None, 0.6, None), best_low=2.0, best_high=None)
    assert regret(advice(outcome=further)) == 0.5  # by what was measured, not by the end of the interval
    behind = outcome(against_best=Estimate(None, 0.0, 0.9), best_low=0.0, best_high=0.2)
    assert regret(advice(outcome=behind)) == 5
    diverged = outcome(against_best=Estimate(), best_low=0.0, best_high=None)
    assert regret(advice(outcome=diverged)) is None


@given(of=st.integers(1, 60), held=st.integers(0, 60))
def test_shares_have_exact_intervals(of, held):
    held = min(held, of)
    found = share([True] * held + [False] * (of - held))
    wanted = stats.binomtest(held, of).proportion_ci(method="exact")
    assert (found.held, found.of) == (held, of)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


def test_the_coverage_of_several():
    assert list(coverage([advice(), no_gain()])) == []
    slow = outcome(within_80=False, against_best=Estimate(0.7, 0.6, 0.8))
    said = list(
        coverage([advice(outcome=outcome()), advice(outcome=slow), advice(verdict="no evidence", outcome=slow)])
    )
    assert said[0].startswith("Of 3 forecasts with an outcome the 80 % interval held 1 of 3 [")
    assert ", the 95 % interval 3 of 3 [" in said[0]
    assert said[1].startswith(
        "Where growth was advised, it was slower than the best constant batch for certain in 1 of 2"
    )


def test_a_schedule_that_got_further_than_any_is_told_by_its_bound():
    far = growing("early", (None, 1.8, None), (None, 1.5, None))
    found = replace(advice(), growing=(far,))
    assert verdict(found) == "Growth pays here: over 1.8× as fast as the best constant batch, with 80 %."
