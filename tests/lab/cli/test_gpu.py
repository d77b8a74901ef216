"""The command on a GPU: alone, and under torchrun with one rank over NCCL."""

from __future__ import annotations

import json

import pytest
import torch
from tests.lab.cli.checks import run
from tests.lab.cli.test_torchrun import differ, ended, started
from tests.lab.tasks.images import cifar
from tests.lab.training.checks import weights

from adabatch.lab.training import saved_result

pytestmark = pytest.mark.gpu
TRAIN = ["train", "digits", "--batch-size", "16", "--epochs", "4", "--growth", "2", "--every", "1", "--device", "cuda"]


def launched(*arguments):
    code, _, errors = ended(started(*arguments, count=1))
    assert code == 0, errors


@pytest.mark.parametrize(
    "options",
    [
        (), ("--fsdp",), ("--optimizer", "lamb", "--coupling", "sqrt", "--fsdp"),
        ("--save-every", "1 updates"), ("--save-every", "1 updates", "--fsdp"),
    ],
)  # fmt: skip
def test_one_rank_trains_as_without_torchrun(tmp_path, options):
    exact = [*TRAIN, "--precision", "float64"]
    launched(*exact, *options, "--quiet", "--out", str(tmp_path / "rank"))
    alone = [option for option in options if option != "--fsdp"]
    assert run(*exact, *alone, "--quiet", "--out", str(tmp_path / "alone")) == 0
    mine, theirs = saved_result(tmp_path / "rank"), saved_result(tmp_path / "alone")
    assert (mine.updates, mine.batch_sizes) == (theirs.updates, theirs.batch_sizes)
    assert differ(weights(tmp_path / "rank"), weights(tmp_path / "alone")) < 1e-9


def test_a_run_goes_on_from_gpu_to_cpu_and_back(tmp_path):
    exact = [*TRAIN, "--precision", "float64", "--quiet", "--out", str(tmp_path / "run")]
    assert run(*exact[:-2], "--out", str(tmp_path / "whole")) == 0
    launched(*exact, "--fsdp", "--epochs", "2")
    assert run(*exact, "--epochs", "3", "--device", "cpu", "--no-fsdp", "--resume") == 0
    assert run(*exact, "--no-fsdp", "--resume") == 0
    assert differ(weights(tmp_path / "run"), weights(tmp_path / "whole")) < 1e-9


@pytest.mark.parametrize("options", [(), ("--fsdp",)])
def test_a_probe_under_torchrun(tmp_path, options):
    sizes = ["--batch-size", "64", "--max-batch-size", "256", "--repeats", "2", "--device", "cuda"]
    launched("probe", "digits", *sizes, *options, "--out", str(tmp_path))
    found = json.loads((tmp_path / "probe.json").read_text())
    assert found["device"] == "cuda"


def test_more_processes_than_gpus_are_refused(tmp_path):
    count = torch.cuda.device_count() + 1
    code, _, errors = ended(started(*TRAIN, "--out", str(tmp_path), count=count))
    assert code != 0
    assert errors.count("error: `--device` must") == 1, errors


@pytest.mark.parametrize("options", [("--sync-batch-norm",), ("--sync-batch-norm", "--fsdp"), ("--last-batch-norm",)])
def test_batch_norm_over_nccl(tmp_path, monkeypatch, options):
    monkeypatch.setenv("ADABATCH_CACHE", str(tmp_path / "cache"))
    images = ["--data", str(cifar(tmp_path / "data", train=41)), "--model", "resnet20", "--precision", "float64"]
    command = ["train", "cifar10", *images, "--batch-size", "10", "--lr", "0.01", "--device", "cuda", "--quiet"]
    launched(*command, *options, "--epochs", "2", "--out", str(tmp_path / "rank"))
    alone = [option for option in options if option == "--last-batch-norm"]
    assert run(*command, *alone, "--epochs", "2", "--out", str(tmp_path / "alone")) == 0
    assert differ(weights(tmp_path / "rank"), weights(tmp_path / "alone")) < 1e-6
