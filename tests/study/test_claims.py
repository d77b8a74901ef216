import pytest
from tests.report.checks import comparison

from adabatch.study.claims import check, claims, missing_keys


def test_a_good_comparison_holds_every_claim():
    compare = comparison()
    assert claims(compare) == []
    assert len(check(compare)) == 4
    assert missing_keys(compare) == []


@pytest.mark.parametrize(
    ("arm", "key", "value", "failed"),
    [
        ("adaptive", ("updates_ratio",), 2.39, "adaptive takes 2.4 times fewer updates"),
        ("adaptive", ("accuracy_difference", "low"), -0.01, "adaptive is within 1 %"),
        ("adaptive", ("accuracy_difference", "low"), None, "adaptive is within 1 %"),
    ],
)
def test_each_claim_about_adaptive_can_fail(arm, key, value, failed):
    compare = comparison()
    record = compare["against_fixed_small"][arm]
    for name in key[:-1]:
        record = record[name]
    record[key[-1]] = value
    (claim,) = claims(compare)
    assert claim.text.startswith(failed)
    assert str(claim).startswith("FAILED: adaptive")


def test_a_comparison_of_which_runs_diverged_claims_no_accuracy():
    compare = comparison()
    words = "not shown, 1 of its 3 runs diverged"
    compare["against_fixed_small"]["adaptive"]["within_margin"] = {"verdict": "not shown", "words": words}
    (claim,) = claims(compare)
    assert (claim.text[:22], claim.found) == ("adaptive is within 1 %", words)


@pytest.mark.parametrize("name", ["fixed-large", "uncoupled"])
def test_an_arm_that_is_not_visibly_worse_fails(name):
    compare = comparison()
    compare["against_fixed_small"][name]["accuracy_difference"]["mean"] = -0.0149
    (claim,) = claims(compare)
    assert claim.text == f"{name} is at least 1.5 points worse than fixed-small"
    assert claim.found == "-1.49 points"


def test_claims_about_missing_arms_fail():
    assert [claim.found for claim in claims(comparison(names=("fixed-small", "adaptive")))] == ["no such arm"] * 2
    failed = claims(comparison(names=("fixed-small", "fixed-large")))
    assert [claim.found for claim in failed] == ["no such arm", "no interval", "no such arm"]


def test_missing_keys_are_named_by_path():
    compare = comparison()
    del compare["device"]
    del compare["arms"][2]["train_seconds"]["min"]
    del compare["against_fixed_small"]["adaptive"]["updates_ratio"]
    del compare["against_fixed_small"]["uncoupled"]
    missing = missing_keys(compare)
    assert missing[:3] == ["device", "arms.adaptive.train_seconds.min", "against_fixed_small.adaptive.updates_ratio"]
    assert "against_fixed_small.uncoupled.seconds_ratio" in missing
