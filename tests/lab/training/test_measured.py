"""What is known to be faster stands in result files, and is taken where nothing is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from adabatch.lab import models
from adabatch.lab.training import measured
from adabatch.lab.training.config import SETTINGS

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


@pytest.mark.parametrize("gain", measured.GAINS)
def test_each_row_is_in_its_file(gain):
    found = json.loads((RESULTS / gain.origin).read_text())
    assert gain.device == found["device"] == "cpu", "a result of a GPU names its architecture: compare it here"
    for size, low in gain.ratios.items():
        ratio = found["ratios"][f"{gain.models[0]}, batch {size}, {gain.setting}"]["ratio"]
        assert low == pytest.approx(ratio["low"], abs=5e-4)
        assert ratio["low"] > 1
    assert set(gain.models) <= set(models.names())
    SETTINGS[gain.setting].validate(gain.value)


@pytest.mark.parametrize(
    ("model", "device", "found"), [("resnet44", "cpu", True), ("resnet20", "cuda", None), ("gpt", "cpu", None)]
)
def test_what_is_faster(model, device, found):
    assert measured.faster(model, torch.device(device)).get("channels_last") is found


def test_a_row_of_a_gpu_is_for_its_architecture(monkeypatch):
    row = measured.Gain("sm_90", ("resnet20",), "precision", "bf16", {128: 1.5}, "none.json")
    monkeypatch.setattr(measured, "GAINS", (*measured.GAINS, row))
    for capability, found in (((9, 0), {"precision": "bf16"}), ((8, 0), {})):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert measured.faster("resnet20", torch.device("cuda")) == found
    assert measured.faster("resnet20", torch.device("cpu")) == {"channels_last": True}


@pytest.mark.gpu
def test_the_architecture_of_a_gpu():
    assert measured.architecture(torch.device("cuda")).startswith("sm_")
    assert measured.faster("resnet20", torch.device("cuda")) == {}
