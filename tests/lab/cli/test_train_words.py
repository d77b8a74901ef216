"""The messages of a run on its way, and the warnings at its end."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys

import pytest
from rich.console import Console
from tests.lab.cli.checks import QUICK, run

from adabatch.lab.cli.train import summary
from adabatch.lab.training import RunConfig, saved_result, train

LINE = re.compile(
    r"epoch (?P<epoch>\S+)  test (?P<accuracy>[\d.]+) %  test loss (?P<test>\S+|not finite)  "
    r"training loss (?P<train>\S+|not finite)  batch (?P<batch>\S+)  LR (?P<lr>\S+)  [\d,]+/s  \d+:\d\d:\d\d left"
)


def test_without_a_terminal_there_is_a_line_for_each_evaluation(tmp_path, capsys):
    out = tmp_path / "run"
    growth = ["--growth", "2", "--every", "1", "--lr-schedule", "step:0.65:2", "--epochs", "3", "--lr", "0.006"]
    assert run("train", "digits", *QUICK, *growth, "--out", str(out)) == 0
    printed = capsys.readouterr()
    found = [LINE.fullmatch(line).groupdict() for line in printed.err.splitlines()]
    history = saved_result(out).history
    assert [line["epoch"] for line in found] == ["1/3", "2/3", "3/3"]
    assert [line["accuracy"] for line in found] == [f"{100 * each.test_accuracy:.2f}" for each in history]
    assert [line["test"] for line in found] == [f"{each.test_loss:.4g}" for each in history]
    assert [line["train"] for line in found] == [f"{each.train_loss:.4g}" for each in history]
    assert [line["batch"] for line in found] == ["16", "32", "64"]
    assert [line["lr"] for line in found] == ["0.006", "0.012", "0.0156"]
    assert printed.err.endswith("0:00:00 left\n")
    assert "epoch" not in printed.out.partition("samples per second")[0].replace("epochs", "")


def test_a_log_says_how_many_processes_are_wanted(tmp_path, capsys):
    growing = ["--growth", "2", "--every", "1", "--max-batch-size", "32", "--world-sizes", "0:1 32:4"]
    assert run("train", "digits", *QUICK, *growing, "--out", str(tmp_path / "run")) == 0
    lines = capsys.readouterr().err.splitlines()
    assert ["wants 4 processes" in line for line in lines] == [True, True]  # at the end of the first epoch already
    (decision,) = saved_result(tmp_path / "run").decisions
    assert (decision.batch_size, decision.world_size) == (32, 4)


def test_quiet_and_lines_beside_json(tmp_path, capsys):
    assert run("train", "digits", *QUICK, "--quiet", "--out", str(tmp_path / "a")) == 0
    printed = capsys.readouterr()
    assert (printed.err, "test accuracy" in printed.out) == ("", True)
    assert run("train", "digits", *QUICK, "--json", "--progress", "--out", str(tmp_path / "b")) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["updates"] == 180
    assert len([LINE.fullmatch(line) for line in printed.err.splitlines()]) == 2


def test_a_comparison_says_of_each_evaluation_whose_it_is(tmp_path, capsys):
    options = [*QUICK, "--batch-size", "64", "--max-batch-size", "128", "--every", "1", "--seeds", "2", "--seed", "3"]
    command = ["compare", "digits", *options, "--arm", "adaptive", "--out", str(tmp_path / "out")]
    assert run(*command) == 0
    lines = capsys.readouterr().err.splitlines()
    turns = [(1, "fixed-small", 3), (2, "adaptive", 3), (3, "adaptive", 4), (4, "fixed-small", 4)]
    for (number, arm, seed), *found in zip(turns, lines[0::3], lines[1::3], lines[2::3], strict=True):
        place = f"run {number}/4  {arm}, seed {seed}  "
        assert all(line.startswith(place) for line in found)
        assert [LINE.fullmatch(line.removeprefix(place))["epoch"] for line in found[:2]] == ["1/2", "2/2"]
        assert re.fullmatch(r"[\d.]+ % in [\d.]+ s", found[2].removeprefix(place))
    assert run(*command, "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert run(*command, "--json", "--progress") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["seeds"] == [3, 4]
    assert printed.err.count("(found there)\n") == 4


def strict(text):
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_a_run_that_diverges_ends_and_says_so(tmp_path, capsys):
    """It shows in a warning, the result, strict JSON and the exit code, also when the command is repeated."""
    out = tmp_path / "run"
    assert run("train", "digits", *QUICK, "--lr", "1e30", "--out", str(out), "--json") == 3
    printed = capsys.readouterr()
    found = strict(printed.out)
    assert found["diverged"] is True
    assert found["updates"] < 10
    assert (found["epochs"], found["history"][0]["train_loss"]) == (1, None)
    assert strict((out / "metrics.jsonl").read_text()) == found["history"][0]
    assert strict((out / "result.json").read_text())["diverged"] is True
    words = (
        f"diverged: the loss was not finite {found['updates']} updates after the start, so the training ended in epoch "
        f"1 of 2; what it found is in {out}; take a lower --lr than 1e+30, or warmup:5+ in front of the --lr-schedule\n"
    )
    assert printed.err == words
    assert run("train", "digits", "--resume", "--out", str(out)) == 3
    printed = capsys.readouterr()
    assert printed.err == words
    table = " ".join(printed.out.replace("│", " ").split())
    assert f"the loss was not finite {found['updates']} updates after the start; a lower --lr may help" in table
    assert (out / "report.html").exists()


def test_a_run_that_is_well_says_nothing_of_the_kind(tmp_path, capsys):
    assert run("train", "digits", *QUICK, "--out", str(tmp_path / "run"), "--json") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["diverged"], found["at_chance"], printed.err) == (False, False, "")


def test_an_accuracy_no_better_than_chance_is_said(tmp_path, capsys):
    """A learning rate at which the network dies, as a wrong default once did in silence."""
    out = tmp_path / "run"
    options = ["--optimizer", "adam", "--lr", "5", "--epochs", "1", "--device", "cpu"]
    assert run("train", "digits", *options, "--out", str(out), "--json") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["at_chance"], found["diverged"]) == (True, False)
    assert json.loads((out / "result.json").read_text())["at_chance"] is True
    assert printed.err == (
        f"no better than chance: {100 * found['test_accuracy']:.2f} % test accuracy, less than three standard errors "
        f"above the {100 * found['chance']:.2f} % of always answering the most frequent class; take another --lr than "
        "5, or train longer\n"
    )
    table = io.StringIO()
    Console(width=200, file=table).print(summary(RunConfig.for_task("digits"), saved_result(out)))
    assert "no better than chance │ always answering the most frequent class gets" in table.getvalue()


def test_a_diverged_arm_stops_neither_the_others_nor_the_seeds(tmp_path, capsys):
    out, arms = tmp_path / "out", ["--arm", "wild: lr=1e30", "--arm", "adaptive"]
    options = [*QUICK, "--batch-size", "64", "--max-batch-size", "128", "--every", "1", "--seeds", "2"]
    assert run("compare", "digits", *options, *arms, "--out", str(out)) == 0
    assert capsys.readouterr().err.count(" s  diverged\n") == 2
    found = {path.parent.parent.name: saved_result(path.parent) for path in out.glob("runs/*/seed-*/result.json")}
    assert {name: result.diverged for name, result in found.items()} == {
        "fixed-small": False, "wild": True, "adaptive": False,
    }  # fmt: skip
    compared = json.loads((out / "compare.json").read_text())
    assert {arm["name"]: arm["diverged"] for arm in compared["arms"]} == {"fixed-small": 0, "wild": 2, "adaptive": 0}
    alone = RunConfig.for_task(
        "digits", model="mlp", epochs=2, device="cpu", batch_size=64, growth=2.0, max_batch_size=128, every="1", seed=1
    )
    assert compared["arms"][2]["test_accuracy"]["values"][1] == train(alone).test_accuracy


def test_a_log_that_nobody_reads_any_more_ends_no_run(tmp_path):
    """As with `adabatch train ... 2> >(head -1)`."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "adabatch", "train", "digits", *QUICK, "--epochs", "8", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline().startswith("epoch 1/8  test ")
        process.stderr.close()
        process.wait(timeout=300)
    assert process.returncode == 0
    assert len(saved_result(out).history) == 8
