"""A run that was stopped anywhere goes on to the very result of the unbroken one."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from tests.lab.training.checks import SMALL, same, small_data, weights, without_seconds

from adabatch.lab.shapes import setting_in_words
from adabatch.lab.training import Interrupted, RunConfig, checkpoint, reporting, saved_config, saved_result, train

OFTEN = replace(SMALL, evaluate_every="0.7 epochs")


def interrupted_at(update: int, config: RunConfig, out: Path, *, data=None, **how) -> None:
    """Trains until Ctrl-C in `update`, counted from where it starts."""
    seen = []

    def stop(now):
        seen.append(now)
        if len(seen) == update:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(config, out, data=small_data() if data is None else data, progress=stop, **how)


def logs(out: Path) -> list[str]:
    text = (out / "decisions.jsonl").read_text()
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [text, *(str({**line, "seconds": None}) for line in metrics)]


def contents(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def report_every_update(monkeypatch):
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 0.0)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The result and the folder of an unbroken run."""
    out = tmp_path_factory.mktemp("unbroken")
    return train(OFTEN, out, data=small_data()), out


# In the first epoch, near its end, after it, in mid growth, around a change of size, in the last epoch.
@pytest.mark.parametrize("update", [1, 2, 10, 17, 20, 22, 23, 24, 28, 32, 36])
def test_bit_for_bit_from_any_update(tmp_path, unbroken, update):
    expected, folder = unbroken
    interrupted_at(update, OFTEN, tmp_path)
    torch.manual_seed(99)  # whatever the process did before
    result = train(OFTEN, tmp_path, data=small_data(), resume=True)
    assert without_seconds(result) == without_seconds(expected)
    assert same(weights(tmp_path), weights(folder))
    ours, theirs = (checkpoint.read(out / "checkpoints" / "last.pt") for out in (tmp_path, folder))
    assert same(ours["parts"], theirs["parts"])
    assert logs(tmp_path) == logs(folder)
    assert result.train_seconds > 0


def test_many_interrupts_in_one_run(tmp_path, unbroken):
    expected, folder = unbroken
    interrupted_at(3, OFTEN, tmp_path)
    for _ in range(5):
        interrupted_at(4, OFTEN, tmp_path, resume=True)
    result = train(OFTEN, tmp_path, data=small_data(), resume=True)
    assert without_seconds(result) == without_seconds(expected)
    assert same(weights(tmp_path), weights(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw", "coupling": "sqrt", "lr": 0.001},
        {"micro_batch_size": 7},
        {"lr_schedule": "cosine", "optimizer": "nesterov", "weight_decay": 1e-3},
        {"lr_schedule": "onecycle", "momentum": 0.0},
        {"lr_schedule": "wsd:2"},
        {"lr_schedule": "exponential:0.7"},
        {"lr_schedule": "milestones:0.3:1,3"},
        {"optimizer": "rmsprop-warmup", "transition": "1:2", "lr_schedule": "slowstart", "label_smoothing": 0.1},
        {"optimizer": "lars", "lr": 1.0, "weight_decay": 1e-3, "lr_schedule": "warmup:1+poly:2"},
        {"optimizer": "lamb", "lr": 0.01, "coupling": "sqrt", "weight_decay": 1e-2, "decay_biases": False},
    ],
    ids=str,
)
def test_other_settings(tmp_path, changes):
    config = replace(OFTEN, **changes)
    expected = train(config, tmp_path / "a", data=small_data())
    interrupted_at(23, config, tmp_path / "b")
    result = train(config, tmp_path / "b", data=small_data(), resume=True)
    assert without_seconds(result) == without_seconds(expected)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


class Noise:
    """A transform that draws from torch's default generator, as dropout does."""

    on_device = True
    shape = {"in_channels": 1, "image_size": 8, "classes": 10}  # noqa: RUF012

    def to(self, device):
        return self

    def train(self, inputs, *, seed, clock, stride=1):
        return inputs + torch.rand_like(inputs)

    def test(self, inputs):
        return inputs


def test_random_numbers_go_on(tmp_path):
    data = replace(small_data(), transform=Noise())
    expected = train(OFTEN, tmp_path / "a", data=data)
    interrupted_at(21, OFTEN, tmp_path / "b", data=data)
    torch.manual_seed(99)
    assert without_seconds(train(OFTEN, tmp_path / "b", data=data, resume=True)) == without_seconds(expected)


