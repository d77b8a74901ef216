from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from tests.lab.training.checks import SMALL

from adabatch import policies
from adabatch.lab.training import RunConfig, on_top
from adabatch.lab.training import config as config_module
from adabatch.lab.training.config import GROWING, PANELS, SETTINGS


def test_the_tasks_settings_hold_unless_others_are_given():
    config = RunConfig.for_task("digits", lr=0.5)
    assert (config.task, config.model, config.batch_size, config.lr) == ("digits", "small_cnn", 16, 0.5)
    assert config.growth is None


def test_schedule_of_a_constant_and_of_a_growing_batch():
    config = RunConfig.for_task("digits", batch_size=128, every="20 epochs", max_batch_size=2048, epochs=100)
    assert config.plan(50_000).sizes == (128,)
    grown = replace(config, growth=2.0).plan(50_000)
    assert grown.sizes == (128, 256, 512, 1024, 2048)
    assert grown.starts_samples == tuple(k * 20 * 50_000 for k in range(5))


def test_json_round_trip():
    config = RunConfig.for_task("digits", growth=1.5, micro_batch_size=8, data="somewhere")
    assert RunConfig.from_json(config.to_json()) == config


def test_the_table_has_each_setting_as_the_fields_have_it():
    assert list(SETTINGS) == [each.name for each in fields(RunConfig)]
    assert (SETTINGS["lr"].kind, SETTINGS["lr"].optional) == (float, False)
    assert (SETTINGS["channels_last"].kind, SETTINGS["channels_last"].optional) == (bool, True)
    for name, setting in SETTINGS.items():
        assert setting.name == name
        assert setting.panel in PANELS
        assert setting.help.endswith("."), name


def unread(names):
    """Settings that no module of the training reads as `config.NAME` or, to make a schedule, as `settings["NAME"]`."""
    sources = [file.read_text() for file in Path(config_module.__file__).parent.glob("*.py")]
    forms = {name: re.compile(rf"config\.{name}\b|settings\[\"{name}\"\]") for name in names}
    return [name for name, form in forms.items() if not any(map(form.search, sources))]


def test_each_setting_is_read_where_it_acts():
    assert unread(["a_setting_without_effect"]) == ["a_setting_without_effect"]
    assert unread(SETTINGS) == []


def test_settings_of_earlier_run_folders_may_be_missing():
    config = RunConfig.for_task("digits")
    values = config.to_json()
    for name in (
        "rule",
        "growth_file",
        "policy",
        "drop_last",
        "precision",
        "channels_last",
        "compile",
        "cuda_graphs",
        "workers",
        "save_every",
        "compress",
        "transition",
        "decay_biases",
        "label_smoothing",
        "zero_init",
        "last_batch_norm",
    ):
        del values[name]
    assert RunConfig.from_json(values) == config
    del values["threads"]
    with pytest.raises(ValueError, match="`config` must have the settings task, model"):
        RunConfig.from_json(values)


def test_the_processes_wanted_are_in_the_plan():
    config = RunConfig.for_task("digits", growth=2.0, world_sizes="0:1 64:4")
    plan = config.plan(1437)
    assert {plan.batch_size_at(clock): plan.world_size_at(clock) for clock in plan.starts_samples} == {
        16: 1, 32: 1, 64: 4, 128: 4, 256: 4,
    }  # fmt: skip
    assert config.differences(RunConfig.for_task("digits", growth=2.0)) == {}


def test_the_largest_batch_is_named_as_the_setting_is():
    config = RunConfig.for_task("digits", rule="smith", lr_schedule="cosine", batch_size=200)
    with pytest.raises(
        ValueError, match="`max_batch_size` must be given where the start, 200, is above a tenth of the"
    ):
        config.plan(1437)


@pytest.mark.timeout(20)
def test_millions_of_epochs_are_checked_at_once():
    RunConfig.for_task("digits", epochs=10**7, growth=2.0, lr_schedule="warmup:5+cosine").check_lr(1437)


