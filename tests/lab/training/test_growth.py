"""Growth as a schedule in a file says: the setting is the text of the schedule, and the file is needed once."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lab.training.checks import SMALL, same, small_data, weights, without_seconds
from tests.schedules.checks import schedules as drawn

from adabatch import schedules
from adabatch.lab import tasks
from adabatch.lab.training import Interrupted, RunConfig, on_top, read_settings, saved_config, train
from adabatch.lab.training.growth import LARGEST_FILE, batch_schedule, brought, file_text, schedule_of
from adabatch.units import epochs, samples, tokens

STEPS = schedules.steps({0: 16, samples(390): 32, samples(780): 64})
SEESAW = schedules.from_lr({0: 0.1, epochs(1): 0.05}, rule="seesaw", maximum=64)


def text_of(schedule, **layout):
    return json.dumps(schedule.to_json(), **layout)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a schedule into a file of the working folder; returns the file's name."""
    monkeypatch.chdir(tmp_path)

    def write(schedule, name="schedule.json"):
        (tmp_path / name).write_text(text_of(schedule, indent=2))
        return name

    return write


@settings(max_examples=60, deadline=None)
@given(schedule=drawn(units=("epochs", "samples", "updates")), batch_size=st.integers(1, 12))
def test_the_plan_is_that_of_the_schedule(schedule, batch_size):
    """Whatever the schedule is made of, and whatever the layout of its text."""
    settings = {} if schedule.initial is not None else {"batch_size": batch_size}
    if len(set(schedule.brought())) > 1:  # its parts bring different ones, so it must be said
        settings["coupling"] = "linear"
    config = RunConfig.for_task("digits", epochs=3, growth_file=text_of(schedule, indent=1, sort_keys=True), **settings)
    assert config.schedule() == schedule
    assert config.growth_file == file_text(config.growth_file) == text_of(schedule, separators=(",", ":"))
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    start = batch_size if schedule.initial is None else schedule.initial
    assert config.batch_size == start
    try:
        expected = schedule.plan(dataset_size=60, epochs=3, batch_size=start)
    except ValueError:
        with pytest.raises(ValueError, match="`growth_file` must fit a training of 3 epochs of 60 samples, got "):
            config.plan(60)
    else:
        assert config.plan(60) == expected


