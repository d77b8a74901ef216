"""Workers of a study, in this process and in others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.lab.study.studies import curve, due, grid, without_seconds
from tests.lab.training.checks import small_data

from adabatch._errors import ArgumentError, UsageError
from adabatch.lab import tasks
from adabatch.lab.study import board as boards
from adabatch.lab.study import cooled, sweep
from adabatch.lab.study.board import Board
from adabatch.lab.study.curve import Curve
from adabatch.lab.tasks.objective import Classification
from adabatch.lab.training.interrupt import Interrupted


@pytest.fixture
def study():
    return grid(seeds=(0,), max_epochs=2)


@pytest.fixture
def board_of(tmp_path):
    """Opens the board of a study of the small data in the test's folder."""
    boards.quiet()
    return lambda study: Board(study, address_in(tmp_path), name="study", facts=sweep.facts(small_data()))


def address_in(folder):
    return f"sqlite:///{folder}/study.db"


def test_a_worker_does_what_is_due(study, board_of, tmp_path):
    views = []
    sweep.work(board_of(study), study, small_data(), tmp_path, progress=views.append)
    done = sweep.look(board_of(study), study).standing.done
    assert {key: without_seconds(found) for key, found in done.items()} == {
        job.key: without_seconds(cooled.train(job, study, small_data())) for job in due(study, {})
    }
    assert sorted(tmp_path.iterdir()) == [tmp_path / "study.db"], "no states are left"
    assert [len(view.standing.done) for view in views if view.own is None] == [0, 1, 2]
    assert {view.own.batch_size for view in views if view.now is not None} == {10, 30}


def test_a_finished_study_is_not_trained_again(study, board_of, tmp_path, monkeypatch):
    sweep.work(board_of(study), study, small_data(), tmp_path)
    monkeypatch.delattr(cooled, "train")
    sweep.work(board_of(study), study, small_data(), tmp_path)


def test_states_belong_to_one_study(study, tmp_path, monkeypatch):
    """Another study in the same folder, of another LR, does not go on from the first one's states."""
    boards.quiet()
    other = replace(study, base=replace(study.base, lr=0.1))

    def stop(view):
        if view.now is not None and view.now.updates > 20:
            raise Interrupted(None)

    facts = sweep.facts(small_data())
    with pytest.raises(Interrupted):
        sweep.work(
            Board(study, address_in(tmp_path), name="a", facts=facts), study, small_data(), tmp_path, progress=stop
        )
    assert list(tmp_path.glob("states/*/*.pt"))
    second = Board(other, address_in(tmp_path), name="b", facts=facts)
    sweep.work(second, other, small_data(), tmp_path)
    job = due(other, {})[0]
    found = sweep.look(second, other).standing.done[job.key]
    assert without_seconds(found) == without_seconds(cooled.train(job, other, small_data()))
    assert list(tmp_path.glob("states/*/*.pt")), "the first one's are still there"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_job_back_and_it_goes_on(number, study, board_of, tmp_path):
    sent, moments = [], []

    def interrupt(view):
        if view.now is not None and view.now.updates > 20 and not sent:
            sent.append(view.own.key)
            signal.raise_signal(number)

    with pytest.raises(Interrupted, match="interrupted; ") as caught:
        sweep.work(board_of(study), study, small_data(), tmp_path, progress=interrupt)
    assert caught.value.number == number
    own = board_of(study)
    assert own.standing() == boards.Standing({}, {}, {})
    sweep.work(own, study, small_data(), tmp_path, progress=lambda view: moments.append(view.now))
    first = next(now for now in moments if now is not None)
    assert first.updates > 20, "it goes on where it was"


def test_a_signal_between_jobs_is_seen(study, board_of, tmp_path):
    def interrupt(view):
        if len(view.standing.done) == 1 and view.now is None:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        sweep.work(board_of(study), study, small_data(), tmp_path, progress=interrupt)
    assert len(board_of(study).standing().done) == 1


