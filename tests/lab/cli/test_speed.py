"""`--tune`: what it prints, saves and keeps when a run or a comparison goes on; and what is known to be faster."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tests.lab.cli.checks import refused, run
from tests.lab.test_tuning import TRIED, TUNING

from adabatch.lab.cli import _speed
from adabatch.lab.study import tune as tuning
from adabatch.lab.training import RunConfig, measured, saved_config, saved_result
from adabatch.lab.training.ranks import Ranks
from adabatch.lab.tuning import Tuning

SMALL = ["--model", "small_cnn", "--epochs", "2", "--device", "cpu", "--batch-size", "64", "--quiet"]


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setitem(tuning.tune.__kwdefaults__, "seconds", 0.2)


@pytest.fixture
def chosen(monkeypatch):
    """A measurement that takes the layout; returns what it was called with."""
    calls = []

    def tune(config, *, fixed, data, tell):
        calls.append((config, set(fixed), tell is not None))
        found = {name: value for name, value in {"channels_last": True}.items() if name not in fixed}
        return replace(TUNING, settings=found, tried=(replace(TRIED, taken=bool(found)),))

    monkeypatch.setattr(tuning, "tune", tune)
    return calls


def test_a_run_is_measured_and_says_so(tmp_path, capsys):
    """The real one, in which whatever pays is taken."""
    out = tmp_path / "run"
    assert run("train", "digits", *SMALL, "--tune", "--out", str(out)) == 0
    printed = capsys.readouterr()
    assert "Speed of digits, small_cnn on cpu with a switch against without, 95 %" in printed.out
    assert "channels last" in printed.out
    assert "bf16, not measured: it changes numbers" in printed.out
    assert "compile, not measured: the training takes about" in printed.out
    values = json.loads((out / "tune.json").read_text())
    assert list(Tuning.faults(values)) == []
    assert saved_config(out).channels_last is values["settings"].get("channels_last")
    assert saved_result(out) is not None


def test_a_run_that_goes_on_keeps_its_choice(tmp_path, capsys, chosen):
    out = tmp_path / "run"
    assert run("train", "digits", *SMALL, "--tune", "--out", str(out), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["tune"] == json.loads((out / "tune.json").read_text())
    assert printed["config"]["channels_last"] is True
    assert (out / "checkpoints" / "last.pt").exists()
    for again in (["--tune"], []):
        assert run("train", "digits", "--out", str(out), "--resume", "--epochs", "3", "--quiet", *again) == 0
        printed = capsys.readouterr()
        said = "note: --tune measures nothing, since a run that goes on keeps its settings of speed\n"
        assert (said in printed.err) is bool(again)
        assert saved_config(out).channels_last is True
    assert len(chosen) == 1


def test_a_given_option_stays(tmp_path, capsys, chosen):
    out = tmp_path / "run"
    assert run("train", "digits", *SMALL, "--tune", "--channels-first", "--out", str(out)) == 0
    ((config, fixed, told),) = chosen
    assert config.channels_last is False
    assert "channels_last" in fixed
    assert "compile" not in fixed
    assert not told, "quiet"
    assert saved_config(out).channels_last is False
    assert "takes nothing" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "compare"])
def test_what_a_file_says_stays(command, tmp_path, capsys, chosen):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"task": "digits", "precision": "float32", "compile": False}))
    more = ["--seeds", "2", "--every", "1"] if command == "compare" else []
    given = [word for word in SMALL if word != "--quiet"]
    run(command, "--config", str(file), *given, *more, "--tune", "--out", str(tmp_path / "run"), "--quiet")
    (_, fixed, _) = chosen[0]
    assert {"precision", "compile"} <= set(fixed)
    assert "channels_last" not in fixed


def test_a_run_that_torchrun_restarts_keeps_what_was_known(tmp_path, monkeypatch):
    config = RunConfig.for_task("cifar10", model="resnet20", device="cpu")
    (tmp_path / "config.json").write_text(json.dumps(replace(config, precision="bf16").to_json()))
    rows = (measured.Gain("cpu", ("resnet20",), "precision", "bf16", {128: 1.5}, "none.json"),)
    monkeypatch.setattr(measured, "GAINS", rows)
    choice = _speed.Choice(wanted=False, fixed=[], ranks=Ranks(), as_json=False, show=False)
    assert choice.for_run(config, None, begun=tmp_path).precision == "bf16"
    fixed = _speed.Choice(wanted=False, fixed=["precision"], ranks=Ranks(), as_json=False, show=False)
    assert fixed.for_run(config, None, begun=tmp_path).precision == "float32"


def test_a_folder_that_is_taken_is_refused_before_measuring(tmp_path, capsys, chosen):
    out = tmp_path / "run"
    assert run("train", "digits", *SMALL, "--out", str(out)) == 0
    capsys.readouterr()
    assert "`--out` must not hold a run yet" in refused(capsys, "train", "digits", *SMALL, "--tune", "--out", str(out))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "plan.json").touch()
    message = refused(capsys, "train", "digits", *SMALL, "--tune", "--out", str(tmp_path / "other"))
    assert "`--out` must not hold a plan" in message
    assert chosen == []


ARMS = [
    "--seeds",
    "1",
    "--every",
    "1",
    "--max-batch-size",
    "128",
    "--arm",
    "adaptive",
    "--arm",
    "own: channels-last=false",
]


def test_all_arms_take_what_is_faster_and_the_same_command_goes_on(tmp_path, capsys, chosen):
    command = ["compare", "digits", *SMALL, *ARMS, "--tune", "--out", str(tmp_path)]
    assert run(*command, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tune"] == json.loads((tmp_path / "tune.json").read_text())
    layouts = {name: settings["channels_last"] for name, settings in found["settings"].items()}
    assert layouts == {"fixed-small": True, "adaptive": True, "own": False}, "an arm's own key stays"
    assert run(*command, "--json") == 0
    assert json.loads(capsys.readouterr().out) == found
    assert len(chosen) == 1, "measured once"
    without = [option for option in command if option != "--tune"]
    assert "`--out` holds a comparison of other settings" in refused(capsys, *without)


def test_a_comparison_without_it_does_not_go_on_with_it(tmp_path, capsys, chosen):
    command = ["compare", "digits", *SMALL, *ARMS, "--out", str(tmp_path)]
    assert run(*command) == 0
    capsys.readouterr()
    assert "`--tune` must come with a new comparison, got " in refused(capsys, *command, "--tune")
    assert "`--seeds` must" in refused(capsys, *command[:-1], str(tmp_path / "new"), "--tune", "--seeds", "0")
    assert chosen == []


def test_what_is_known_is_taken_where_nothing_is_given(monkeypatch, capsys):
    """As on a GPU with rows of its own in the table."""
    config = RunConfig.for_task("cifar10", model="resnet20", device="cpu")
    assert _speed.known_to_be_faster(config, fixed=[]) == {}, "the run takes the layout itself"
    rows = (measured.Gain("cpu", ("resnet20",), "compile", True, {128: 1.5}, "none.json"),)
    monkeypatch.setattr(measured, "GAINS", rows)
    assert _speed.known_to_be_faster(config, fixed=[]) == {"compile": True}
    assert _speed.known_to_be_faster(config, fixed=["compile"]) == {}
    decided = replace(config, policy="noise-scale:1")
    assert _speed.known_to_be_faster(decided, fixed=[]) == {}, "sizes are not all known"
    assert _speed.known_to_be_faster(replace(config, compile=True), fixed=[]) == {}, "no default"
    choice = _speed.Choice(wanted=False, fixed=[], ranks=Ranks(), as_json=False, show=False)
    assert choice.for_run(config, None, begun=None).compile is True
    assert capsys.readouterr().err == "note: measured to be faster on such a device, so taken: compile True\n"
    assert choice.kept() is None
    assert choice.with_tuning({"a": 1}) == {"a": 1}


@pytest.mark.gpu
def test_on_a_gpu(tmp_path, capsys):
    gpu = [option if option != "cpu" else "cuda" for option in SMALL]
    assert run("train", "digits", *gpu, "--tune", "--out", str(tmp_path / "run"), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tune"]["device_name"] == torch.cuda.get_device_name()
    assert found["config"]["precision"] == found["tune"]["settings"].get("precision", "float32")
