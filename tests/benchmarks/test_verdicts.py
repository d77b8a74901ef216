"""Verdicts on the findings of the fourth paper, from studies whose answers are known."""

import importlib
import math
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.benchmarks.findings import SIZES, form, of_critical, of_rules, rule, study, until

from adabatch.lab.scaling import Arrival, Estimate, Panel, Rule, Study, ToLoss

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def verdicts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("verdicts")


# Logarithms.


@given(
    middles=st.tuples(*[st.floats(-9, 9)] * 2),
    down=st.tuples(*[st.floats(0, 3)] * 2),
    up=st.tuples(*[st.floats(0, 3)] * 2),
)
def test_the_interval_of_a_ratio_is_that_of_the_formula_in_print(verdicts, middles, down, up):
    """Zou and Donner's for a difference, of one's lower with the other's upper end."""
    logs = [verdicts.Log(m, m - d, m + u) for m, d, u in zip(middles, down, up, strict=True)]
    found = verdicts.ratio(*logs)
    assert found.middle == pytest.approx(middles[0] - middles[1])
    assert found.low == pytest.approx(found.middle - math.sqrt(down[0] ** 2 + up[1] ** 2))
    assert found.high == pytest.approx(found.middle + math.sqrt(up[0] ** 2 + down[1] ** 2))


def test_a_mean_of_four_has_half_the_width(verdicts):
    found = verdicts.mean([verdicts.Log(value, value - 0.2, value + 0.4) for value in (1.0, 2.0, 3.0, 4.0)])
    assert found == pytest.approx((2.5, 2.4, 2.7))


def test_what_is_not_known_keeps_its_bounds(verdicts):
    """At least 200 updates over 90 to 110, and what nothing is known of."""
    more = verdicts.Log.of(Estimate(None, 200.0, None))
    known = verdicts.Log.of(Estimate(100.0, 90.0, 110.0))
    found = verdicts.ratio(more, known).to_json()
    assert (found["estimate"], found["high"]) == (None, None)
    assert found["low"] == pytest.approx(200 / 110)
    assert verdicts.ratio(known, verdicts.NEVER)[1:] == (-math.inf, -math.inf)
    assert verdicts.ratio(verdicts.NEVER, verdicts.NEVER)[1:] == verdicts.ANY[1:]
    assert verdicts.Log.of(Estimate()).to_json() == {"estimate": None, "low": 0.0, "high": None}
    assert known.to_json() == pytest.approx({"estimate": 100.0, "low": 90.0, "high": 110.0})


def test_all_parts_of_a_claim_must_hold(verdicts):
    holds, never, unknown = verdicts.HOLDS, verdicts.NOT, verdicts.UNKNOWN
    assert verdicts.all_of([holds, holds]) == holds
    assert verdicts.all_of([holds, unknown]) == unknown
    assert verdicts.all_of([unknown, never, holds]) == never


# a.


def test_three_regimes_are_told_where_they_are(verdicts):
    found = verdicts.three_regimes({"rules": of_critical(180)}, "train")
    rows = found["rules"]["tuned"]["slopes"]
    assert [row["regime"] for row in rows] == ["linear"] * 2 + ["sub-linear"] * 5 + ["not at all"]
    assert [(row["from"], row["to"]) for row in rows][:2] == [(8, 16), (16, 32)]
    for row in rows:
        truth = math.log2((1 + 180 / row["from"]) / (1 + 180 / row["to"]))
        assert row["slope"]["middle"] == pytest.approx(truth, abs=0.03)
    assert found["verdict"] == verdicts.HOLDS
    borders = found["rules"]["tuned"]["borders"]
    assert borders["critical_batch"]["estimate"] == pytest.approx(180, rel=0.05)
    assert borders["stagnation_batch"]["estimate"] == pytest.approx(720, rel=0.05)


@pytest.mark.parametrize(("critical", "verdict"), [(1e5, "UNKNOWN"), (1.0, "UNKNOWN")])
def test_regimes_that_were_not_reached_leave_the_claim_open(verdicts, critical, verdict):
    found = verdicts.three_regimes({"rules": of_critical(critical)}, "test")
    assert found["verdict"] == getattr(verdicts, verdict)


