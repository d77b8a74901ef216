"""`adabatch advise` as a user types it."""

import importlib.util
import json
import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.lab.advices import advice, no_gain, outcome
from tests.lab.cli.checks import refused, run
from tests.lab.report.page_studies import write_study

from adabatch.lab import tasks
from adabatch.lab.cli.advise import _how
from adabatch.lab.study import advise as advising
from adabatch.lab.study import cooled
from adabatch.lab.training import RunConfig

QUICK = [
    "advise",
    "digits",
    "--model",
    "mlp",
    "--batch-size",
    "32",
    "--epochs",
    "2",
    "--threads",
    "1",
    "--device",
    "cpu",
]
QUICK += ["--train-samples", "300", "--test-samples", "100", "--budget", "20s"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        _always(patch)
        assert run(*QUICK, "--quiet", "--out", str(out)) == 0
    return out


@pytest.fixture
def out(finished, tmp_path, monkeypatch):
    """A copy of a finished advice."""
    _always(monkeypatch)
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def _always(patch):
    """However fast this machine is, larger batches are tried."""
    patch.setattr(advising, "LEAST_GAIN", 0.0)
    patch.setattr(advising, "SHARES", {**advising.SHARES, "probe": 0.0})


def test_the_folder_gets_the_findings_and_a_page(out, capsys):
    assert run(*QUICK, "--out", str(out), "--json") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    found = json.loads(printed.out)
    assert found == json.loads((out / "advice.json").read_text())
    assert [row["batch_size"] for row in found["fixed"]] == [32, 128]
    files = {path.name for path in out.iterdir()}
    assert {"advice.json", "measured.json", "report.html"} <= files
    assert ("schedule.json" in files) == (found["verdict"] == "grow")


def test_what_is_said(out, capsys):
    assert run(*QUICK, "--out", str(out)) == 0
    printed = capsys.readouterr()
    assert printed.err == ""  # nothing was left to measure
    lines = printed.out.splitlines()
    assert "digits, mlp: constant batch sizes" in printed.out
    assert "Growing batch sizes" in printed.out
    assert lines[-2].startswith(f"Written to {out}: advice.json, ")
    assert lines[-1].startswith("To train by it: adabatch train digits ")
    assert any(line.startswith(("Growth pays here: ", "No evidence that growth pays here.")) for line in lines)


def test_the_command_that_is_printed_trains(out, capsys, tmp_path):
    assert run(*QUICK, "--out", str(out)) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1].partition(": ")[2])
    assert run(*words[1:], "--quiet", "--out", str(tmp_path / "run")) == 0
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (settings["model"], settings["epochs"], settings["lr_schedule"]) == ("mlp", 2, "wsd:1")


def test_the_outcome_is_kept_when_the_command_is_given_again_without_check(out, capsys, monkeypatch):
    assert run(*QUICK, "--check", "--out", str(out), "--json") == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["outcome"]["seeds"] == [24, 25, 26]
    monkeypatch.delattr(cooled, "train")
    assert run(*QUICK, "--out", str(out), "--json") == 0
    assert json.loads(capsys.readouterr().out) == checked


def test_an_advice_that_cannot_be_written_is_told_all_the_same(out, capsys, monkeypatch):
    replace_file = os.replace

    def full(draft, path):
        if Path(path).name == "report.html":
            raise OSError(28, "No space left on device", str(path))
        replace_file(draft, path)

    monkeypatch.setattr("os.replace", full)
    assert run(*QUICK, "--quiet", "--out", str(out)) == 2
    printed = capsys.readouterr()
    assert "growth pays" in printed.out.lower()
    assert printed.err.startswith(
        f"error: `--out` must be a folder that can be written, got '{out}' (No space left on "
    )
    assert printed.err.endswith("; free space or take another folder\n")


def test_lines_of_a_log(tmp_path, capsys, monkeypatch):
    _always(monkeypatch)
    assert run(*QUICK, "--out", str(tmp_path / "out")) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["how fast larger batches train", "the learning rate, 7 of them"]
    assert "seed 1, growing late" in lines


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["--budget", "soon"],
            "`--budget` must be a number above 0, in digits, and one unit, got 'soon'; write for example 1h, 20min or",
        ),
        (["--budget", "3"], "`--budget` must be a number above 0, in digits, and one unit"),
        (["--budget", "0s"], "`--budget` must be a number above 0, in digits, and one unit"),
        (["--budget", "1.2.3h"], "`--budget` must be a number above 0, in digits, and one unit"),
        (["--budget", "1min30s"], "`--budget` must be a number above 0, in digits, and one unit, got '1min30s'"),
        (["--budget", "1e9h"], "`--budget` must be a number above 0, in digits, and one unit, got '1e9h'"),
        (["--train-samples", "0"], "`--train-samples` must be"),
        (["--model", "never"], "`--model` must be"),
    ],
)
def test_bad_input(tmp_path, capsys, more, words):
    assert words in refused(capsys, *QUICK, "--out", str(tmp_path / "out"), *more)
    assert not (tmp_path / "out").exists()


