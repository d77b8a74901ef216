"""The benchmark of the noise scale: its truth is the textbook's, and all of it runs and is told."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from adabatch.types import NoiseEstimate

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("noise")


def test_the_truth_is_that_of_single_samples(benchmark):
    """Parts of one sample give variance and mean of the samples' gradients."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(1000, 3), torch.randint(2, (1000,)))
    model = torch.nn.Linear(3, 2)
    gradients = []
    for inputs, target in zip(*data.tensors, strict=True):
        loss = torch.nn.functional.cross_entropy(model(inputs[None]), target[None])
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])]))
    every = torch.stack(gradients).double()
    wanted = every.var(0, correction=1).sum() / every.mean(0).square().sum()
    case = benchmark.Case("digits", torch.nn.Linear)
    assert benchmark.truth(case, model, data, 1) == pytest.approx(float(wanted), rel=1e-5)
    assert benchmark.truth(case, model, data, 4) == pytest.approx(float(wanted), rel=0.25)


def test_estimates_are_judged(benchmark):
    near = NoiseEstimate(110.0, 90.0, 130.0, 1.0, 1.0, 10.0)
    far = NoiseEstimate(70.0, 50.0, 95.0, 1.0, 1.0, 10.0)
    open_ended = NoiseEstimate(200.0, 60.0, math.inf, 1.0, 1.0, 10.0)
    found = benchmark.judged([(100.0, near), (100.0, far), (100.0, open_ended)])
    assert found["median_error"] == pytest.approx(0.3)
    assert (found["covers"], found["covers_before_widening"], found["without_upper_end"]) == pytest.approx(
        (2 / 3, 1 / 3, 1 / 3)
    )


@pytest.mark.slow
def test_it_runs_and_is_told(tmp_path):
    out = tmp_path / "noise.json"
    few = ["--toy", "--trials", "2", "--seeds", "1", "--rounds", "1", "--runs", tmp_path / "runs"]
    subprocess.run([sys.executable, "benchmarks/noise.py", *few, "--out", out], cwd=ROOT, check=True)
    saved = json.loads(out.read_text())
    again = tmp_path / "again.json"
    subprocess.run([sys.executable, "benchmarks/noise.py", *few, "--out", again], cwd=ROOT, check=True)
    assert json.loads(again.read_text())["cases"] == saved["cases"], "seconds too: nothing is measured twice"
    assert list(saved["cases"]) == ["digits", "batch_norm"]
    for found in saved["cases"].values():
        ways = found["held"]["5"]
        assert list(ways) == ["8 micro-batches", "2 halves"]
        for way in ways.values():
            assert way["truth"] > 0
            assert way["n"] == 2
            assert 0 < way["median_ratio"] < 10
        assert set(found["training"]) == {"by epochs", "independent"}
        assert found["cost"]["2 halves"]["every 10th"]["bound"] == 1.03