def test_updates_that_fall_again_speak_against_three_regimes(verdicts):
    updates = dict.fromkeys(SIZES[:5], 1000.0) | {size: 16000.0 / size for size in SIZES[5:]}
    assert verdicts.three_regimes({"rules": study(rule(updates))}, "train")["verdict"] == verdicts.NOT


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.9, 1.1, "linear"),
        (0.7, 0.87, "linear"),
        (0.55, 0.87, "not told"),
        (0.55, 0.86, "sub-linear"),
        (0.2, 0.8, "sub-linear"),
        (0.15, 0.3, "not at all"),
        (0.15, 0.45, "not told"),
        (-0.3, 0.1, "not at all"),
        (0.45, 0.9, "not told"),
        (0.1, 0.55, "not told"),
        (-1.0, 3.0, "not told"),
    ],
)
def test_a_wide_interval_leaves_a_slope_untold(verdicts, low, high, told):
    assert verdicts.regime(verdicts.Log((low + high) / 2, low, high)) == told


def test_a_size_at_which_runs_diverge_is_a_wall(verdicts):
    """The updates there are infinite: they do not fall, and nothing is said of the step after it."""
    found = verdicts.three_regimes({"rules": study(rule(form(128), diverged=SIZES[-2:]))}, "train")
    last, beyond = found["rules"]["tuned"]["slopes"][-2:]
    assert (last["regime"], beyond["regime"]) == ("not at all", "not told")
    assert last["slope"] == {"middle": None, "low": None, "high": None}


def test_a_misfit_widens_the_interval(verdicts):
    """Batch sizes beside the form by 10 %, seeds by 0.1 %: seeds alone would give far too narrow an interval."""
    updates = {size: k * math.exp(0.1 * math.cos(3 * place)) for place, (size, k) in enumerate(form(180).items())}
    way = rule(updates, noise=0.001).train
    narrow, wide = way.fits.form_1.critical_batch, verdicts.fitted(way)
    assert wide.std_from == "residuals"
    assert wide.critical_batch.low < 180 < wide.critical_batch.high
    assert wide.critical_batch.high / wide.critical_batch.low > 1.2 * narrow.high / narrow.low
    assert verdicts.fitted(rule(form(180)).train).std_from == "repeats"


def test_a_mean_with_a_bound_is_a_bound(verdicts):
    assert verdicts.middle([Arrival(2.0), Arrival(8.0)]) == Arrival(4.0)
    assert verdicts.middle([Arrival(2.0), Arrival(8.0, censored="later")]).censored == "later"


# b.


def test_rules_that_help_up_to_a_size(verdicts):
    found = verdicts.lr_rules({"rules": of_rules(until(128, 1), until(512, 0.5), diverged=(1024, 2048))}, "train")
    assert found["verdict"] == verdicts.HOLDS
    assert found["linear"]["fewer_updates_at"] == [16, 32, 64, 128]
    assert found["linear"]["more_updates_at"] == [256, 512, 1024, 2048]
    assert found["sqrt"]["fewer_updates_at"] == [16, 32, 64, 128, 256, 512]
    assert found["linear"]["updates_of_constant_over_these"]["64"]["estimate"] == pytest.approx(8, rel=0.02)


@pytest.mark.parametrize(
    ("sqrt", "verdict"),
    [
        (until(10_000, 0.5), "NOT"),  # helps to the end
        (lambda times: 0.5, "NOT"),  # helps nowhere
        (lambda times: 1.0, "UNKNOWN"),  # makes no difference that shows
        (lambda times: 2.0 if times < 9 else 1.0, "UNKNOWN"),  # stops helping, and does no harm that shows
    ],
)
def test_rules_that_do_not_help_up_to_a_size(verdicts, sqrt, verdict):
    found = verdicts.lr_rules({"rules": of_rules(until(128, 1), sqrt)}, "train")
    assert (found["linear"]["verdict"], found["sqrt"]["verdict"]) == (verdicts.HOLDS, getattr(verdicts, verdict))
    assert found["verdict"] == getattr(verdicts, verdict)