def test_it_waits_for_others_and_takes_over(study, board_of, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "LOOK_SECONDS", 0.01)
    other, jobs = board_of(study), due(study, {})
    held = [other.claim([job]) for job in jobs]
    looks = []

    def progress(view):
        looks.append(view)
        if len(looks) == 3:
            other.finish(held[0], curve(jobs[0]))
        if len(looks) == 6:
            other.give_back(held[1])

    sweep.work(board_of(study), study, small_data(), tmp_path, progress=progress)
    done = board_of(study).standing().done
    assert done[jobs[0].key] == curve(jobs[0])
    assert done[jobs[1].key].points[-1].updates == 20


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_training_that_outgrows_memory_is_an_answer(error, study, board_of, tmp_path, monkeypatch):
    train, (small, large) = cooled.train, due(study, {})

    def outgrown(job, *args, **more):
        if job == large:
            raise error
        return train(job, *args, **more)

    monkeypatch.setattr(cooled, "train", outgrown)
    sweep.work(board_of(study), study, small_data(), tmp_path)
    done = board_of(study).standing().done
    assert {key: found.stopped for key, found in done.items()} == {small.key: "budget", large.key: "out of memory"}


def test_an_error_of_a_training_is_raised_and_its_job_is_free(study, board_of, tmp_path, monkeypatch):
    def broken(job, *args, **more):
        raise RuntimeError("a fault")

    monkeypatch.setattr(cooled, "train", broken)
    with pytest.raises(RuntimeError, match="a fault"):
        sweep.work(board_of(study), study, small_data(), tmp_path)
    assert board_of(study).standing() == boards.Standing({}, {}, {})


def test_a_folder_that_cannot_be_written_is_named(study, board_of, tmp_path):
    (tmp_path / "states").write_text("")
    with pytest.raises(OSError, match="`out` must be a folder that can be written"):
        sweep.work(board_of(study), study, small_data(), tmp_path)


def test_a_job_that_was_given_up_counts_as_done(study, board_of, monkeypatch):
    own, (job, _) = board_of(study), due(study, {})
    for _ in range(boards.LOSSES):
        claim = own.claim([job])
        own._storage.set_trial_user_attr(claim.trial, "worker", {**boards._myself(), "started": "before"})
        own.standing()
    view = sweep.look(own, study)
    assert view.standing.done == {job.key: Curve((), "lost")}
    assert job not in view.due


def test_an_evaluation_that_outlasts_the_lease_keeps_its_job(study, board_of, tmp_path, monkeypatch):
    """Another machine, which looks all the while, sees signs of life from within the evaluation."""
    monkeypatch.setattr(boards, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(boards, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr("adabatch.lab.training.setup.chunk_of", lambda shape: 20)
    worker, ended, slept, looks = threading.current_thread(), threading.Event(), [], []
    monkeypatch.setattr(boards, "_place", lambda: "here" if threading.current_thread() is worker else "elsewhere")
    right = Classification.right

    def slow(*arguments):
        if len(slept) < 15:
            slept.append(time.sleep(0.2))
        return right(*arguments)

    def look():
        other = board_of(study)
        while not ended.is_set():
            looks.append(other.standing())
            ended.wait(0.05)

    monkeypatch.setattr(Classification, "right", slow)
    own, watcher = board_of(study), threading.Thread(target=look)
    watcher.start()
    try:
        sweep.work(own, study, small_data(), tmp_path)
    finally:
        ended.set()
        watcher.join()
    assert len(looks) > 10
    jobs = [trial.state for trial in own._trials() if "key" in trial.user_attrs]
    assert jobs == [own._states.COMPLETE] * 2, "none was taken up twice"


def test_who_was_taken_for_dead_goes_on_with_another_job(study, board_of, tmp_path):
    own, taken = board_of(study), []

    def take(view):
        if view.now is not None and not taken:
            taken.append(view.own)
            own._study.tell(1, state=own._states.FAIL)

    sweep.work(own, study, small_data(), tmp_path, progress=take)
    assert len(board_of(study).standing().done) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_sizes": (10, 400)}, "`batch_sizes` must be at most the 300 samples of the data set, got 400; leave"),
        (
            {"batch_sizes": (10, 200), "fractions": (1.0, 0.5)},
            "the 150 samples of 0.5 of the data set, got 200",
        ),
        ({"train_samples": 301}, "`train_samples` must be at most the 300 that there are, got 301"),
        ({"test_samples": 101}, "`test_samples` must be at most the 100 that there are, got 101"),
        ({"train_samples": 20}, "at most the 20 samples of the data set, got 30"),
    ],
)
def test_more_than_the_data_have_is_refused(changes, words):
    with pytest.raises(ArgumentError, match=words):
        sweep.check_data(grid(**changes), small_data())