def test_seconds_and_throughput_go_on(tmp_path):
    interrupted_at(20, OFTEN, tmp_path)
    before = checkpoint.read(tmp_path / "checkpoints" / "last.pt")["stopwatch"]
    result = train(OFTEN, tmp_path, data=small_data(), resume=True)
    assert result.train_seconds > sum(seconds for _, _, seconds in before)
    assert set(result.samples_per_second) == {16, 32, 64}


def test_a_finished_run_is_returned_as_it_is(tmp_path, unbroken):
    _, folder = unbroken
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert train(OFTEN, copy, resume=True) == saved_result(folder)
    (copy / "result.json").unlink()  # killed just before the result was written
    assert train(OFTEN, copy, data=small_data(), resume=True) == saved_result(folder)


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path, unbroken):
    expected, folder = unbroken
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for path in [tmp_path / "result.json", *(tmp_path / "checkpoints").iterdir()]:
        path.unlink()
    result = train(OFTEN, tmp_path, data=small_data(), resume=True)
    assert without_seconds(result) == without_seconds(expected)
    assert logs(tmp_path) == logs(folder)


def test_logs_are_cut_back_to_the_checkpoint(tmp_path, unbroken):
    _, folder = unbroken
    interrupted_at(20, OFTEN, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"samples": 1')  # a run that was killed later, in the middle of a line
    train(OFTEN, tmp_path, data=small_data(), resume=True)
    assert logs(tmp_path) == logs(folder)


# From the best checkpoint, where the last one is lost.


@pytest.mark.parametrize("other", ["previous", "best"])
@pytest.mark.parametrize("damage", [None, b"PK", b""], ids=str)
def test_where_the_last_checkpoint_is_lost_the_others_are_offered(tmp_path, unbroken, damage, other):
    expected, folder = unbroken
    interrupted_at(30, OFTEN, tmp_path)
    last = tmp_path / "checkpoints" / "last.pt"
    last.unlink()
    if damage is not None:
        last.write_bytes(damage)
    before = contents(tmp_path)
    wrong = (
        "`resume` must find .*last.pt, which is not there" if damage is None else "`checkpoint` .*last.pt must be whole"
    )
    offer = "previous.pt and best.pt are there: take previous or best as `resume_from`, or remove the run folder to"
    with pytest.raises((FileNotFoundError, ValueError), match=f"^{wrong}.*; {offer}"):
        train(OFTEN, tmp_path, data=small_data(), resume=True)
    assert contents(tmp_path) == before, "metrics are not overwritten"
    if other == "previous":
        (tmp_path / "checkpoints" / "best.pt").unlink()
        (tmp_path / "checkpoints" / "best.pt").write_bytes(b"")
    result = train(OFTEN, tmp_path, data=small_data(), resume=True, resume_from=other)
    assert without_seconds(result) == without_seconds(expected)
    assert same(weights(tmp_path), weights(folder))
    assert logs(tmp_path) == logs(folder)
    assert not list(tmp_path.rglob(".*draft"))


@pytest.mark.parametrize("links", [True, False])
def test_a_kill_between_the_names_of_the_first_checkpoint_loses_nothing(tmp_path, unbroken, links):
    """Its content was there as the best one, under the name of a draft as the last one."""
    interrupted_at(30, OFTEN, tmp_path)
    last, best = (tmp_path / "checkpoints" / f"{name}.pt" for name in ("last", "best"))
    last.unlink()
    draft = last.with_name(".last.pt.draft")
    draft.hardlink_to(best) if links else shutil.copy(best, draft)
    result = train(OFTEN, tmp_path, data=small_data(), resume=True)
    assert without_seconds(result) == without_seconds(unbroken[0])
    assert same(weights(tmp_path), weights(unbroken[1]))
    assert not list(tmp_path.rglob(".*draft"))


@pytest.mark.parametrize("links", [True, False])
def test_a_kill_between_the_names_of_a_later_checkpoint_loses_nothing(tmp_path, unbroken, links):
    """The best one was of a later moment than the last one: what went on from that cut the logs under it."""
    interrupted_at(2, OFTEN, tmp_path)
    last, best = (tmp_path / "checkpoints" / f"{name}.pt" for name in ("last", "best"))
    early = last.read_bytes()
    interrupted_at(28, OFTEN, tmp_path, resume=True)
    last.unlink()
    last.write_bytes(early)
    draft = last.with_name(".last.pt.draft")
    draft.hardlink_to(best) if links else shutil.copy(best, draft)
    reached = checkpoint.read(best)["updates"]
    interrupted_at(1, OFTEN, tmp_path, resume=True)
    assert checkpoint.read(last)["updates"] > reached > 2
    result = train(OFTEN, tmp_path, data=small_data(), resume=True, resume_from="best")
    assert without_seconds(result) == without_seconds(unbroken[0])
    assert same(weights(tmp_path), weights(unbroken[1]))
    assert not list(tmp_path.rglob(".*draft"))


def test_from_the_best_one_although_the_last_one_is_there(tmp_path, unbroken):
    interrupted_at(32, OFTEN, tmp_path)
    interrupted_at(1, OFTEN, tmp_path, resume=True)
    best = checkpoint.read(tmp_path / "checkpoints" / "best.pt")["updates"]
    assert best < checkpoint.read(tmp_path / "checkpoints" / "last.pt")["updates"]
    result = train(OFTEN, tmp_path, data=small_data(), resume=True, resume_from="best")
    assert without_seconds(result) == without_seconds(unbroken[0])
    assert logs(tmp_path) == logs(unbroken[1])


def test_a_best_one_that_is_not_there(tmp_path):
    interrupted_at(2, OFTEN, tmp_path)  # before the first evaluation
    message = (
        "`resume` must find .*best.pt, which is not there; last.pt is there: take last as `resume_from`, or remove"
    )
    with pytest.raises(FileNotFoundError, match=message):
        train(OFTEN, tmp_path, data=small_data(), resume=True, resume_from="best")
    with pytest.raises(ValueError, match="`resume_from` must be one of last, previous, best, got 'first'"):
        train(OFTEN, tmp_path, data=small_data(), resume=True, resume_from="first")
    with pytest.raises(ValueError, match="`resume_from` must come with `resume`, got 'best' alone"):
        train(OFTEN, tmp_path / "new", data=small_data(), resume_from="best")


def test_the_last_two_are_kept_and_a_later_one_than_that_resumed_from_is_not(tmp_path):
    interrupted_at(20, OFTEN, tmp_path)
    interrupted_at(1, OFTEN, tmp_path, resume=True)
    last, previous, best = (tmp_path / "checkpoints" / f"{name}.pt" for name in ("last", "previous", "best"))
    updates = {file: checkpoint.read(file)["updates"] for file in (last, previous, best)}
    assert updates[last] > updates[previous] > updates[best]
    interrupted_at(1, OFTEN, tmp_path, resume=True, resume_from="best")
    assert checkpoint.read(previous)["updates"] == updates[best]
    assert updates[best] < checkpoint.read(last)["updates"] < updates[previous]


# For more epochs.


@pytest.mark.parametrize("evaluate_every", ["1 epoch", "2 epochs", "9 updates"])
@pytest.mark.parametrize("resume_from", ["last", "best"])
def test_a_finished_run_goes_on_to_more_epochs(tmp_path, evaluate_every, resume_from):
    config = replace(SMALL, evaluate_every=evaluate_every, seed=1)
    expected = train(config, tmp_path / "whole", data=small_data())
    out, short = tmp_path / "run", replace(config, epochs=2)
    first = train(short, out, data=small_data())
    result = train(config, out, data=small_data(), resume=True, resume_from=resume_from)
    assert same(weights(out), weights(tmp_path / "whole"))
    assert (result.updates, result.test_accuracy) == (expected.updates, expected.test_accuracy)
    if evaluate_every != "9 updates":  # else there is one more, at the former end
        assert without_seconds(result) == without_seconds(expected)
        assert logs(out) == logs(tmp_path / "whole")
    assert result.history[: len(first.history) - 1] == first.history[:-1]
    assert (saved_config(out), saved_result(out)) == (config, result)
    assert train(config, out, resume=True) == result
    with pytest.raises(
        ValueError, match=r"`resume` must keep the settings of the run, .* epochs: 2 and 4; leave them out"
    ):
        train(short, out, data=small_data(), resume=True)


@pytest.mark.parametrize("update", [3, 17, 20])
def test_so_does_one_that_was_stopped(tmp_path, update):
    expected = train(SMALL, tmp_path / "whole", data=small_data())
    out = tmp_path / "run"
    interrupted_at(update, replace(SMALL, epochs=2), out)
    interrupted_at(5, SMALL, out, resume=True)
    assert saved_config(out) == SMALL
    assert without_seconds(train(SMALL, out, data=small_data(), resume=True)) == without_seconds(expected)
    assert logs(out) == logs(tmp_path / "whole")


def test_a_batch_that_follows_the_lr_goes_on_too(tmp_path):
    rule = {"growth": None, "rule": "smith", "max_batch_size": 64, "lr_schedule": "step:0.5:1"}
    config = replace(SMALL, **rule)
    expected = train(config, tmp_path / "whole", data=small_data())
    train(replace(config, epochs=2), tmp_path / "run", data=small_data())
    result = train(config, tmp_path / "run", data=small_data(), resume=True)
    assert len(expected.batch_sizes) == 3
    assert without_seconds(result) == without_seconds(expected)


def test_where_the_lr_schedule_depends_on_the_length_it_does_not(tmp_path):
    config = replace(SMALL, lr_schedule="cosine", epochs=2)
    train(config, tmp_path, data=small_data())
    before = contents(tmp_path)
    message = "`epochs` must stay 2, got 4: the LRs of `lr_schedule` cosine up to epoch 2 depend on the length of the"
    with pytest.raises(ValueError, match=message):
        train(replace(config, epochs=4), tmp_path, data=small_data(), resume=True)
    assert contents(tmp_path) == before
    for path in (tmp_path / "checkpoints").iterdir():  # to save space
        path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"`resume` must find .*last.pt, which is not there; remove the run folder"
    ):
        train(replace(SMALL, epochs=4, lr_schedule="cosine"), tmp_path, data=small_data(), resume=True)
    assert saved_result(tmp_path) is not None