# c.


def shares(*by_share, **more):
    """Studies of shares of the data, from the critical batch sizes of networks in each."""
    return {
        f"share {number}": study(**{name: [rule(form(critical), **more)] for name, critical in of.items()})
        for number, of in enumerate(by_share)
    }


def test_networks_that_move_the_border_more_than_shares(verdicts):
    studies = shares({"mlp": 30, "cnn": 100, "resnet": 400}, {"mlp": 33, "cnn": 90, "resnet": 390})
    found = verdicts.network_against_size(studies, "train")
    assert found["verdict"] == verdicts.HOLDS
    truth = math.sqrt(400 * 390 / (30 * 33))
    assert found["largest_ratio_over_networks"]["estimate"] == pytest.approx(truth, rel=0.1)
    assert found["critical_batch"]["mlp"]["share 1"]["estimate"] == pytest.approx(33, rel=0.05)


def test_shares_that_move_the_border_more_than_networks(verdicts):
    studies = shares({"mlp": 400, "cnn": 420}, {"mlp": 50, "cnn": 45})
    assert verdicts.network_against_size(studies, "test")["verdict"] == verdicts.NOT


def test_networks_and_shares_that_cannot_be_told(verdicts):
    studies = shares({"mlp": 100, "cnn": 130}, {"mlp": 120, "cnn": 100}, noise=0.15)
    assert verdicts.network_against_size(studies, "train")["verdict"] == verdicts.UNKNOWN


def test_a_critical_batch_that_is_not_known_leaves_the_claim_open(verdicts):
    """Nothing arrived on one share."""
    studies = shares({"mlp": 30, "cnn": 400}, {"mlp": 30, "cnn": 400})
    (panel, *others) = studies["share 1"].panels
    nothing = Rule(rule="tuned", cells=panel.rules[0].cells, train=ToLoss(target=None), test=ToLoss(target=None))
    missing = Panel(model=panel.model, fraction=1.0, samples=8000, rules=(nothing,))
    studies["share 1"] = Study(task="digits", panels=(missing, *others))
    assert verdicts.network_against_size(studies, "train")["verdict"] == verdicts.UNKNOWN


# d and e.


@pytest.mark.parametrize(
    ("critical", "verdict"),
    [((300, 150, 60), "HOLDS"), ((60, 150, 300), "NOT"), ((300, 60, 150), "NOT"), ((100, 100, 100), "UNKNOWN")],
)
def test_easier_data_first(verdicts, critical, verdict):
    studies = {name: of_critical(value) for name, value in zip(("easy", "middle", "hard"), critical, strict=True)}
    found = verdicts.difficulty(studies, "train")
    assert found["verdict"] == getattr(verdicts, verdict)
    assert list(found["ratios"]) == ["easy over middle", "easy over hard", "middle over hard"]
    assert found["ratios"]["easy over hard"]["estimate"] == pytest.approx(critical[0] / critical[2], rel=0.1)


@pytest.mark.parametrize(
    ("text", "pixels", "verdicts_of"),
    [(30, 20, ("HOLDS", "HOLDS")), (30, 200, ("HOLDS", "NOT")), (150, 20, ("UNKNOWN", "HOLDS"))],
)
def test_other_tasks_against_image_classification(verdicts, text, pixels, verdicts_of):
    studies = {"text": of_critical(text), "pixels": of_critical(pixels)}
    studies |= {"one": of_critical(150), "two": of_critical(300)}
    judge = partial(verdicts.kinds, images=("one", "two"))
    found = judge(studies, "test")
    wanted = [getattr(verdicts, one) for one in verdicts_of]
    assert [found[kind]["verdict"] for kind in ("text", "pixels")] == wanted
    assert found["verdict"] == verdicts.all_of(wanted)
    assert list(found["text"]["ratios"]) == ["one over text", "two over text"]