def test_the_time_left_shrinks_with_workers_and_grows_with_budgets(study):
    study = grid(max_epochs=8)
    jobs = due(study, {})
    done = {jobs[0].key: replace(curve(jobs[0]), wall_seconds=6.0)}
    free = [jobs[1]]
    alone = sweep.View(study, boards.Standing(done, {}), free)
    assert alone.seconds_left == 6.0
    two = sweep.View(study, boards.Standing(done, {"a": "", "b": ""}), free * 4)
    assert two.seconds_left == 12.0
    assert sweep.View(study, boards.Standing({}, {}), free).seconds_left is None
    longer = [replace(jobs[0], epochs=8)]
    assert sweep.View(study, boards.Standing(done, {}), longer).seconds_left == 18.0, "two epochs are done"


# Workers in processes of their own.

DIGITS = {"batch_sizes": (64, 256), "seeds": (0,), "max_epochs": 2}


def together(tmp_path, *, jobs=2, progress=None, **changes):
    boards.quiet()
    study = grid(**{**DIGITS, **changes})
    facts = sweep.facts(tasks.get("digits").load(None))
    own = Board(study, address_in(tmp_path), name="study", facts=facts)
    sweep.work_together(own, study, tmp_path, jobs=jobs, storage=address_in(tmp_path), name="study", progress=progress)
    return own


def children(parent=None):
    """The worker processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            words = status.with_name("cmdline").read_bytes()
            if int(fields[1]) == (parent or os.getpid()) and fields[0] != "Z" and b"spawn_main" in words:
                found.append(int(status.parent.name))
    return found


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(tmp_path):
    killed = []

    def kill(view):
        if view.standing.running and len(killed) < 3 and (there := children()):
            killed.append(there[-1])
            os.kill(killed[-1], signal.SIGKILL)

    with pytest.warns(
        UserWarning, match=r"process \d+, a worker of the study, was killed; another takes up its training"
    ):
        own = together(tmp_path, progress=kill, seeds=(0, 1, 2))
    assert killed
    assert len(own.standing().done) == 6
    assert not children()


@pytest.mark.slow
def test_workers_that_are_killed_again_and_again_end_the_study(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "LOSSES", 1)

    def kill(view):
        for child in children():
            os.kill(child, signal.SIGKILL)

    words = "workers of the study were killed again and again; see whether memory runs"
    with pytest.warns(UserWarning, match="was killed"), pytest.raises(UsageError, match=words):
        together(tmp_path, progress=kill)
    assert not children()


@pytest.mark.slow
def test_an_error_in_a_worker_comes_out_here(tmp_path):
    (tmp_path / "states").write_text("")
    with pytest.raises(OSError, match="`out` must be a folder that can be written"):
        together(tmp_path)
    assert not children()


@pytest.mark.slow
def test_a_fault_in_a_worker_comes_out_with_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'spawn_main' in str(sys.orig_argv):\n    from adabatch.lab.study import cooled\n"
        "    def train(*args, **more): raise ZeroDivisionError('a fault')\n    cooled.train = train\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(ZeroDivisionError, match="a fault") as caught:
        together(tmp_path)
    assert "in a worker of the study:\nTraceback" in caught.value.__notes__[0]


@pytest.mark.slow
def test_workers_end_when_the_one_who_started_them_is_killed(tmp_path):
    code = (
        "from tests.lab.study.test_sweep import together; from pathlib import Path; import sys\n"
        "if __name__ == '__main__': together(Path(sys.argv[1]), seeds=tuple(range(100)))"
    )
    (tmp_path / "parent.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": f"{os.getcwd()}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path)]
    parent = subprocess.Popen(command, env=environment)
    waited = threading.Event()
    while len(list(tmp_path.glob("states/*/*.pt"))) < 2:
        assert parent.poll() is None
        waited.wait(0.2)
    found = children(parent.pid)
    assert len(found) == 2
    parent.kill()
    parent.wait()
    while any(boards._started(pid) for pid in found):
        time.sleep(0.2)  # the test's own limit ends it
    boards.quiet()
    facts = sweep.facts(tasks.get("digits").load(None))
    own = Board(grid(**{**DIGITS, "seeds": (0,)}), address_in(tmp_path), name="study", facts=facts)
    assert own.standing().running == {}