def test_differences_name_the_settings():
    config = RunConfig.for_task("digits")
    assert config.differences(config) == {}
    other = replace(config, lr=0.2, device="cpu", data="elsewhere", workers=3, save_every="5 min")
    assert replace(config, seed=3, lr=0.1).differences(other) == {"lr": (0.1, 0.2), "seed": (3, 0)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"growth": 1.0}, "`growth` must be greater than 1, got 1.0; leave it out"),
        ({"growth": 0.5}, "`growth` must be greater than 1, got 0.5"),
        ({"growth": 2.0, "max_batch_size": 8}, "`max_batch_size` must be at least `batch_size` = 16, got 8"),
        ({"every": "0"}, "`every` must be longer than 0, got '0'"),
        ({"every": "0 samples"}, "`every` must be longer than 0"),
        ({"every": "4 parsecs"}, "`every` must be in epochs, samples, updates, tokens, got 'parsecs'"),
        ({"every": "4 tokens"}, "`every` must be one of epochs, samples, updates, got 'tokens'"),
        ({"evaluate_every": "0"}, "`evaluate_every` must be longer than 0"),
        ({"save_every": "0 min"}, "`save_every` must be longer than 0, got '0 min'"),
        ({"save_every": "5m"}, "`save_every` must say what '5m' is, minutes or millions; write a time such as '5 min'"),
        ({"save_every": "4 tokens"}, "`save_every` must be one of epochs, samples, updates, got 'tokens'"),
        ({"world_sizes": "0:0"}, "`world_sizes` must be at least 1, got 0"),
        ({"world_sizes": "0:1 64:4 32:2"}, "`world_sizes` must have increasing thresholds, got 32 samples after 64"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"micro_batch_size": 0}, "`micro_batch_size` must be at least 1, got 0"),
        ({"max_batch_size": 0}, "`max_batch_size` must be at least 1"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"threads": 0}, "`threads` must be at least 1"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"lr": 0.0}, "`lr` must be greater than 0"),
        ({"lr": float("nan")}, "`lr` must be finite"),
        ({"lr": 1e308}, r"`lr` must be less than 1e\+35, got 1e\+308; float32 ends near there; take a smaller one"),
        ({"momentum": 1.0}, "`momentum` must be less than 1"),
        ({"weight_decay": -1.0}, "`weight_decay` must be at least 0"),
        (
            {"optimizer": "lion"},
            "`optimizer` must be one of sgd, .*, lamb, got 'lion'",
        ),
        (
            {"growth": 2.0, "optimizer": "adam"},
            r"`coupling` must suit the optimizer, linear was derived for sgd, .*, lars, got 'adam'; .* insist with",
        ),
        (
            {"rule": "seesaw", "coupling": "sqrt"},
            "`rule` seesaw brings the coupling sqrt, which must suit the optimizer, sqrt was derived for adam, adamw, ",
        ),
        ({"seed": 2**63}, "`seed` must be at most 9,223,372,036,854,775,807, got 9223372036854775808"),
        ({"threads": 10**8}, "`threads` must be at most 1,024, got 100000000"),
        ({"coupling": "cubic"}, "`coupling` must be one of .*linear.*, got 'cubic'"),
        ({"device": "tpu"}, "`device` must be one of auto, cpu, cuda, cuda:N, mps, got 'tpu'"),
        ({"model": "vgg"}, "`model` must be one of small_cnn.*, got 'vgg'"),
        ({"lr_schedule": "step"}, "`lr_schedule` must be a schedule, got 'step'"),
    ],
)
def test_bad_values(settings, message):
    with pytest.raises(ValueError, match=message):
        RunConfig.for_task("digits", **settings)


@pytest.mark.parametrize("settings", [{"batch_size": 1.5}, {"batch_size": True}, {"every": 4}, {"lr": "high"}])
def test_bad_kinds(settings):
    with pytest.raises(TypeError, match=f"`{next(iter(settings))}` must be"):
        RunConfig.for_task("digits", **settings)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"`task` must be one of digits, mnist, fashion_mnist.*, got 'digts'"):
        RunConfig.for_task("digts")
    with pytest.raises(TypeError, match=r"`settings` must be among .*, got batchsize"):
        RunConfig.for_task("digits", batchsize=16)
    with pytest.raises(ValueError, match="`config` must have the settings task, model"):
        RunConfig.from_json({"task": "digits"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1438, "max_batch_size": 2000}, "`batch_size` must be at most the 1,437 samples .*, got 1,438"),
        ({"micro_batch_size": 2000}, "`micro_batch_size` must be at most the 1,437 samples .*, got 2,000"),
        (
            {"growth": 4.0, "every": "1", "max_batch_size": None},
            "`growth` must not take the batch above the 1,437 samples .*; set `max_batch_size`",
        ),
    ],
)
def test_batches_above_the_data_set(settings, message):
    config = RunConfig.for_task("digits", **settings)
    with pytest.raises(ValueError, match=message):
        config.plan(1437)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"coupling": "power(400)"},
            r"got 1.29e\+119 with batches of 32 in epoch 2; take a smaller `lr`, another `lr_sc",
        ),
        (
            {"lr": 2e34, "lr_schedule": "step:2:3", "growth": None},
            r"got 1.6e\+35 with batches of 16 in epoch 9; take a",
        ),
        ({"lr": 9e34}, r"got 1.8e\+35 with batches of 32 in epoch 2"),
        ({"lr": 9e34, "lr_schedule": "step:0.5:1"}, None),
        ({"lr": 9e34, "coupling": "none"}, None),
        ({"lr": 9e34, "growth": None}, None),
    ],
)
def test_an_lr_in_force_beyond_float32(settings, message):
    usual = {"growth": 2.0, "every": "2 epochs", "epochs": 10, "lr": 0.05, "lr_schedule": "constant"}
    config = RunConfig.for_task("digits", **{**usual, **settings})
    if message is None:
        config.check_lr(1437)
    else:
        with pytest.raises(ValueError, match="`lr` must stay below 1e.35 with its schedule and coupling, " + message):
            config.check_lr(1437)


