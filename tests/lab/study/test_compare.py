import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from tests.lab.study.checks import arms, config

from adabatch.lab import tasks, training
from adabatch.lab.comparison import Comparison
from adabatch.lab.study.arms import Arm
from adabatch.lab.study.compare import compare, interleaved
from adabatch.lab.training import Progress, RunResult, checkpoint, lock, loop, saved_result, unpacked


@pytest.fixture(scope="module")
def data():
    return tasks.get("digits").load(None)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "out"
    return out, compare(arms(), seeds=[3, 5], out=out, data=data).to_json()


@pytest.fixture
def out(finished, tmp_path):
    """A copy of a finished comparison, to be harmed."""
    shutil.copytree(finished[0], tmp_path / "out")
    return tmp_path / "out"


def results_of(out, arm):
    return [saved_result(out / "runs" / arm / f"seed-{seed}") for seed in (3, 5)]


def stamps(out):
    return {path: path.stat().st_mtime_ns for path in sorted(out.glob("runs/**/result.json"))}


def test_arms_take_turns_and_each_leads_once():
    order = [f"{arm}{seed}" for arm, seed in interleaved(["a", "b", "c"], range(4))]
    assert order == ["a0", "b0", "c0", "b1", "c1", "a1", "c2", "a2", "b2", "a3", "b3", "c3"]


def test_the_outcome_is_that_of_the_runs(finished, data):
    out, found = finished
    assert not list(Comparison.faults(found))
    assert set(found["against_fixed_small"]["adaptive"]) == {
        "updates_ratio", "seconds_ratio", "seconds_to_target_ratio", "accuracy_difference",
        "accuracy_difference_by_seed", "accuracy_difference_over_samples", "within_margin",
    }  # fmt: skip
    right = [unpacked(run.test_right) for arm in ("fixed-small", "adaptive") for run in results_of(out, arm)]
    assert [len(bits) for bits in right] == [360] * 4
    assert found["against_fixed_small"]["adaptive"]["accuracy_difference_over_samples"]["samples"] == 360
    assert json.loads((out / "compare.json").read_text()) == found
    assert (found["task"], found["model"], found["device"], found["seeds"]) == ("digits", "small_cnn", "cpu", [3, 5])
    assert found["target"] == tasks.get("digits").target
    small, adaptive = found["arms"]
    assert (small["batch_sizes"], adaptive["batch_sizes"]) == ([64], [64, 128])
    assert (small["updates"], adaptive["updates"]) == (46, 35)
    alone = training.train(replace(config(), seed=5), data=data)
    assert adaptive["test_accuracy"]["values"][1] == alone.test_accuracy
    assert found["settings"]["adaptive"]["growth"] == 2.0
    assert "seed" not in found["settings"]["adaptive"]


def test_finished_runs_are_never_repeated(out, finished, data):
    before, turns = stamps(out), []
    again = compare(
        arms(), seeds=[3, 5], out=out, data=data, progress=lambda turn, now: turns.append((turn, now))
    ).to_json()
    assert again == finished[1]
    assert stamps(out) == before
    assert all(turn.reused for turn, _ in turns)


def test_more_seeds_add_runs_only(out, data):
    before = stamps(out)
    more = compare(arms(), seeds=[3, 5, 6], out=out, data=data).to_json()
    assert more["arms"][0]["test_accuracy"]["n"] == 3
    assert {path: stamp for path, stamp in stamps(out).items() if path in before} == before


