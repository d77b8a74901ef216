"""Where the settings of a run come from: the task's defaults for the optimizer, a preset, a file, options on top."""

from __future__ import annotations

import inspect
import json
import os
import re

import pytest
import torch
from tests.lab.cli.checks import QUICK, refused, run

from adabatch import couplings
from adabatch.lab import tasks
from adabatch.lab.cli import _options
from adabatch.lab.cli import train as train_command
from adabatch.lab.training import RunConfig, optimizers, saved_config, train
from adabatch.lab.training.config import SETTINGS


def test_adam_gets_a_learning_rate_of_its_own(tmp_path):
    out = tmp_path / "run"
    assert run("train", "digits", *QUICK, "--optimizer", "adam", "--quiet", "--out", str(out)) == 0
    config = json.loads((out / "config.json").read_text())
    assert (config["optimizer"], config["lr"]) == ("adam", 0.002)


def options_of(command):
    """For each option of a command the metadata that typer shows, by the name of the parameter."""
    parameters = inspect.signature(command).parameters.values()
    return {each.name: each.annotation.__metadata__[0] for each in parameters}


def test_every_setting_is_an_option_with_its_own_help():
    shown = options_of(train_command.command)
    assert set(SETTINGS) < set(shown)
    for name, setting in SETTINGS.items():
        if name not in ("task", "lr", "micro_batch_size"):  # which say more there
            found = shown[name]
            assert (found.help, found.metavar, found.rich_help_panel) == (setting.help, setting.metavar, setting.panel)
            assert found.default == (setting.flags or f"--{name.replace('_', '-')}"), "which typer reads as the flags"


def test_the_help_says_the_learning_rates_that_the_tasks_have():
    option, said = options_of(train_command.command)["lr"], {}
    for part in option.help.partition("of SGD and of Adam: ")[2].rstrip(".").split("; "):
        names, rates, network, others = re.fullmatch(r"(.*?) ([\d.]+, [\d.]+)(?: \((\w+) (.*)\))?", part).groups()
        for name in names.split(" and "):
            said |= dict.fromkeys(((name, model) for model in tasks.get(name).models), rates)
            said |= {} if network is None else {(name, network): others}
    assert {name for name, _ in said} == set(tasks.names())
    for (name, model), rates in said.items():
        sgd, adam = map(float, rates.split(", "))
        kinds = ("sgd", "nesterov", "adam", "adamw")
        found = {kind: RunConfig.for_task(name, model=model, optimizer=kind).lr for kind in kinds}
        assert found == {"sgd": sgd, "nesterov": sgd, "adam": adam, "adamw": adam}, (name, model)


def test_the_help_says_which_coupling_there_is_without_one():
    help, fitting = options_of(train_command.command)["coupling"].help, {}
    for name, suited in re.findall(r"(\w+) \(for (.*?)\)", help):
        fitting[name] = suited.split(", ")
        known = couplings.get(name).optimizers
        assert fitting[name] == [each for each, kind in optimizers.CLASSES.items() if kind in known], name
    usual, others = re.search(r"else, with any optimizer, (\w+), for (.*?);", help).groups()
    said = dict.fromkeys(tasks.names(), usual) | dict(part.split(" ") for part in others.split(", "))
    assert set(said.values()) == set(fitting)
    for name, coupling in said.items():
        for optimizer in optimizers.NAMES:
            assert RunConfig.for_task(name, optimizer=optimizer).coupling == coupling
            if optimizer not in fitting[coupling]:
                with pytest.raises(ValueError, match=f"{coupling} was derived for {', '.join(fitting[coupling])}"):
                    RunConfig.for_task(name, optimizer=optimizer, growth=2.0)
    assert "with --rule the rule's own" in help
    assert RunConfig.for_task("mnist", optimizer="adam", rule="seesaw").coupling == "sqrt"


def test_a_preset_with_another_optimizer_has_the_tasks_learning_rate_for_it():
    def merged(**given):
        return _options.merged_settings("cifar10", given, preset="adabatch-multi", file=None)[1]

    assert merged()["lr"] == 0.8
    found = merged(optimizer="adamw")
    assert (found["lr"], found["batch_size"]) == (0.001, 1024)
    assert merged(optimizer="adamw", lr=0.5)["lr"] == 0.5
    assert merged(optimizer="nesterov")["lr"] == 0.8


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run's folder."""
    out = tmp_path_factory.mktemp("finished") / "run"
    growth = ["--growth", "2", "--every", "1", "--seed", "5", "--lr", "0.01", "--max-batch-size", "32"]
    assert run("train", "digits", *QUICK, *growth, "--quiet", "--out", str(out)) == 0
    return out


