"""The multi-worker benchmark at a tiny setting, in two processes, and its bytes by epoch."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.lab.tasks.images import cifar

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workers(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("workers")


def test_bytes_of_an_epoch_are_those_of_its_updates(workers, tmp_path):
    history = [{"updates": 10, "communication_bytes": 400}, {"updates": 15, "communication_bytes": 200}]
    (tmp_path / "result.json").write_text(json.dumps({"history": history}))
    assert workers.epoch_bytes(tmp_path) == [4000, 1000]
    (tmp_path / "result.json").write_text(json.dumps({"history": [{"updates": 10}]}))
    assert workers.epoch_bytes(tmp_path) is None


def test_a_subset_is_the_first_samples(workers, tmp_path):
    import pyarrow.parquet as pq

    (tmp_path / "few").mkdir()
    few = workers.subset(cifar(tmp_path / "all"), tmp_path / "few", train=7, test=None)
    read = {split: pq.read_table(next(few.glob(f"{split}-*"))) for split in ("train", "test")}
    assert read["train"]["label"].to_pylist() == list(range(7))
    assert len(read["test"]) == 8


@pytest.mark.slow
def test_speeds_runs_and_what_they_cost(tmp_path):
    cifar(tmp_path / "cifar10", train=96)
    probe = ["--networks", "resnet20", "--max-batch-size", "32", "--repeats", "2", "--seconds", "0.01"]
    few = ["--train-samples", "32", "--small", "2", "--epochs", "5", "--seeds", "1"]
    script = [sys.executable, "benchmarks/workers.py", "--data", tmp_path, "--out", tmp_path / "found.json"]
    subprocess.run([*script, *probe, *few], cwd=ROOT, check=True)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["environment"]["processes"] == found["speeds"]["resnet20"]["communication"]["world_size"] == 2
    assert [point["batch_size"] for point in found["speeds"]["resnet20"]["curve"]] == [16, 32]
    arms = found["runs"]["comparison"]["arms"]
    assert [arm["batch_sizes"] for arm in arms] == [[2], [2, 4, 8, 16, 32]]
    assert [arm["updates"] for arm in arms] == [5 * 16, 16 + 8 + 4 + 2 + 1]
    assert (found["runs"]["time"]["bound"], set(found["runs"]["bytes_by_epoch"])) == (1.7, {"fixed-small", "adaptive"})
    assert found["runs"]["accuracy"].keys() == {"mean", "low", "high"}
    settings = found["runs"]["comparison"]["settings"]["adaptive"]
    assert (settings["every"], settings["lr_schedule"], settings["coupling"]) == ("1", "step:0.375:1", "linear")