def test_an_interrupted_comparison_goes_on(tmp_path, finished, data):
    out = tmp_path / "out"

    def stop(turn, now):
        if turn.number == 3 and isinstance(now, Progress):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(arms(), seeds=[3, 5], out=out, data=data, progress=stop)
    assert len(stamps(out)) == 2
    assert not (out / "compare.json").exists()
    before = stamps(out)
    found = compare(arms(), seeds=[3, 5], out=out, data=data).to_json()
    assert {path: stamp for path, stamp in stamps(out).items() if path in before} == before
    for arm, same in zip(found["arms"], finished[1]["arms"], strict=True):
        assert arm["test_accuracy"] == same["test_accuracy"]
        assert arm["updates"] == same["updates"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("run", [1, 2, 4])
def test_an_interrupt_at_the_end_of_a_run_ends_the_comparison(run, number, tmp_path, finished, data, monkeypatch):
    """After a signal in a run's last evaluation that run is finished, and no other one begins."""
    ends, evaluate = [], loop.Trainer._evaluate

    def interrupted(self, lr):
        if self._folder is not None and self._loader.clock == self._end:
            ends.append(self._folder.path)
            if len(ends) == run:
                signal.raise_signal(number)
        return evaluate(self, lr)

    monkeypatch.setattr(loop.Trainer, "_evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt, match="interrupted; finished runs are kept, and the same comparison again"):
        compare(arms(), seeds=[3, 5], out=tmp_path / "out", data=data)
    assert len(ends) == len(stamps(tmp_path / "out")) == run
    before = stamps(tmp_path / "out")
    found = compare(arms(), seeds=[3, 5], out=tmp_path / "out", data=data).to_json()
    assert before.items() <= stamps(tmp_path / "out").items()
    assert [arm["test_accuracy"] for arm in found["arms"]] == [arm["test_accuracy"] for arm in finished[1]["arms"]]


def test_an_interrupt_ends_the_warm_up_at_once(tmp_path, data, monkeypatch):
    seen, evaluate = [], loop.Trainer._evaluate

    def interrupted(self, lr):
        seen.append(len(self._setup.data.y_test))
        signal.raise_signal(signal.SIGINT)
        return evaluate(self, lr)

    monkeypatch.setattr(loop.Trainer, "_evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt, match="interrupted; finished runs are kept"):
        compare(arms(), seeds=[0], out=tmp_path / "out", data=data)
    assert seen == [1]  # one evaluation, of one sample
    assert not (tmp_path / "out" / "runs").exists()


def test_progress_names_run_and_result(tmp_path, data):
    seen = []
    compare(arms(), seeds=[0], out=tmp_path / "out", data=data, progress=lambda turn, now: seen.append((turn, now)))
    assert [turn.number for turn, now in seen if now is None] == [1, 2]
    assert [turn.arm.name for turn, now in seen if isinstance(now, RunResult)] == ["fixed-small", "adaptive"]
    assert {turn.total for turn, _ in seen} == {2}


def test_another_target_needs_no_training(out, data):
    before = stamps(out)
    found = compare(arms(), seeds=[3, 5], out=out, data=data, target=0.2).to_json()
    assert found["target"] == 0.2
    assert found["arms"][0]["to_target"]["reached"] == 2
    assert stamps(out) == before


def test_a_warm_up_touches_every_batch_size(tmp_path, data, monkeypatch):
    trained = []
    train = training.train

    def spy(config, out=None, **options):
        trained.append((config.batch_size, out is None))
        return train(config, out, **options)

    monkeypatch.setattr(training, "train", spy)
    compare(arms(), seeds=[0], out=tmp_path / "out", data=data)
    assert trained == [(64, True), (128, True), (64, False), (64, False)]


SCHEDULES = [
    "constant",
    "step:0.5:1",
    "milestones:0.2:1,2",
    "exponential:0.9",
    "cosine",
    "onecycle",
    "wsd:1",
    "wsd:2",
    "poly:2",
    "slowstart",
    "warmup:2+wsd:1",
    "warmup:1:0.5+cosine",
]


@pytest.mark.parametrize(
    "changes", [*({"lr_schedule": text} for text in SCHEDULES), {"micro_batch_size": 600}], ids=str
)
def test_settings_that_do_not_suit_the_warm_up(changes, tmp_path, data):
    """It is one short epoch at each batch size, whatever the runs are."""
    few = replace(data, x_train=data.x_train[:700], y_train=data.y_train[:700])
    found = compare(arms(epochs=3, model="mlp", **changes), seeds=[0], out=tmp_path / "out", data=few).to_json()
    assert [arm["batch_sizes"] for arm in found["arms"]] == [[64], [64, 128]]
    name, value = next(iter(changes.items()))
    assert found["settings"]["adaptive"][name] == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.04}, "holds a comparison of other settings .there and now.: fixed-small has lr: 0.05 and 0.04; give"),
        ({"epochs": 3}, "fixed-small has epochs: 2 and 3; give another --out"),
    ],
)
def test_a_folder_of_other_settings_is_refused(out, data, changes, message):
    before = stamps(out)
    with pytest.raises(ValueError, match=message):
        compare(arms(**changes), seeds=[3], out=out, data=data)
    assert stamps(out) == before