# What is refused.


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda lines: [], "0 whole lines of 2"),
        (lambda lines: lines[:1], "1 whole lines of 2"),
        (lambda lines: [lines[0], "{"], "line 2: Expecting property name"),
        (lambda lines: [lines[0], lines[1].replace('"lr": ', '"lr": -')], "line 2: `lr` must be a number from 0"),
        (lambda lines: lines[::-1], "`samples` must grow from one evaluation to the next"),
        (lambda lines: [lines[0], *lines], "`samples` must grow from one evaluation to the next"),
    ],
    ids=["empty", "cut", "no JSON", "negative", "in disorder", "twice"],
)  # fmt: skip
def test_metrics_that_are_not_those_of_the_checkpoint(tmp_path, damage, reason):
    interrupted_at(28, replace(OFTEN, lr=1e-9), tmp_path)
    for other in ("previous", "best"):
        (tmp_path / "checkpoints" / f"{other}.pt").unlink()
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(line + "\n" for line in damage(file.read_text().splitlines())))
    before = contents(tmp_path)
    message = rf"`out` must hold what its checkpoint last.pt counts on, got a damaged {file} \({reason}.*\); remove the"
    with pytest.raises(ValueError, match=message):
        train(replace(OFTEN, lr=1e-9), tmp_path, data=small_data(), resume=True)
    assert contents(tmp_path) == before


