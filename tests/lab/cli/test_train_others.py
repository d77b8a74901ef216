"""The commands on tasks that are no image classification: text with an LSTM, segmentation, the quadratic."""

from __future__ import annotations

import json

import pytest
from tests.lab.cli.checks import run
from tests.lab.tasks.images import camvid

from adabatch.lab.training import unpacked

CHOSEN = {
    "gpt-tiny": ("lstm", ("--batch-size", "8", "--micro-batch-size", "3")),
    "camvid": ("drn", ("--batch-size", "3", "--micro-batch-size", "2")),
    "quadratic": ("quadratic", ("--batch-size", "4096", "--micro-batch-size", "1500")),
}


@pytest.fixture
def command(request, tmp_path, monkeypatch):
    """Options that train a task for one epoch on tiny data."""
    monkeypatch.delenv("ADABATCH_DATA", raising=False)
    task = request.param
    model, sizes = CHOSEN[task]
    found = [task, "--model", model, *sizes, "--epochs", "1", "--device", "cpu", "--threads", "1"]
    if task == "gpt-tiny":
        (tmp_path / "input.txt").write_text("".join(f"line {n}: to be or not\n" for n in range(120)))
        found += ["--data", str(tmp_path / "input.txt")]
    if task == "camvid":
        found += ["--data", str(camvid(tmp_path, size=(80, 75)))]
    return found


@pytest.mark.parametrize("command", CHOSEN, indirect=True)
def test_train_and_resume(command, tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", *command, "--out", str(out), "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert first["history"][-1]["test_loss"] > 0
    assert (first["chance"] is None) == (command[0] == "quadratic")
    assert (first["test_right"] is None) == (command[0] != "quadratic")  # a place has no sample of its own
    assert run("train", command[0], "--out", str(out), "--resume", "--epochs", "2", "--json") == 0
    more = json.loads(capsys.readouterr().out)
    assert more["updates"] == 2 * first["updates"]
    assert run("train", *command, "--epochs", "2", "--out", str(tmp_path / "whole"), "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    assert [line["test_loss"] for line in whole["history"]] == [line["test_loss"] for line in more["history"]]
    if command[0] == "quadratic":
        assert unpacked(whole["test_right"]) == [whole["history"][-1]["test_loss"] <= 0.02]


@pytest.mark.parametrize("command", CHOSEN, indirect=True)
def test_probe(command, tmp_path, capsys):
    how = [*command[:3], *command[3:5], *command[9:]]
    assert run("probe", *how, "--repeats", "1", "--seconds", "0.001", "--max-batch-size", command[4], "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["curve"]) == 1


def test_compare(tmp_path, capsys):
    sizes = ["--batch-size", "2048", "--max-batch-size", "4096", "--every", "8192 samples"]
    command = ["quadratic", "--seeds", "2", "--epochs", "1", "--threads", "1", "--device", "cpu", *sizes]
    assert run("compare", *command, "--out", str(tmp_path / "found"), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [arm["at_chance"] for arm in found["arms"]] == [0] * len(found["arms"])
    assert {arm["test_accuracy"]["mean"] for arm in found["arms"]} <= {0.0, 0.5, 1.0}