def test_what_a_single_run_may_change_a_comparison_of_times_may_not(out, data):
    compiled = [Arm(arm.name, replace(arm.config, compile=True)) for arm in arms()]
    with pytest.raises(
        ValueError, match=r"other settings \(there and now\): fixed-small has compile: False and True; "
    ):
        compare(compiled, seeds=[3, 5], out=out, data=data)


def test_where_the_data_are_and_who_reads_them_may_change(out, finished, data):
    (out / "runs" / "adaptive" / "seed-5" / "result.json").unlink()  # a run to go on with
    found = compare(arms(data="elsewhere", workers=2), seeds=[3, 5], out=out, data=data).to_json()
    assert [arm["test_accuracy"] for arm in found["arms"]] == [arm["test_accuracy"] for arm in finished[1]["arms"]]


def test_other_data_are_refused_wherever_they_are(out, data):
    before = stamps(out)
    other = replace(data, x_train=data.x_train.flip(3))
    with pytest.raises(ValueError, match=r"`data` must hold what the comparison in .* began with, got other samples; "):
        compare(arms(data="elsewhere"), seeds=[3, 5, 6], out=out, data=other)
    assert stamps(out) == before
    note = json.loads((out / "comparison.json").read_text())
    del note["data"]  # a comparison of a time before it was written down
    (out / "comparison.json").write_text(json.dumps(note))
    assert compare(arms(), seeds=[3, 5], out=out, data=data).seeds == (3, 5)


def test_only_one_process_trains_in_a_folder(out, data):
    before = stamps(out)
    with lock.held(out), pytest.raises(BlockingIOError, match="`out` must be a folder in which no other process"):
        compare(arms(), seeds=[3, 5, 6], out=out, data=data)
    assert stamps(out) == before
    assert not list(out.rglob(".lock"))


def test_settings_are_looked_at_again_once_it_is_alone(out, tmp_path, data, monkeypatch):
    """Runs of another process that came and went while the data were read are not mixed in."""
    held = lock.held

    def late(folder):
        shutil.copytree(out, folder, dirs_exist_ok=True)
        return held(folder)

    monkeypatch.setattr(lock, "held", late)
    with pytest.raises(ValueError, match=r"`out` holds a comparison of other settings .* fixed-small has lr: 0.05"):
        compare(arms(lr=0.04), seeds=[3], out=tmp_path / "new", data=data)


def test_times_of_another_machine_are_refused(out, data):
    note = json.loads((out / "comparison.json").read_text())
    note["versions"]["torch"] = "1.0"
    (out / "comparison.json").write_text(json.dumps(note))
    with pytest.raises(
        ValueError, match=r"`out` holds a comparison with torch 1.0, now it is .*: times would not compa"
    ):
        compare(arms(), seeds=[3], out=out, data=data)


def test_times_of_another_number_of_processes_are_refused(out, data, monkeypatch):
    """Unless the same torchrun job goes on, which starts again with the processes that are left."""
    note = json.loads((out / "comparison.json").read_text())
    assert note["processes"] == 1
    note |= {"processes": 2, "job": "mine"}
    (out / "comparison.json").write_text(json.dumps(note))
    with pytest.raises(ValueError, match="holds a comparison with processes 2, now it is 1: times would not compare"):
        compare(arms(), seeds=[3, 5], out=out, data=data)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    compare(arms(), seeds=[3, 5], out=out, data=data)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"versions": {}}'])
def test_a_damaged_note_is_refused(out, data, content):
    (out / "comparison.json").write_text(content)
    with pytest.raises(ValueError, match=r"`out` must hold a whole comparison, got a damaged .*comparison.json"):
        compare(arms(), seeds=[3], out=out, data=data)


def test_a_damaged_result_is_refused(out, data):
    (out / "runs" / "adaptive" / "seed-5" / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"damaged .*seed-5/result.json") as error:
        compare(arms(), seeds=[3, 5], out=out, data=data)
    assert follow(error, out)
    compare(arms(), seeds=[3, 5], out=out, data=data)