@pytest.mark.parametrize("name", ["", "config.json"])
def test_a_runs_own_settings_give_the_same_run(finished, tmp_path, capsys, name):
    out = tmp_path / "again"
    assert run("train", "--config", str(finished / name), "--out", str(out), "--json") == 0
    assert saved_config(out) == saved_config(finished)
    before = json.loads((finished / "result.json").read_text())
    assert json.loads(capsys.readouterr().out)["test_right"] == before["test_right"]


def test_options_go_on_top_of_a_file(finished, tmp_path):
    out = tmp_path / "other"
    options = ["--seed", "6", "--growth", "4", "--epochs", "1", "--momentum", "0.5"]
    assert run("train", "digits", "--config", str(finished), *options, "--quiet", "--out", str(out)) == 0
    expected = {**saved_config(finished).to_json(), "seed": 6, "growth": 4.0, "epochs": 1, "momentum": 0.5}
    assert saved_config(out).to_json() == expected


def test_a_file_may_hold_some_settings_and_another_task_be_given(tmp_path, capsys):
    file, out = tmp_path / "mine.json", tmp_path / "run"
    file.write_text(json.dumps({"task": "mnist", "model": "mlp", "epochs": 1, "optimizer": "adamw"}))
    assert run("train", "digits", "--config", str(file), "--device", "cpu", "--json", "--out", str(out)) == 0
    expected = RunConfig.for_task("digits", model="mlp", epochs=1, optimizer="adamw", device="cpu")
    assert saved_config(out) == expected
    assert json.loads(capsys.readouterr().out)["test_accuracy"] == train(expected).test_accuracy


def test_another_way_to_grow_and_another_optimizer_than_the_files(finished, tmp_path):
    out = tmp_path / "run"
    rule = ["--rule", "seesaw", "--optimizer", "adam", "--lr-schedule", "cosine"]
    assert run("train", "--config", str(finished), *rule, "--quiet", "--out", str(out)) == 0
    config = saved_config(out)
    assert (config.growth, config.rule, config.coupling, config.max_batch_size) == (None, "seesaw", "sqrt", 32)
    assert (config.lr, config.seed) == (0.002, 5)