def test_the_optimizers_own_settings_hold_unless_others_are_given():
    adam = RunConfig.for_task("mnist", optimizer="adam")
    assert (adam.lr, adam.epochs, adam.weight_decay) == (0.001, 10, 0.0)
    assert RunConfig.for_task("mnist", optimizer="adam", lr=0.5).lr == 0.5
    assert RunConfig.for_task("mnist").lr == RunConfig.for_task("mnist", optimizer="nesterov").lr == 0.02


def test_a_data_folder_is_text():
    with pytest.raises(TypeError, match="`data` must be text, the name of a folder, got 5"):
        RunConfig.for_task("digits", data=5)


# Settings on top of others.


@pytest.mark.parametrize(
    ("base", "given", "expected"),
    [
        ({"lr": 0.5}, {"lr": 0.1, "seed": 1}, {"lr": 0.1, "seed": 1}),
        ({"growth": 2.0}, {"rule": "smith"}, {"growth": None, "rule": "smith", "growth_file": None, "policy": None}),
        (
            {"rule": "smith", "coupling": "linear"},
            {"growth": 2.0},
            {"growth": 2.0, "rule": None, "growth_file": None, "policy": None, "coupling": "linear"},
        ),
        (
            {"coupling": "linear"},
            {"rule": "seesaw"},
            {"growth": None, "rule": "seesaw", "growth_file": None, "policy": None},
        ),
        (
            {"growth": 2.0, "every": "9", "coupling": "sqrt"},
            {"policy": "noise-scale:1"},
            {"growth": None, "rule": None, "growth_file": None, "policy": "noise-scale:1", "coupling": "sqrt"},
        ),
        (
            {"coupling": "sqrt", "momentum": 0.0},
            {"policy": "cabs:0"},
            {"growth": None, "rule": None, "growth_file": None, "policy": "cabs:0", "momentum": 0.0},
        ),
        ({"lr": 0.5}, {"optimizer": "adam"}, {"lr": 0.001, "optimizer": "adam"}),
        ({"lr": 0.5}, {"optimizer": "adam", "lr": 0.1}, {"lr": 0.1, "optimizer": "adam"}),
        ({"lr": 0.5}, {"optimizer": "nesterov"}, {"lr": 0.5, "optimizer": "nesterov"}),
        ({"lr": 0.5, "optimizer": "adam"}, {"optimizer": "sgd"}, {"lr": 0.02, "optimizer": "sgd"}),
        ({"lr": 0.5, "optimizer": "adam"}, {"optimizer": "adamw"}, {"lr": 0.5, "optimizer": "adamw"}),
    ],
)
def test_settings_on_top_of_others(base, given, expected):
    before = dict(base)
    assert on_top(base, given, task="mnist") == expected
    assert base == before


def test_another_network_brings_its_own_lr():
    assert on_top({"lr": 0.5}, {"model": "lstm"}, task="gpt-tiny") == {"lr": 0.003, "model": "lstm"}
    assert on_top({"lr": 0.5, "model": "lstm"}, {"model": "lstm"}, task="gpt-tiny")["lr"] == 0.5
    assert on_top({}, {"model": "lstm", "lr": 0.2}, task="gpt-tiny")["lr"] == 0.2


# More epochs than a run was begun with.


def check_longer(schedule, *, epochs, to, passed, **settings):
    began = replace(SMALL, lr_schedule=schedule, epochs=epochs, **settings)
    replace(began, epochs=to).check_longer(began, epochs=passed)


