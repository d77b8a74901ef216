"""The records of a comparison, the times beside its ratios, and its words."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.lab.report.checks import comparison, made
from tests.lab.report.page_folders import RATIO, write_busy_comparison

from adabatch.lab.comparison import Comparison, Difference, lost_words, unjudged

ROOT = Path(__file__).parents[2]


@pytest.fixture
def compare(tmp_path):
    return write_busy_comparison(tmp_path)


def test_the_medians_alone_would_say_another_ratio(compare):
    small, adaptive = (arm["train_seconds"]["median"] for arm in compare["arms"])
    assert small / adaptive == pytest.approx(1.57, abs=0.01)
    told = [made(compare).seconds(arm) for arm in made(compare).arms]
    assert told == [1118, pytest.approx(888)]
    assert told[0] / told[1] == pytest.approx(RATIO)


def test_time_to_the_target_too(compare):
    found = made(compare)
    small, adaptive = found.arms
    ratio = found.against_fixed_small["adaptive"].seconds_to_target_ratio.median
    assert small.seconds_to_target / found.seconds_to_target(adaptive) == pytest.approx(ratio)
    assert found.seconds_to_target(small) == small.seconds_to_target
    compare["against_fixed_small"]["adaptive"]["seconds_to_target_ratio"]["median"] = None
    assert made(compare).seconds_to_target(adaptive) == adaptive.seconds_to_target


def test_without_fixed_small_the_time_is_the_median(compare):
    alone = compare | {"arms": compare["arms"][1:], "against_fixed_small": {}}
    assert made(alone).seconds(made(alone).arms[0]) == 712


def test_what_is_read_is_what_was_written():
    compare = comparison() | {"format": 1, "settings": {"adaptive": {"lr": 0.1}}}
    found = made(compare)
    again = found.to_json()
    assert made(again) == found
    for name in ("task", "model", "device", "seeds", "target", "margin", "settings"):
        assert again[name] == compare[name]
    for arm, same in zip(again["arms"], compare["arms"], strict=True):
        assert {name: arm[name] for name in same} == same
    assert list(again) == ["format", "task", "model", "device", "versions", "seeds", "target", "margin", "settings",
                           "arms", "against_fixed_small", "against_fixed_large"]  # fmt: skip


def test_the_kept_demo_is_read_and_written_as_it_is():
    demo = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text())
    assert list(Comparison.faults(demo)) == []
    assert json.dumps(made(demo).to_json()) == json.dumps(demo)


def test_a_whole_comparison_has_no_faults_and_others_are_named():
    assert list(Comparison.faults(comparison())) == []
    (fault,) = Comparison.faults(comparison() | {"margin": None})
    assert fault == "with margin None, which must be a number from 0 on"
    assert "without the arm 'fixed-small'" in Comparison.faults(comparison() | {"arms": comparison()["arms"][1:]})
    assert "without a value for each seed of fixed-small" in Comparison.faults(comparison() | {"seeds": [0, 1]})


def test_why_an_interval_shows_nothing():
    assert unjudged(Difference(0.0, -0.1, 0.1)) == ""
    assert unjudged(Difference(0.0, None, None)) == "one seed gives no interval"
    assert unjudged(Difference(0.0, 0.0, 0.0)) == "the seeds do not differ, so their spread is unknown"
    assert unjudged(Difference(0.0, -0.1, 0.1), "1 of its 3 runs diverged") == "1 of its 3 runs diverged"


def test_runs_that_learned_nothing_in_words():
    arm, base = made(comparison()).arms[:2]
    assert lost_words(arm, base) == ""
    assert lost_words(replace(arm, diverged=1), base) == "1 of its 3 runs diverged"
    both = "1 of its 3 runs and 3 of the baseline's 3 runs diverged"
    assert lost_words(replace(arm, diverged=1), replace(base, diverged=3)) == both
    assert lost_words(replace(arm, at_chance=3), base) == ""
    assert lost_words(arm, replace(base, at_chance=2)) == "2 of the baseline's 3 runs ended no better than chance"