def test_a_comparison_from_a_file(finished, tmp_path, capsys):
    options = ["--arm", "adaptive", "--seeds", "1", "--epochs", "2", "--json"]
    assert run("compare", "--config", str(finished), *options, "--out", str(tmp_path / "out")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seeds"] == [5]
    assert found["settings"]["adaptive"] == {
        name: value for name, value in saved_config(finished).to_json().items() if name != "seed"
    }
    assert found["settings"]["fixed-small"]["growth"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "`--config` must hold JSON, got a damaged {file} (Expecting property name"),
        ("[" * 100_000, "`--config` must hold JSON, got a damaged {file} (maximum recursion depth"),
        ("[1, 2]", "`--config` must hold settings by name, got {file} with '[1, 2]'; give a run folder"),
        ('{"task": "digits", "lr": 0.1, "growht": 2}', "`--config` must hold settings of a run, got 'growht' in "),
        ('{"task": "digits", "growht": 2}', "got 'growht' in {file}; there are task, model, "),
        ('{"task": "digits", "lr": [1]}', "`--config` must have one value for lr, got '[1]' in {file}"),
        ('{"task": "digits", "lr": "high"}', "`--lr` must be a number, got 'high'; what is not given is as in "),
        (
            '{"task": "digits", "lr": -1}',
            "`--lr` must be greater than 0, got -1; what is not given is as in `--config` ",
        ),
        ('{"task": "digits", "data": 5}', "`--data` must be text, the name of a folder, got 5; what is not given"),
        ('{"task": "digts"}', "`TASK` must be one of digits, mnist"),
        ('{"task": 5}', "`TASK` must be one of digits, mnist"),
        ('{"lr": 0.1}', "`TASK` must be given where the file has none, got none in {file}"),
        ('{"task": "digits", "growth": NaN}', "`--growth` must be finite, got nan; leave it out for a constant batch"),
    ],
)
def test_a_file_that_is_wrong(tmp_path, capsys, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(content)
    for command in ("train", "compare"):
        assert message.replace("{file}", "mine.json") in refused(capsys, command, "--config", "mine.json")
    assert os.listdir(tmp_path) == ["mine.json"]


def test_places_that_hold_no_settings(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert refused(capsys, "train", "--config", "empty").startswith(
        "`--config` must be there, got 'empty/config.json', which is not; give a run folder, its config.json, or a file"
    )
    assert "`--config` must be there, got 'none.json', which is not" in refused(
        capsys, "train", "--config", "none.json"
    )
    os.mkfifo(tmp_path / "pipe")
    assert "`--config` must be a file, got 'pipe', which is something else" in refused(
        capsys, "train", "--config", "pipe"
    )
    (tmp_path / "latin.json").write_bytes(b'{"task": "\xe9"}')
    assert "`--config` must hold JSON, got a damaged latin.json ('utf-8' codec" in refused(
        capsys, "train", "--config", "latin.json"
    )
    (tmp_path / "compared").mkdir()
    (tmp_path / "compared" / "comparison.json").write_text("{}")
    assert refused(capsys, "train", "--config", "compared") == (
        "`--config` must be of one run, got the comparison 'compared'; each run in it has one: compared/runs/ARM/seed-0"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume"], "`--config` must come without `--resume`, got both; the settings of a run that goes on are in"),
        (["--preset", "adabatch"], "`--config` must come without `--preset`, got both; take one, and what differs as"),
        (["--rule", "smith", "--every", "3"], "`--every` must come with `--growth`, got it alone; a rule grows where"),
    ],
)
def test_what_does_not_go_with_a_file(finished, capsys, options, message):
    assert message in refused(capsys, "train", "--config", str(finished), *options)


def test_growth_that_is_in_neither_the_file_nor_the_options(tmp_path, capsys):
    file = tmp_path / "constant.json"
    file.write_text(json.dumps(RunConfig.for_task("digits").to_json()))
    message = refused(capsys, "train", "--config", str(file), "--every", "3")
    assert message == "`--every` must come with `--growth`, got it alone; without it the batch is constant"


def test_a_run_that_goes_on_knows_its_task(finished, capsys):
    assert run("train", "--out", str(finished), "--resume", "--json") == 0
    assert json.loads(capsys.readouterr().out)["task"] == "digits"


@pytest.mark.parametrize("command", ["train", "compare", "probe"])
@pytest.mark.parametrize("device", ["mps", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_anything_starts(tmp_path, capsys, monkeypatch, command, device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADABATCH_DATA", str(tmp_path / "nowhere"))  # it would be said if it were looked for
    message = refused(capsys, command, "mnist", "--device", device)
    assert message.startswith(f"`--device` must be there, got '{device}', and torch sees ")
    assert message.endswith("auto or cpu")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("device", ["cuda:", "cuda:-1", "cuda:x", "cuda:01", "cuda:10000", "mps:0", "cpu:0", "CPU", ""])
def test_a_device_that_is_none(capsys, device):
    message = refused(capsys, "train", "digits", "--device", device)
    assert message == f"`--device` must be one of auto, cpu, cuda, cuda:N, mps, got {device!r}"


def test_none_switches_off_what_a_preset_has_switched_on(capsys):
    """Each part of the toolbox for very large batches goes by a flag of its own."""
    without = ["--optimizer", "sgd", "--lr-schedule", "constant", "--no-last-batch-norm", "--compress", "none"]
    assert run("train", "digits", "--preset", "akiba-small", *without, "--epochs", "1", "--json", "--quiet") == 0
    found = json.loads(capsys.readouterr().out)["config"]
    assert (found["optimizer"], found["lr_schedule"], found["lr"]) == ("sgd", "constant", 0.4)
    assert (found["last_batch_norm"], found["compress"]) == (False, None)


def test_a_folder_may_be_called_none(tmp_path, capsys):
    assert run("train", "mnist", "--data", "none", "--out", str(tmp_path / "run")) == 2
    assert "none" in capsys.readouterr().err
