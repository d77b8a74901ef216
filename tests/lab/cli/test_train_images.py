"""`adabatch train` on tiny generated images in both layouts: three updates, stopped after two, and the rest."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from tests.lab.cli.checks import run
from tests.lab.tasks.images import cifar, class_folders, encoded, parquet

from adabatch.lab.training import checkpoint, loop, saved_config, saved_result


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ADABATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ADABATCH_DATA", raising=False)


def stopped_and_resumed(monkeypatch, capsys, out, *command: str) -> dict:
    """The result of a run of three updates that was interrupted after the second."""
    original = loop.Trainer._after_update

    def stop(self):
        if self._tally.updates == 2:
            signal.raise_signal(signal.SIGINT)
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_after_update", stop)
        assert run("train", *command, "--out", str(out)) == 130
    assert saved_result(out) is None
    capsys.readouterr()
    assert run("train", command[0], "--out", str(out), "--resume", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["updates"], found["test_accuracy"] >= 0) == (3, True)
    assert 20_000 < (out / "report.html").stat().st_size < 200_000
    return found


def hub(folder):
    for split, first, count in (("train", 0, 6), ("validation", 6, 2)):
        images = [encoded(n, (40 + n, 60), kind="JPEG") for n in range(first, first + count)]
        parquet(folder / f"{split}-00000-of-00001.parquet", images, [n % 3 for n in range(count)], image="image")
    return folder


def test_cifar100(tmp_path, monkeypatch, capsys):
    data = cifar(tmp_path / "cifar100", label="fine_label", classes=100)
    command = ["cifar100", "--data", str(data), "--preset", "adabatch", "--epochs", "1", "--batch-size", "8"]
    found = stopped_and_resumed(monkeypatch, capsys, tmp_path / "run", *command, "--device", "cpu", "--threads", "1")
    assert found["samples"] == 24
    assert run("train", *command, "--threads", "1", "--device", "cpu", "--out", str(tmp_path / "whole"), "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    assert [line["test_loss"] for line in found["history"]] == [line["test_loss"] for line in whole["history"]]
    assert (found["config"]["drop_last"], found["config"]["growth"], found["config"]["model"]) == (
        True,
        2.0,
        "resnet20",
    )


@pytest.mark.filterwarnings("default:the cached file")
def test_a_broken_cache_is_said_in_one_line_and_made_anew(tmp_path, capsys):
    data = cifar(tmp_path / "cifar100", label="fine_label", classes=100)
    command = ["train", "cifar100", "--data", str(data), "--model", "small_cnn", "--epochs", "1", "--lr", "0.01"]
    command += ["--device", "cpu", "--threads", "1", "--batch-size", "8"]
    assert run(*command, "--out", str(tmp_path / "first")) == 0
    for kept in (tmp_path / "cache").glob("*.arrays"):
        kept.write_bytes(kept.read_bytes()[:-1])
    capsys.readouterr()
    assert run(*command, "--out", str(tmp_path / "second")) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: the cached file ")]
    assert warned
    assert all(line.endswith("; it is made anew") for line in warned)


@pytest.mark.parametrize("layout", ["class folders", "hub"])
def test_imagenet(tmp_path, monkeypatch, capsys, layout):
    if layout == "hub":
        hub(tmp_path / "data")
    else:
        class_folders(tmp_path / "data", classes=3, train=2, test=1)
    model = {"class folders": "resnet50", "hub": "alexnet"}[layout]
    command = ["imagenet", "--data", str(tmp_path / "data"), "--model", model, "--epochs", "1", "--batch-size", "2"]
    command += ["--lr", "0.001", "--device", "cpu", "--threads", "1"]
    found = stopped_and_resumed(monkeypatch, capsys, tmp_path / "run", *command)
    assert found["config"]["model"] == model
    assert found["samples"] == 6
    assert run("train", *command, "--workers", "0", "--out", str(tmp_path / "whole"), "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    assert [line["test_loss"] for line in found["history"]] == [line["test_loss"] for line in whole["history"]]


@pytest.mark.parametrize("task", ["cifar10", "imagenet"])
def test_probe_makes_inputs_of_what_the_loader_hands_out(task, tmp_path, capsys):
    if task == "cifar10":
        data = cifar(tmp_path / "cifar10", train=40)
    else:
        data = class_folders(tmp_path / "data", classes=3, train=2, test=1)
    few = ["--max-batch-size", "4", "--batch-size", "2", "--repeats", "1", "--seconds", "0.001"]
    command = ["probe", task, "--data", str(data), "--model", "alexnet", *few, "--device", "cpu", "--threads", "1"]
    assert run(*command, "--out", str(tmp_path / "out"), "--json") == 0
    assert [point["batch_size"] for point in json.loads(capsys.readouterr().out)["curve"]] == [2, 4]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_of_a_run_saves_it(tmp_path, number):
    """`timeout`, schedulers and closed terminals send the signal to the workers too."""
    data, out = class_folders(tmp_path / "data", classes=3, train=20, test=1), tmp_path / "run"
    few = ["--model", "alexnet", "--batch-size", "2", "--epochs", "1000", "--device", "cpu", "--threads", "1"]
    rarely = ["--workers", "2", "--save-every", "1 hour", "--evaluate-every", "900 epochs"]
    command = [sys.executable, "-m", "adabatch", "train", "imagenet", "--data", str(data), *few, *rarely]
    process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (out / "config.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    time.sleep(2)  # it trains by now, and workers read
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert said.splitlines()[-1].startswith(f"interrupted; the run is saved in {out}; to go on: adabatch train")
    assert checkpoint.read(out / "checkpoints" / "last.pt")["updates"] > 0


def test_a_preset_with_flags_on_top(tmp_path, capsys):
    data = cifar(tmp_path / "cifar10", train=40)
    few = ["--data", str(data), "--epochs", "2", "--device", "cpu", "--threads", "1", "--model", "alexnet"]
    sizes = ["--batch-size", "8", "--max-batch-size", "16", "--every", "1 epoch"]
    out = tmp_path / "run"
    assert run("train", "cifar10", "--preset", "adabatch", *few, *sizes, "--out", str(out)) == 0
    config = saved_config(out)
    assert (config.growth, config.lr, config.lr_schedule, config.weight_decay) == (2.0, 0.01, "step:0.375:20", 5e-4)
    assert (config.batch_size, config.max_batch_size, config.drop_last) == (8, 16, True)
    assert saved_result(out).batch_sizes == (8, 16)
    assert saved_result(out).samples == 40 + 32
    assert f"page: {out}/report.html" in capsys.readouterr().out


def test_growth_from_the_falls_of_the_lr(tmp_path, capsys):
    data = cifar(tmp_path / "cifar10", train=40)
    few = ["--data", str(data), "--epochs", "2", "--device", "cpu", "--threads", "1", "--batch-size", "8"]
    more = ["--model", "alexnet", "--lr-schedule", "milestones:0.5:1", "--max-batch-size", "40"]
    assert run("train", "cifar10", *few, *more, "--rule", "smith", "--json", "--out", str(tmp_path / "run")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["batch_sizes"] == [8, 16]
    assert [line["lr"] for line in found["history"]] == pytest.approx([0.01, 0.01]), "flat while the batch grows"
    assert found["config"]["coupling"] == "linear(any_optimizer=True)"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["cifar10", "--preset", "adabatsch"], "`--preset` must be one of adabatch, fixed, .*, got 'adabatsch'"),
        (
            ["digits", "--preset", "fixed"],
            "`TASK` must be one of cifar10, cifar100, imagenet, got 'digits'",
        ),
        (
            ["cifar10", "--preset", "fixed", "--model", "wrn16_4"],
            "`--model` must be one of resnet20, vgg19_bn, alexnet",
        ),
        (
            ["imagenet", "--preset", "smith-large"],
            "`--model` must be one of .*; smith-large is for adabatch plan",
        ),
        (["cifar10", "--rule", "smith", "--growth", "2"], "`--rule` must come without `--growth`, got 'smith' and 2"),
        (["cifar10", "--rule", "smth"], "`--rule` must be one of smith, seesaw"),
        (["cifar10", "--precision", "fp8"], "`--precision` must be one of float32, bf16, float64, got 'fp8'"),
    ],
)
def test_what_cannot_be_chosen(flags, message, tmp_path, capsys):
    assert run("train", *flags, "--out", str(tmp_path / "run")) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_a_page_that_cannot_be_written_fails_no_run(tmp_path, capsys, monkeypatch):
    from adabatch.lab.report import page

    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "write", full)
    few = ["--model", "mlp", "--epochs", "1", "--device", "cpu"]
    assert run("train", "digits", *few, "--out", str(tmp_path / "run")) == 0
    told = (
        f"no page: out must be a folder that can be written, got '{tmp_path / 'run'}' (No space left on device); free"
    )
    assert told in capsys.readouterr().out