@pytest.mark.parametrize(
    "schedule",
    [
        STEPS,
        schedules.constant(),
        schedules.linear_ramp(64, over=epochs(2), start=16),
        schedules.clamp(schedules.geometric(2, every=epochs(1)), maximum=64),
        schedules.then(schedules.constant(16), schedules.geometric(2, every=epochs(1), maximum=64), after=epochs(1)),
        SEESAW,
        schedules.world_sizes(STEPS, "0:1 32:2"),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_any_schedule_may_be_in_the_file(written, schedule):
    config = RunConfig.for_task("digits", growth_file=written(schedule), coupling="none")
    assert (config.schedule(), config.grows) == (schedule, True)


def test_a_file_as_editors_write_it(written, tmp_path):
    name = written(STEPS)
    (tmp_path / "bom.json").write_text(text_of(STEPS, indent="\t") + "\r\n", encoding="utf-8-sig")
    assert file_text(name) == file_text("bom.json") == text_of(STEPS, separators=(",", ":"))
    assert schedule_of("bom.json") == STEPS


# The settings that it brings.


def test_the_batch_size_and_the_coupling_of_the_schedule(written):
    found = RunConfig.for_task("digits", growth_file=written(STEPS))
    usual = RunConfig.for_task("digits")
    assert (found.batch_size, found.coupling, found.max_batch_size) == (16, "linear", None)
    assert replace(found, growth_file=None, max_batch_size=usual.max_batch_size) == usual
    assert RunConfig.for_task("digits", growth_file=written(schedules.steps("0:40 500:80"))).batch_size == 40
    seesaw = {"growth_file": written(SEESAW), "optimizer": "adam"}
    assert RunConfig.for_task("digits", **seesaw).coupling == "sqrt"
    assert RunConfig.for_task("digits", **seesaw, batch_size=24).batch_size == 24, "which has no start of its own"
    assert RunConfig.for_task("digits", **seesaw, coupling="none").coupling == "none"


def test_a_schedule_that_brings_no_coupling_has_the_tasks(written):
    """`linear` is the library's default for such a schedule, and unfit for the optimizer of a language model."""
    for schedule in (schedules.steps({0: 16, tokens(10_000): 32}), schedules.constant(16)):
        config = RunConfig.for_task("gpt-tiny", growth_file=written(schedule))
        assert (config.coupling, config.optimizer) == ("sqrt", "adamw")
    tokens_each = tasks.get("gpt-tiny").tokens_per_sample
    config = RunConfig.for_task("gpt-tiny", growth_file=written(schedules.steps({0: 16, tokens(10_000): 32})))
    assert config.plan(1000).starts_samples == (0, -(-10_000 // tokens_each))


def test_parts_that_bring_different_couplings(written):
    mixed = schedules.then(schedules.steps({0: 16, epochs(1): 32}), SEESAW, after=epochs(2))
    with pytest.raises(ValueError, match="`coupling` must be given for a schedule whose parts bring different ones"):
        RunConfig.for_task("digits", growth_file=written(mixed))
    assert RunConfig.for_task("digits", growth_file=written(mixed), coupling="linear").coupling == "linear"


def test_on_top_of_other_settings_it_replaces_what_it_says_itself(written):
    base = {"growth": 2.0, "every": "3", "max_batch_size": 128, "batch_size": 24, "coupling": "none", "lr": 0.5}
    none = {"growth": None, "rule": None, "policy": None}
    text = file_text(written(STEPS))
    found = on_top(base, {"growth_file": "schedule.json"}, task="digits")
    assert found == {**none, "growth_file": text, "coupling": "none", "lr": 0.5}
    text = file_text(written(SEESAW))
    found = on_top(base, {"growth_file": "schedule.json", "coupling": "linear"}, task="digits")
    assert found == {**none, "growth_file": text, "batch_size": 24, "coupling": "linear", "lr": 0.5}
    found = on_top(base, {"growth_file": "schedule.json"}, task="digits")
    assert found == {**none, "growth_file": text, "batch_size": 24, "lr": 0.5}
    assert on_top({"growth_file": text}, {"growth_file": None}, task="digits") == {**none, "growth_file": None}


def test_what_ways_to_grow_bring():
    assert brought({}) == brought({"growth": 2.0}) == brought({"rule": None, "growth_file": None}) == {}
    assert brought({"rule": "smith"}) == {"max_batch_size": None, "coupling": "linear(any_optimizer=True)"}
    assert brought({"growth_file": text_of(SEESAW)}) == {"max_batch_size": None, "coupling": "sqrt"}
    assert brought({"growth_file": text_of(SEESAW), "coupling": "none"}) == {"max_batch_size": None}


def test_the_largest_batch_is_named_as_the_setting_is():
    with pytest.raises(ValueError, match="`max_batch_size` must be at least 1"):
        batch_schedule({"growth": 2.0, "every": "1", "max_batch_size": 0, "rule": None})


# A run of its own.


def config_of(name, **changes):
    kept = {each: getattr(SMALL, each) for each in ("model", "epochs", "lr", "lr_schedule", "device")}
    return RunConfig.for_task("digits", growth_file=name, **{**kept, **changes})


def test_a_run_trains_as_the_schedule_says(written, tmp_path):
    """The same batches as SMALL, which a factor makes: the same weights bit for bit."""
    train(config_of(written(STEPS)), tmp_path / "file", data=small_data())
    train(SMALL, tmp_path / "factor", data=small_data())
    assert same(weights(tmp_path / "file"), weights(tmp_path / "factor"))


def test_a_run_goes_on_without_its_file(written, tmp_path):
    name = written(STEPS)
    whole = train(config_of(name), data=small_data())

    def stop(now):
        if now.samples >= 500 and os.path.exists(name):
            os.unlink(name)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(config_of(name), tmp_path / "run", data=small_data(), progress=stop)
    saved = saved_config(tmp_path / "run")
    assert saved.schedule() == STEPS
    assert RunConfig.for_task(**read_settings(tmp_path / "run")) == saved
    resumed = train(saved, tmp_path / "run", data=small_data(), resume=True)
    assert without_seconds(resumed) == without_seconds(whole)


def test_the_same_text_goes_on_and_another_is_named(written, tmp_path):
    out = tmp_path / "run"
    train(config_of(written(STEPS)), out, data=small_data())
    (tmp_path / "again.json").write_text(text_of(STEPS, sort_keys=True))
    train(config_of("again.json"), out, data=small_data(), resume=True)
    other = schedules.steps("0:16 390:32")
    mine, theirs = (f"{each.describe()} ({each.fingerprint()[:8]})" for each in (other, STEPS))
    message = f"got others (now and saved): growth_file: {mine} and {theirs}; leave them out"
    with pytest.raises(ValueError, match=re.escape(message)):
        train(config_of(written(other)), out, data=small_data(), resume=True)


def test_schedules_of_one_description_are_told_apart(tmp_path):
    """The LR table is in no description."""
    other = replace(SMALL.constant(), every="1 epoch", max_batch_size=None, coupling="sqrt", optimizer="adam")
    falls = [schedules.from_lr({0: 0.1, epochs(1): lr}, rule="seesaw", maximum=64) for lr in (0.05, 0.04)]
    one, two = (replace(other, growth_file=text_of(each)) for each in falls)
    assert one.schedule().describe() == two.schedule().describe()
    train(one, tmp_path / "run", data=small_data())
    first, second = (each.fingerprint()[:8] for each in falls)
    with pytest.raises(ValueError, match=rf"growth_file: grown as .* \({second}\) and grown as .* \({first}\); leave"):
        train(two, tmp_path / "run", data=small_data(), resume=True)


def test_processes_wanted_are_named_once(written):
    name = written(schedules.world_sizes(STEPS, "0:1 32:2"))
    assert RunConfig.for_task("digits", growth_file=name).plan(1437).world_sizes == ((0, 1), (32, 2))
    with pytest.raises(ValueError, match=r"`growth_file` must fit .* \(schedule must name its world sizes once"):
        RunConfig.for_task("digits", growth_file=name, world_sizes="0:1 16:2").plan(1437)
    plan = RunConfig.for_task("digits", growth_file=written(STEPS), world_sizes="0:1 64:4").plan(1437)
    assert plan.world_sizes == ((0, 1), (64, 4))


def test_the_lr_in_force_is_checked_at_every_size(written):
    config = RunConfig.for_task("digits", growth_file=written(STEPS), lr=3e34, epochs=3, lr_schedule="constant")
    with pytest.raises(ValueError, match=r"`lr` must stay below 1e\+35 .* got 1.2e\+35 with batches of 64 in epoch 0"):
        config.check_lr(1437)


# What is refused.


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({"growth": 2.0}, "`growth` must come without `growth_file`, got both; the schedule in the file says how"),
        ({"rule": "smith"}, "`rule` must come without `growth_file`, got both"),
        ({"growth": 2.0, "rule": "smith"}, "`growth` must come without `growth_file`, got both"),
        ({"every": "3"}, "`every` must come without `growth_file`, got both"),
        ({"max_batch_size": 64}, "`max_batch_size` must come without `growth_file`, got both"),
        (
            {"batch_size": 32},
            "`growth_file` must be for `batch_size` = 32, got one for 16 (16, 32 from 390 samples, 64 from 780 "
            "samples); leave `batch_size` out, set it to 16, or take another file",
        ),
    ],
)
def test_what_does_not_go_with_a_file(written, beside, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        RunConfig.for_task("digits", growth_file=written(STEPS), **beside)


def test_defaults_of_the_task_are_nothing_given(written):
    usual = RunConfig.for_task("digits")
    assert (usual.every, usual.max_batch_size) == ("2 epochs", 256)
    found = replace(usual, growth_file=written(STEPS))
    assert (found.schedule(), found.growth_file) == (STEPS, file_text(text_of(STEPS)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must be a file, got 'bad.json', which is not there; look for its name"),
        (b"\xff\xfe{}", "must hold JSON text, got 'bad.json', which holds something else; write"),
        (b"0:16 390:32", "must hold a schedule as `to_json` gives it, got 'bad.json' (Extra data: line 1"),
        (b"", "must hold a schedule as `to_json` gives it, got 'bad.json' (Expecting value"),
        (b"[16, 32]", "got 'bad.json' (data must be a schedule with a kind, got [16, 32])"),
        (b'{"lr": 0.1, "b": 3}', "(data must be a schedule with a kind, got fields lr, b); write"),
        (b'{"count": 4, "unit": "epochs"}', "got 'bad.json' (data must be a schedule with a kind"),
        (b'{"kind": "cosine"}', "got 'bad.json' (kind must be one of clamp, constant, "),
        (b'{"kind": "constant", "size": 4}', "(data of kind constant must have the fields batch_size, got size)"),
        (b'{"kind": "constant", "batch_size": 0}', "got 'bad.json' (batch_size must be at least 1, got 0)"),
        (b'{"kind": "constant", "batch_size": "16"}', "(batch_size must be a whole number, got '16')"),
        (b'{"kind": "steps", "changes": [[0, 16, 3]]}', "got 'bad.json' ("),
        (b'{"kind": "steps", "changes": 3}', "got 'bad.json' ("),
        (b'{"kind": "steps", "changes": [[{"count": 1e999, "unit": "epochs"}, 16]]}', "got 'bad.json' ("),
        (b"[" * 100_000, "got 'bad.json' (more than 50 levels of values in each other)"),
        (b'{"kind": "constant", "batch_size": ' + b"1" * 5000 + b"}", "got 'bad.json' ("),
        (b'{"' + b"x" * 5000 + b'": 1}', "xxx...); write"),
    ],
    ids=lambda value: None if isinstance(value, str) or value is None else value[:40].decode("latin-1"),
)
def test_files_that_hold_no_schedule(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        RunConfig.for_task("digits", growth_file="bad.json")
    assert str(caught.value).startswith("`growth_file` must ")
    assert len(str(caught.value)) < 500


def test_findings_in_place_of_the_schedule_beside_them(tmp_path):
    (tmp_path / "schedule.json").write_text(text_of(STEPS))
    (tmp_path / "branch.json").write_text('{"task": "digits", "cells": []}')
    words = rf"got fields task, cells\); take {tmp_path / 'schedule.json'}, which is beside it$"
    with pytest.raises(ValueError, match=words):
        file_text(str(tmp_path / "branch.json"))
    (tmp_path / "schedule.json").write_text("{}")
    with pytest.raises(ValueError, match="; write json"):
        file_text(str(tmp_path / "schedule.json"))


def test_what_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (".", ""):
        with pytest.raises(ValueError, match=re.escape(f"must be a file, got {name!r} (a folder in place of a file)")):
            file_text(name)
    os.mkfifo("pipe")
    with pytest.raises(ValueError, match=r"must be a file, got 'pipe' \(a pipe in place of a file\)"):
        file_text("pipe")
    with pytest.raises(ValueError, match=r"`growth_file` must be a file"):
        file_text("a\0b")
    with pytest.raises(
        ValueError, match=r"`growth_file` must be a file that can be read, got 'xxx.*File name too long"
    ):
        file_text("x" * 5000)
    with pytest.raises(TypeError, match="`growth_file` must be text, the name of a file, got 5"):
        RunConfig.for_task("digits", growth_file=5)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("huge.json", "wb") as file:
        file.truncate(100 * 10**6)
    with pytest.raises(
        ValueError, match=r"`growth_file` must have at most 1,048,576 bytes, got 'huge\.json', which has 100,0"
    ):
        file_text("huge.json")
    text = text_of(STEPS)
    (tmp_path / "most.json").write_text(text + " " * (LARGEST_FILE - len(text)))
    assert schedule_of("most.json") == STEPS
    (tmp_path / "most.json").write_text(text + " " * (LARGEST_FILE - len(text) + 1))
    with pytest.raises(ValueError, match="must have at most 1,048,576 bytes"):
        file_text("most.json")


def test_text_in_place_of_a_file_is_checked_as_well():
    with pytest.raises(ValueError, match=r"got other JSON \(kind must be one of clamp, .*; write json"):
        RunConfig.for_task("digits", growth_file='{"kind": "cosine"}')


def test_tokens_where_there_are_none(written):
    deep = schedules.clamp(schedules.steps({0: 16, tokens(10_000): 32}), maximum=32)
    message = (
        r"`growth_file` must count epochs, samples or updates, got tokens \(.*10,000 tokens.*; digits has no tokens"
    )
    with pytest.raises(ValueError, match=message):
        RunConfig.for_task("digits", growth_file=written(deep))


@pytest.mark.parametrize("sizes", ["0:16 390:2000", "0:2000 390:16"])
def test_sizes_beyond_the_data_set_name_the_file(written, sizes):
    config = RunConfig.for_task("digits", growth_file=written(schedules.steps(sizes)), epochs=4)
    message = (
        r"`growth_file` must fit a training of 4 epochs of 1,437 samples, got .* \(batch_size must be at most the "
        r"1,437 samples of the data set, got 2,000.*; take another file"
    )
    with pytest.raises(ValueError, match=message):
        config.plan(1437)


def test_a_size_of_the_runs_own_beyond_the_data_set(written):
    config = RunConfig.for_task("digits", growth_file=written(schedules.constant()), batch_size=2000)
    with pytest.raises(ValueError, match="`batch_size` must be at most the 1,437 samples of the data set, got 2,000"):
        config.plan(1437)
    config = RunConfig.for_task("digits", growth_file=written(STEPS), micro_batch_size=2000)
    with pytest.raises(ValueError, match="`micro_batch_size` must be at most the 1,437 samples"):
        config.plan(1437)


def test_a_coupling_that_the_optimizer_does_not_go_with(written):
    with pytest.raises(
        ValueError, match="`growth_file` brings the coupling sqrt, which must suit the optimizer, sqrt was"
    ):
        RunConfig.for_task("digits", growth_file=written(SEESAW))
    with pytest.raises(ValueError, match="`coupling` must suit the optimizer, linear was derived for"):
        RunConfig.for_task("digits", growth_file=written(SEESAW), optimizer="adam", coupling="linear")


def test_an_lr_that_falls_after_the_training_is_said_once(recwarn):
    settings = {"rule": "smith", "lr_schedule": "step:0.5:50", "epochs": 30, "max_batch_size": 64, "growth": None}
    text = r"must fall within the training, got 'step:0.5:50', which falls first in epoch 50 .*more than 50 epochs"
    with pytest.warns(UserWarning, match=text):
        batch_schedule(settings)
    batch_schedule({**settings, "epochs": 60})
    assert not recwarn.list