def follow(error, out):
    """Does what an error in a comparison says: deletes the path that it names, which is one of a run."""
    words = r"`out` must hold whole runs, got a damaged (.*); delete it and give the same command again, which trains "
    path = Path(re.fullmatch(f"{words}what is missing", str(error.value))[1])
    assert path.is_relative_to(out / "runs")
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return True


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", b"{"), ("config.json", None), ("last.pt", b"PK"), ("last.pt", "model")],
)
def test_a_damaged_run_is_named_with_what_to_delete(out, finished, data, name, content):
    folder = out / "runs" / "adaptive" / "seed-3"
    file = next(folder.rglob(name))
    if name == "last.pt":
        (folder / "result.json").unlink()  # it is read where the run goes on
    if content is None:
        file.unlink()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        state = checkpoint.read(file)
        del state["parts"][content]
        checkpoint.write(file, state)
    with pytest.raises(ValueError, match="`out` must hold whole runs") as error:
        compare(arms(), seeds=[3, 5], out=out, data=data)
    assert follow(error, out)
    found = compare(arms(), seeds=[3, 5], out=out, data=data).to_json()
    assert [arm["test_accuracy"] for arm in found["arms"]] == [arm["test_accuracy"] for arm in finished[1]["arms"]]


DELETED = {
    "runs/adaptive/seed-5/result.json": "runs/adaptive/seed-5/result.json",
    "runs/adaptive/seed-5/config.json": "runs/adaptive/seed-5",
}


@pytest.mark.parametrize("name", ["comparison.json", *DELETED])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (os.mkfifo, "a pipe in place of a file"),
        (os.mkdir, "a folder in place of a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a device in place of a file"),
        (lambda path: path.write_text("[" * 9000 + "]" * 9000), "more than 50 levels of values in each other"),
    ],
)
def test_what_is_no_file_is_refused_and_nothing_waits(out, data, name, damage, words):
    (out / name).unlink()
    damage(out / name)
    told = f"{out / name} ({words}); " if name == "comparison.json" else f"{out / DELETED[name]}; delete it and "
    with pytest.raises(ValueError, match=f"got a damaged {re.escape(told)}"):
        compare(arms(), seeds=[3, 5], out=out, data=data)


def test_other_files_are_not_mixed_with(tmp_path, data):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="`out` must be empty or hold a comparison, got other files"):
        compare(arms(), seeds=[0], out=tmp_path, data=data)
    with pytest.raises(ValueError, match="`out` must be a folder, got the file"):
        compare(arms(), seeds=[0], out=tmp_path / "thesis.tex", data=data)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"seeds": []}, "`seeds` must be at least one and all different"),
        ({"seeds": [1, 1]}, "`seeds` must be at least one and all different"),
        ({"seeds": [-1]}, "`seeds` must be at least 0, got -1$"),
        (
            {"seeds": [2**63 - 1, 2**63]},
            "`seeds` must be at most 9,223,372,036,854,775,807, got .*; begin with a smaller",
        ),
        ({"target": 1.5}, "`target` must be at most 1, got 1.5; it is a test accuracy as a fraction"),
        ({"target": 0}, "`target` must be greater than 0, got 0; it is a test accuracy"),
        ({"arms": arms(coupling="power(400)")}, "`lr` must stay below 1e.35 with its schedule and coupling, got"),
        ({"arms": []}, "`arms` must hold at least one arm, got none"),
        ({"arms": [*arms(), *arms()]}, "`arms` must differ in name, got fixed-small, adaptive, fixed-small"),
        ({"arms": [*arms(), Arm("other", config(threads=2))]}, "`arms` must share one threads, got others in"),
        ({"arms": [Arm("a", config(batch_size=1438, max_batch_size=None))]}, "`batch_size` must be at most the 1,437"),
        (
            {"arms": [Arm("a", config(growth=30.0, max_batch_size=None))]},
            "`growth` must not take the batch above the 1,437",
        ),
    ],
)
def test_errors_come_before_anything_is_written(call, message, tmp_path, data):
    call = {"arms": arms(), "seeds": [0], **call}
    with pytest.raises(ValueError, match=message):
        compare(call.pop("arms"), out=tmp_path / "out", data=data, **call)
    assert not (tmp_path / "out").exists()