def test_metrics_of_another_run(tmp_path):
    interrupted_at(28, OFTEN, tmp_path / "a")
    interrupted_at(28, replace(OFTEN, evaluate_every="0.6 epochs"), tmp_path / "b")
    shutil.copy(tmp_path / "b" / "metrics.jsonl", tmp_path / "a" / "metrics.jsonl")
    message = (
        r"got a damaged .*metrics.jsonl \(`samples` must be \d+ at the last evaluation, got \d+\); (previous|best).pt"
    )
    with pytest.raises(ValueError, match=message):
        train(OFTEN, tmp_path / "a", data=small_data(), resume=True)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path, unbroken):
    _, folder = unbroken
    with pytest.raises(
        FileExistsError, match=r"`out` must not hold a run yet, got .*; resume it or take another folder"
    ):
        train(OFTEN, folder, data=small_data())
    with pytest.raises(FileNotFoundError, match=r"`out` must hold a run to resume, got .*, which has no config.json"):
        train(OFTEN, tmp_path, data=small_data(), resume=True)


@pytest.mark.parametrize(
    "left", ["config.json", "result.json", "checkpoints/last.pt", "checkpoints/previous.pt", "checkpoints/best.pt"]
)
def test_nor_is_what_is_left_of_one(tmp_path, unbroken, left):
    copy = tmp_path / "copy"
    (copy / left).parent.mkdir(parents=True)
    shutil.copy(unbroken[1] / left, copy / left)
    with pytest.raises(FileExistsError, match="`out` must not hold a run yet"):
        train(OFTEN, copy, data=small_data())
    assert [str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()] == [left]