@pytest.mark.parametrize("passed", [0, 1, 3, 4])
@pytest.mark.parametrize(
    "schedule", ["constant", "step:0.5:2", "milestones:0.2:1,3,9", "exponential:0.9", "warmup:2+step:0.5:2"]
)
def test_schedules_that_do_not_know_their_length(schedule, passed):
    check_longer(schedule, epochs=4, to=9, passed=passed)


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "warmup:2+cosine"])
def test_schedules_that_do(schedule):
    check_longer(schedule, epochs=4, to=4, passed=4)
    check_longer(schedule, epochs=4, to=9, passed=0)  # the first LR is all that was used yet
    for passed in (1, 2, 4):
        message = (
            f"`epochs` must stay 4, got 9: the LRs of `lr_schedule` {schedule} up to epoch {passed} depend on the "
            "length of the training; leave it out, or start a new run of that length"
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            check_longer(schedule, epochs=4, to=9, passed=passed)


def test_a_decay_at_the_end_may_be_put_off_until_it_begins():
    for passed in (0, 4, 7):
        check_longer("wsd:2", epochs=10, to=20, passed=passed)
    for passed in (8, 9, 10):
        with pytest.raises(ValueError, match=f"`lr_schedule` wsd:2 up to epoch {passed} depend on the length"):
            check_longer("wsd:2", epochs=10, to=20, passed=passed)


WAYS = {
    "growth": 2.0, "rule": "smith", "growth_file": '{"kind":"constant","batch_size":32}', "policy": "noise-scale:1",
}  # fmt: skip


@pytest.mark.parametrize("name", GROWING)
def test_a_way_to_grow_takes_the_place_of_others_and_can_be_left_out(name):
    config = RunConfig.for_task("digits", lr_schedule="cosine", **{name: WAYS[name]})
    assert (config.grows, config.constant().grows) == (True, False)
    assert config.constant().schedule().describe() == "constant at the loader's batch size"
    for other in set(GROWING) - {name}:
        found = on_top({other: WAYS[other]}, {name: WAYS[name]}, task="digits")
        assert (found[name], found[other]) == (WAYS[name], None)
        with pytest.raises(ValueError, match=r"`\w+` must come without `\w+`"):
            replace(config, **{other: WAYS[other]})


# Policies.


def test_the_sizes_of_a_policy_are_known_and_its_plan_is_not():
    config = RunConfig.for_task("digits", policy="noise-scale:1,factor=4", max_batch_size=100)
    assert config.sizes(1437) == config.schedule().sizes(16) == (16, 64, 100)
    assert config.schedule() == policies.noise_scale(1.0, maximum=100, factor=4)
    with pytest.raises(
        ValueError, match="`policy` must be left out where all sizes are needed ahead, got noise-scale:1"
    ):
        config.plan(1437)
    growing = RunConfig.for_task("digits", growth=2.0, every="1", epochs=3)
    assert growing.sizes(1437) == growing.plan(1437).sizes == (16, 32, 64)
    assert config.constant().sizes(1437) == (16,)


def test_equal_policies_are_equal_settings():
    config = RunConfig.for_task("digits", policy="noise_scale")
    assert config == RunConfig.for_task("digits", policy=" noise-scale:1.00 ")
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_policy_brings_its_own_coupling():
    assert RunConfig.for_task("gpt-tiny", policy="noise-scale").coupling == "sqrt"
    assert RunConfig.for_task("digits", policy="noise-scale").coupling == "linear"
    assert RunConfig.for_task("digits", policy="cabs", momentum=0.0).coupling == "none"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"max_batch_size": 8},
            "`max_batch_size` must be at least `batch_size` = 16, got 8; raise it or start smaller",
        ),
        ({"max_batch_size": None}, "`max_batch_size` must be given with a policy, as its largest batch size, got none"),
        ({"batch_size": 1}, "`batch_size` must be at least 2 with a policy, since a batch is measured in parts, got 1"),
        ({"every": "3"}, "`every` must come without `policy`, got both; the policy decides when the batch grows"),
        ({"world_sizes": "0:2"}, "`world_sizes` must come without `policy`, got both; the policy decides"),
        ({"compile": True}, "`compile` must come with `drop_last` under a policy, got it alone; the last batch"),
        (
            {"fsdp": True, "precision": "float64"},
            "`precision` must not be float64 with `fsdp` under a policy, got both;",
        ),
        ({"optimizer": "adam"}, "`coupling` must suit the optimizer, linear was derived for sgd, "),
        ({"policy": "cabs"}, "`policy` 'cabs' was derived for SGD without momentum, got a momentum of 0.9; use"),
        (
            {"policy": "cabs", "optimizer": "adam"},
            "`policy` 'cabs' was derived for SGD without momentum, got Adam; use",
        ),
        (
            {"policy": "cabs", "momentum": 0.0, "coupling": "linear"},
            "`coupling` must be 'none' under the policy 'cabs'",
        ),
        ({"policy": 1}, "`policy` must be text, got 1; write for example noise-scale:1"),
    ],
)
def test_a_policy_that_does_not_fit(given, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        RunConfig.for_task("digits", **{"policy": "noise-scale", **given})


def test_a_policy_and_the_data():
    config = RunConfig.for_task("digits", policy="noise-scale", max_batch_size=5000)
    with pytest.raises(
        ValueError, match="`max_batch_size` must be at most the 1,437 samples of the data set, got 5,000"
    ):
        config.check_lr(1437)
    config = RunConfig.for_task("digits", policy="noise-scale", max_batch_size=160, lr=1.2e34)
    with pytest.raises(
        ValueError, match=r"`lr` must stay below 1e\+35 .* got 1.2e\+35 with batches of 160 in epoch 0; "
    ):
        config.check_lr(1437)
