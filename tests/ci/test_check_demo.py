"""The check of the demo notices what is wrong with a comparison, whatever the figures derived from it say."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("check_demo", ROOT / ".ci" / "check_demo.py")
check_demo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check_demo)
DEMO = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text())


def two_seeds(demo):
    demo["seeds"] = demo["seeds"][:2]
    for arm in demo["arms"]:
        for key in ("test_accuracy", "best_accuracy", "train_seconds"):
            arm[key]["values"] = arm[key]["values"][:2]
        arm["test_accuracy"]["n"] = 2


def two_seeds_in_one_arm(demo):
    demo["arms"][2]["test_accuracy"]["values"] = demo["arms"][2]["test_accuracy"]["values"][:2]


def another_task(demo):
    demo["task"] = "mnist"


def another_task_in_the_settings(demo):
    for own in demo["settings"].values():
        own["task"] = "mnist"


def another_lr(demo):
    for own in demo["settings"].values():
        own["lr"] *= 2


def half_the_samples(demo):
    for arm in demo["arms"]:
        arm["samples"] //= 2


def ten_percent(demo):
    for arm in demo["arms"]:
        arm["test_accuracy"]["values"] = [0.1] * 10


def ten_percent_and_its_mean(demo):
    for arm in demo["arms"]:
        arm["test_accuracy"] |= {"values": [0.1] * 10, "mean": 0.1, "std": 0.0}


def a_margin_of_a_half(demo):
    demo["margin"] = 0.5


def all_runs_diverged(demo):
    for arm in demo["arms"]:
        arm["diverged"] = 10


def fewer_updates(demo):
    demo["arms"][2]["updates"] = 100


def half_the_updates_ratio(demo):
    demo["against_fixed_small"]["adaptive"]["updates_ratio"] = 6.7


def another_interval(demo):
    demo["against_fixed_small"]["adaptive"]["accuracy_difference"]["low"] = -0.001


def another_time(demo):
    demo["arms"][2]["train_seconds"]["values"][:2] = [9.0, 9.0]


def another_verdict(demo):
    demo["against_fixed_small"]["uncoupled"]["within_margin"]["verdict"] = "shown"


def accuracies_between_test_samples(demo):
    demo["arms"][0]["test_accuracy"]["values"][0] += 0.0001


def one_disaster(demo):
    demo["arms"][2]["test_accuracy"]["values"][4] = 0.1


def an_arm_is_missing(demo):
    del demo["arms"][1]


def a_key_is_missing(demo):
    del demo["arms"][1]["train_seconds"]


def seeds_twice(demo):
    demo["seeds"] = [0] * 10


BROKEN = [
    two_seeds, two_seeds_in_one_arm, another_task, another_task_in_the_settings, another_lr, half_the_samples,
    ten_percent, ten_percent_and_its_mean, a_margin_of_a_half, all_runs_diverged, fewer_updates,
    half_the_updates_ratio, another_interval, another_time, another_verdict, accuracies_between_test_samples,
    one_disaster, an_arm_is_missing, a_key_is_missing, seeds_twice,
]  # fmt: skip


def test_the_demo_as_it_was_run_passes(capsys):
    assert check_demo.main(ROOT / "benchmarks" / "results" / "demo.json") == 0
    assert capsys.readouterr().out.endswith("34 passed, 0 failed\n")


@pytest.mark.parametrize("breaks", BROKEN)
def test_a_copy_that_is_broken_fails(breaks, tmp_path, capsys):
    demo = copy.deepcopy(DEMO)
    breaks(demo)
    file = tmp_path / "compare.json"
    file.write_text(json.dumps(demo))
    assert check_demo.main(file) == 1
    assert "FAILED: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("breaks", "failed"),
    [
        (another_lr, "adaptive: the demo's settings; found others: {'lr': 0.012}"),
        (all_runs_diverged, "adaptive: no run diverged; found 10"),
        (a_margin_of_a_half, "the demo's task, seeds and margin; found"),
        (ten_percent_and_its_mean, "fixed-small is no straw man: at least 96.5 % by the interval; found 10.00 %"),
        (one_disaster, "adaptive is within 1% of fixed-small's accuracy by the interval; found -8.67 ["),
        (a_key_is_missing, "the file is whole; KeyError: 'train_seconds'"),
    ],
)
def test_what_failed_is_said(breaks, failed, tmp_path, capsys):
    demo = copy.deepcopy(DEMO)
    breaks(demo)
    (tmp_path / "compare.json").write_text(json.dumps(demo))
    check_demo.main(tmp_path / "compare.json")
    assert f"FAILED: {failed}" in capsys.readouterr().out