def test_without_its_checkpoints_a_run_starts_again(tmp_path, unbroken):
    interrupted_at(5, OFTEN, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    result = train(OFTEN, tmp_path, data=small_data(), resume=True)
    assert without_seconds(result) == without_seconds(unbroken[0])


def test_other_settings_are_named(unbroken):
    _, folder = unbroken
    with pytest.raises(
        ValueError, match=r"got others \(now and saved\): lr: 0.5 and 0.005; seed: 1 and 0; leave them out"
    ):
        train(replace(OFTEN, lr=0.5, seed=1), folder, data=small_data(), resume=True)


# Another value of every setting on which a run's numbers depend, if only in their last bits.
HELD = {
    **{"task": "mnist", "model": "small_cnn", "batch_size": 8, "growth": 4.0, "every": "1 epoch", "max_batch_size": 32},
    **{"rule": "smith", "drop_last": True, "coupling": "none", "lr": 0.5, "lr_schedule": "constant", "momentum": 0.5},
    **{"weight_decay": 0.1, "optimizer": "nesterov", "epochs": 3, "micro_batch_size": 8, "ghost_batch_size": 8},
    **{"seed": 1, "threads": 2, "evaluate_every": "1 epoch", "precision": "bf16", "channels_last": True},
    **{"sync_batch_norm": True, "compress": "bf16", "last_batch_norm": True},
    **{"growth_file": '{"kind":"constant","batch_size":16}', "policy": "noise-scale:1"},
    **{"transition": "0.5:0.5", "decay_biases": False, "label_smoothing": 0.1, "zero_init": True},
}
WITH = {
    "rule": {"growth": None},
    "growth_file": {"growth": None, "every": "1 epoch", "max_batch_size": None},
    "policy": {"growth": None, "every": "1 epoch"},
    "transition": {"optimizer": "rmsprop-warmup"},
}  # fmt: skip; what they do not go without
FREE = {"data": "elsewhere", "device": "auto", "workers": 1, "save_every": "5 updates"}


@pytest.mark.parametrize("name", HELD)
def test_what_a_run_depends_on_may_not_change(unbroken, name):
    other = replace(OFTEN, **{name: HELD[name]}, **WITH.get(name, {}))
    told = setting_in_words(name, HELD[name])
    values = re.escape(f"{name}: {told} and {getattr(OFTEN, name)}; ")
    message = rf"`resume` must keep the settings of the run, got others .*[:;] {values}.*leave them out or take another"
    with pytest.raises(ValueError, match=message):
        train(other, unbroken[1], data=small_data(), resume=True)


@pytest.mark.parametrize("name", ["threads", "precision"])
def test_nor_in_the_middle_of_a_run(tmp_path, name):
    interrupted_at(5, OFTEN, tmp_path)
    with pytest.raises(ValueError, match=f"`resume` must keep the settings of the run, .* {name}: {HELD[name]} and"):
        train(replace(OFTEN, **{name: HELD[name]}), tmp_path, data=small_data(), resume=True)


def test_every_setting_is_held_or_free():
    assert {field.name for field in fields(RunConfig)} == {
        *HELD,
        *FREE,
        "fsdp",
        "world_sizes",
        "compile",
        "cuda_graphs",
    }  # see test_ranks.py, test_failures.py, and below


def test_where_the_data_are_and_what_reads_them_may_change(tmp_path, unbroken):
    interrupted_at(5, OFTEN, tmp_path)
    assert all(getattr(OFTEN, name) != value for name, value in FREE.items())
    result = train(replace(OFTEN, **FREE), tmp_path, data=small_data(), resume=True)
    assert without_seconds(result) == without_seconds(unbroken[0])


def test_a_checkpoint_of_another_run(tmp_path, unbroken):
    interrupted_at(5, OFTEN, tmp_path / "a")
    interrupted_at(5, replace(OFTEN, seed=4), tmp_path / "b")
    shutil.copy(tmp_path / "b" / "checkpoints" / "last.pt", tmp_path / "a" / "checkpoints" / "last.pt")
    with pytest.raises(ValueError, match=r"`resume` must keep the settings of the run, .* seed: 0 and 4"):
        train(OFTEN, tmp_path / "a", data=small_data(), resume=True)


def test_a_checkpoint_that_lacks_something(tmp_path):
    interrupted_at(5, OFTEN, tmp_path)
    path = tmp_path / "checkpoints" / "last.pt"
    state = checkpoint.read(path)
    del state["parts"]["optimizer"]
    checkpoint.write(path, state)
    with pytest.raises(
        ValueError,
        match=rf"`checkpoint` {path} must be of this run, got one that does not fit it \(no 'optimizer'\); remove",
    ):
        train(OFTEN, tmp_path, data=small_data(), resume=True)


def test_other_data(tmp_path):
    interrupted_at(5, OFTEN, tmp_path)
    data = small_data()
    fewer = replace(data, x_train=data.x_train[:200], y_train=data.y_train[:200])
    with pytest.raises(ValueError, match="`data` must hold what the run began with, got other samples; give the"):
        train(OFTEN, tmp_path, data=fewer, resume=True)


def test_damaged_files_of_the_folder(tmp_path):
    interrupted_at(5, OFTEN, tmp_path)
    (tmp_path / "checkpoints" / "last.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="must be whole, got a damaged file"):
        train(OFTEN, tmp_path, data=small_data(), resume=True)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"`out` must hold a run to resume, got a damaged .*config.json"):
        train(OFTEN, tmp_path, data=small_data(), resume=True)


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments(tmp_path, kills):
    """Also while a checkpoint is written: each time the run goes on to the very same weights."""
    command = [sys.executable, "-m", "tests.lab.training.kill", str(tmp_path), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    killed, while_writing, runs = map(int, done.stdout.split())
    assert killed == kills
    assert while_writing >= kills // 4
    assert runs >= 1


def test_other_samples_of_the_same_number_are_refused_and_another_folder_is_not(tmp_path, unbroken):
    interrupted_at(5, OFTEN, tmp_path)
    data, before = small_data(), {path: path.read_bytes() for path in tmp_path.rglob("*.p*")}
    for other in (replace(data, x_train=data.x_train.flip(3)), replace(data, y_test=data.y_test.flip(0))):
        with pytest.raises(ValueError, match="`data` must hold what the run began with, got other samples"):
            train(OFTEN, tmp_path, data=other, resume=True)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.p*")}
    copied = replace(data, x_train=data.x_train.clone(), note="moved")
    result = train(replace(OFTEN, data=str(tmp_path)), tmp_path, data=copied, resume=True)
    assert without_seconds(result) == without_seconds(unbroken[0])


def test_drafts_of_a_killed_run_are_removed(tmp_path):
    interrupted_at(5, OFTEN, tmp_path)
    (tmp_path / ".result.json.draft").touch()
    (tmp_path / "checkpoints" / ".best.pt.draft").touch()
    train(OFTEN, tmp_path, data=small_data(), resume=True)
    assert not list(tmp_path.rglob(".*draft"))


def test_the_processes_wanted_may_change(tmp_path, unbroken):
    expected, folder = unbroken
    interrupted_at(5, OFTEN, tmp_path)
    result = train(replace(OFTEN, world_sizes="0:1 32:2 64:4"), tmp_path, data=small_data(), resume=True)
    assert same(weights(tmp_path), weights(folder))
    found, before = result.decisions, expected.decisions
    assert [(each.clock, each.batch_size) for each in found] == [(each.clock, each.batch_size) for each in before]
    assert [(each.batch_size, each.world_size) for each in found] == [(32, 2), (64, 4)]
    assert found[0].reason.endswith(", wants 2 ranks")
    assert {each.world_size for each in before} == {None}