def test_other_settings_are_refused(out, capsys):
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    message = refused(capsys, *QUICK, "--lr", "0.3", "--out", str(out))
    told = r"holds some with lr [\d.]+ there and [\d.]+ here; give the former settings, or another `--out`$"
    assert re.search(told, message)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_the_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "study.json").write_text("{}")
    assert "`--out` must not hold a study" in refused(capsys, *QUICK, "--out", str(tmp_path))


def test_without_a_gain_in_speed_there_is_nothing_to_check(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(advising, "LEAST_GAIN", 1e9)
    assert run(*QUICK, "--check", "--quiet", "--out", str(tmp_path / "out")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "No evidence that growth pays here."
    assert "There is no forecast to check." in lines
    found = json.loads((tmp_path / "out" / "advice.json").read_text())
    assert (found["verdict"], found["outcome"]) == ("no gain in speed", None)
    assert (tmp_path / "out" / "report.html").exists()


def test_no_run_comes_into_the_folder_of_an_advice(out, capsys):
    assert "`--out` must not hold a piece of advice" in refused(capsys, "train", "digits", "--out", str(out))


def test_without_scipy_the_remedy_is_told(tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "scipy" else find(name, *more))
    message = refused(capsys, *QUICK, "--out", str(tmp_path / "out"))
    assert message == "advice needs SciPy; run: pip install 'adabatch[study]'"
    assert not (tmp_path / "out").exists()


def test_the_command_of_each_verdict(tmp_path):
    given = {"model": "mlp", "weight_decay": 0.1, "decay_biases": False, "lr": 0.3, "epochs": 20, "seed": 3}
    grows = _how(advice(), tmp_path, given)
    assert grows == (
        f"adabatch train digits --growth-file {tmp_path / 'schedule.json'} --coupling linear --lr 0.05 --lr-schedule "
        "wsd:3 --epochs 20 --drop-last --model mlp --weight-decay 0.1 --no-decay-biases"
    )
    stays = _how(replace(advice(), verdict="no evidence"), tmp_path, {"model": "mlp", "batch_size": 32})
    assert stays == (
        "adabatch train digits --batch-size 128 --lr 0.2 --lr-schedule warmup:1:0.25+wsd:3 --epochs 20 --drop-last "
        "--model mlp"
    )
    none = _how(no_gain(), tmp_path, {})
    assert none == "adabatch train digits --lr 0.05 --lr-schedule wsd:3 --epochs 20 --drop-last"
    short = _how(replace(no_gain(), whole_epochs=1), tmp_path, {})
    assert short == "adabatch train digits --lr 0.05 --lr-schedule constant --epochs 1 --drop-last"


def test_the_printed_schedule_fits_a_whole_training(out):
    found = json.loads((out / "advice.json").read_text())
    config = RunConfig.for_task("digits", model="mlp", growth_file=json.dumps(found["schedule"]), epochs=2)
    assert config.batch_size == 32
    assert config.plan(tasks.get("digits").load(None).dataset_size).sizes == (32, 64, 128)


def test_reports_of_one_and_of_several(out, tmp_path, capsys):
    assert run("report", str(out), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(out / "report.html")}
    other = tmp_path / "other"
    other.mkdir()
    (other / "advice.json").write_text(json.dumps(advice(outcome=outcome()).to_json()))
    assert run("report", str(out), str(other), "--json") == 0
    page = json.loads(capsys.readouterr().out)["page"]
    assert page == str(tmp_path / "report.html")


def test_an_advice_and_a_study_have_no_page_together(out, tmp_path, capsys):
    write_study(tmp_path / "study")
    message = refused(capsys, "report", str(out), str(tmp_path / "study"))
    assert message.startswith("`FOLDER` must be of one kind where several are given: runs, advice, or studies with ")
    assert f", got advice in '{out}', study in '{tmp_path / 'study'}'; give what" in message


def test_the_report_of_an_unfinished_one(out, capsys):
    (out / "advice.json").unlink()
    message = refused(capsys, "report", str(out))
    assert "which is not finished: advice.json is missing; the adabatch advise command that wrote" in message


def test_an_interrupt_while_the_advice_is_written_says_how_to_go_on(out, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("adabatch.lab.cli.advise._write", interrupted)
    assert run(*QUICK, "--out", str(out)) == 130
    assert capsys.readouterr().err.endswith(f"the same command goes on in {out}\n")
