"""The benchmark of policies: what is picked, how times are compared, and all of it at its smallest size."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from adabatch.lab.training import RunConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("policies")


def arm(name, seconds, accuracy=0.9):
    reached = sum(each is not None for each in seconds)
    return SimpleNamespace(
        name=name,
        to_target=SimpleNamespace(seconds=seconds, reached=reached, n=len(seconds)),
        seconds_to_target=sorted(each or float("inf") for each in seconds)[len(seconds) // 2],
        test_accuracy=SimpleNamespace(mean=accuracy),
    )


def test_the_first_at_the_target_is_picked_and_one_that_missed_it_comes_last(benchmark):
    arms = {each.name: each for each in (arm("slow", [3.0, 4.0]), arm("fast", [1.0, 2.0]), arm("lost", [0.5, None]))}
    found = SimpleNamespace(arm=arms.__getitem__)
    assert benchmark.picked(found, ["slow", "fast", "lost"]) == "fast"
    assert benchmark.picked(found, ["lost", "slow"]) == "slow"
    arms["worse"] = arm("worse", [None, None], accuracy=0.5)
    assert benchmark.picked(found, ["worse", "lost"]) == "lost"


def test_a_ratio_is_of_pairs_and_only_if_all_arrived(benchmark):
    found = benchmark.ratio(arm("policy", [1.0, 2.0, 4.0]), arm("constant", [2.0, 4.0, 8.0]))
    assert found["median"] == found["low"] == found["high"] == pytest.approx(2.0)
    assert benchmark.ratio(arm("policy", [1.0, None, 4.0]), arm("constant", [2.0, 4.0, 8.0])) is None


@pytest.mark.parametrize(("task", "rule"), [("digits", "cabs"), ("gpt-tiny", "sign-noise")])
def test_each_task_tries_what_suits_its_optimizer(benchmark, task, rule):
    length = benchmark.GRID[task]
    start = benchmark.base(task, length, 1000, "cpu")
    curve = [(start.batch_size * 2**power, 1000.0 * 1.5**power) for power in range(5)]
    tried = benchmark.families(start, curve)
    assert list(tried) == ["constant", "schedule", "noise-scale", "goodput", rule]
    assert all(isinstance(config, RunConfig) for family in tried.values() for config in family.values())
    assert [config.batch_size for config in tried["constant"].values()] == [size for size, _ in curve]
    assert all(config.max_batch_size == curve[-1][0] for name in list(tried)[1:] for config in tried[name].values())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_it_runs_and_goes_on(tmp_path):
    given = [sys.executable, "benchmarks/policies.py", "--toy"]
    given += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "found.json")]
    subprocess.run(given, cwd=ROOT, check=True, capture_output=True)
    found = json.loads((tmp_path / "found.json").read_text())
    arms = found["tasks"]["digits"]["arms"]
    assert [each["family"] for each in arms] == ["constant", "schedule", "noise-scale", "goodput", "cabs"]
    assert all(len(each["seconds"]) == each["of"] == 2 for each in arms)
    assert 0 < found["tasks"]["digits"]["target"] <= 1
    subprocess.run(given, cwd=ROOT, check=True, capture_output=True)
    assert json.loads((tmp_path / "found.json").read_text())["tasks"] == found["tasks"]
