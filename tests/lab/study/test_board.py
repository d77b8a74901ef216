"""The board: jobs are taken once, lost workers' jobs are free again, and storages that are not there say so."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from tests.lab.study.studies import curve, due, grid, played

from adabatch._errors import ArgumentError
from adabatch.lab.study import board
from adabatch.lab.study.board import Board, Claim, LostError, hidden
from adabatch.lab.study.curve import Curve
from adabatch.lab.study.grid import Grid, Job

FACTS = {"data": "1234"}


@pytest.fixture(params=["sqlite:///{}/study.db", "{}/study.journal"], ids=["sqlite", "journal"])
def address(request, tmp_path):
    board.quiet()
    return request.param.format(tmp_path)


def joined(address, study=None, *, name="study", facts=FACTS):
    return Board(study or grid(), address, name=name, facts=facts)


def test_two_workers_do_each_job_once(address):
    study = grid()
    workers, turns = [joined(address), joined(address)], []
    while True:
        claims = []
        for worker in workers:
            jobs = due(study, worker.standing().done)
            if (claim := worker.claim(jobs)) is not None:
                claims.append((worker, claim))
        if not claims:
            break
        for worker, claim in claims:
            worker.finish(claim, curve(claim.job))
            turns.append(claim.job.key)
    assert len(turns) == len(set(turns))
    assert [worker.standing().done for worker in workers] == [played(study)[0]] * 2


@pytest.mark.parametrize("workers", [6])
def test_workers_at_the_same_moment_do_each_job_once(address, workers):
    """Threads with a board of their own each; the first ones even create the storage together."""
    study, taken, errors = grid(rules=("constant", "linear", "sqrt"), seeds=(0, 1, 2)), [], []
    start = threading.Barrier(workers)

    def work():
        try:
            start.wait()
            own = joined(address, study)
            while jobs := due(study, own.standing().done):
                if (claim := own.claim(jobs)) is not None:
                    taken.append(claim.job.key)
                    own.finish(claim, curve(claim.job))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert {key: count for key, count in Counter(taken).items() if count > 1} == {}
    own = joined(address, study)
    assert own.standing().done == played(study)[0]
    done = [tuple(sorted(trial.params.items())) for trial in own._trials() if trial.state == own._states.COMPLETE]
    assert len(done) == len(set(done)) == 3 * (1 + 3), "what rules share is trained once"


def test_of_two_who_post_the_same_job_the_first_has_it(address, monkeypatch):
    """Between a worker's look and its post another one posts: the higher number gives way."""
    first, second = joined(address), joined(address)
    (job, *others) = due(grid(), {})
    posted, held = [], Board._held

    def slow(self):
        found = held(self)
        if self is second and not posted:
            posted.append(first.claim([job]))
        return found

    monkeypatch.setattr(Board, "_held", slow)
    claim = second.claim([job, *others])
    assert posted[0].job == job
    assert claim.job == others[0]
    assert second.claim([job]) is None


def gone_process(address, *, place=None):
    """The job that a worker took before it died, by default on this machine."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        if place is not None:
            board._place = lambda: place
        claim = joined(address).claim(due(grid(), {}))
        os.write(write, claim.job.key.encode())
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    os.close(write)
    with os.fdopen(read) as told:
        return told.read()


def test_a_worker_of_this_machine_that_died_loses_its_job_at_once(address):
    key = gone_process(address)
    own = joined(address)
    assert key not in own.standing().running
    assert own.claim(due(grid(), {})).job.key == key
    assert own.standing().lost == {key: 1}


def test_a_worker_elsewhere_loses_its_job_after_a_lease(address, monkeypatch):
    key = gone_process(address, place="elsewhere")
    own = joined(address)
    assert key in own.standing().running
    time.sleep(0.02)
    assert key in own.standing().running, "the lease is longer"
    monkeypatch.setattr(board, "LEASE_SECONDS", 0.01)
    assert key not in own.standing().running
    assert own.claim(due(grid(), {})).job.key == key


def test_a_worker_elsewhere_that_shows_itself_keeps_its_job(address, monkeypatch):
    monkeypatch.setattr(board, "LEASE_SECONDS", 0.05)
    monkeypatch.setattr(board, "BEAT_SECONDS", 0.0)
    away, own = joined(address), joined(address)
    monkeypatch.setattr(board, "_place", lambda: "elsewhere")
    claim = away.claim(due(grid(), {}))
    monkeypatch.setattr(board, "_place", lambda: "here")
    for _ in range(5):
        assert claim.job.key in own.standing().running
        time.sleep(0.03)
        with monkeypatch.context() as there:
            there.setattr(board, "_place", lambda: "elsewhere")
            away.beat(claim)


def test_who_was_taken_for_dead_finds_out(address, monkeypatch):
    away, own = joined(address), joined(address)
    with monkeypatch.context() as there:
        there.setattr(board, "_place", lambda: "elsewhere")
        claims = [away.claim(due(grid(), {})) for _ in range(3)]
    own.standing()
    monkeypatch.setattr(board, "LEASE_SECONDS", 0.0)
    time.sleep(0.01)
    own.standing()
    again = own.claim([claims[0].job])
    monkeypatch.setattr(board, "BEAT_SECONDS", 0.0)
    with pytest.raises(LostError):
        away.beat(claims[0])
    with pytest.raises(LostError):
        away.finish(claims[1], curve(claims[1].job))
    away.give_back(claims[2])
    own.finish(again, curve(again.job))
    assert list(away.standing().done) == [claims[0].job.key]


def test_a_job_is_given_up_after_losses_without_a_point(address):
    own, study = joined(address), grid()
    job = due(study, {})[0]
    for number in range(board.LOSSES + 2):
        assert own.standing().given_up == ([job.key] if number >= board.LOSSES else [])
        claim = own.claim([job])
        own._storage.set_trial_user_attr(claim.trial, "worker", {**board._myself(), "started": "before"})
    claim = own.claim(due(study, {})[1:])
    own.finish(claim, curve(claim.job))
    assert own.standing().given_up == [job.key]


def test_losses_after_a_point_do_not_count(address):
    own = joined(address)
    job = due(grid(), {})[0]
    for _ in range(board.LOSSES + 1):
        claim = own.claim([job])
        own.beat(claim, moved=True)
        own._storage.set_trial_user_attr(
            claim.trial, "worker", {**board._myself(moved=claim.moved), "started": "before"}
        )
        assert own.standing().lost == {}


def test_a_job_that_was_given_back_is_free_and_not_lost(address):
    own = joined(address)
    job = due(grid(), {})[0]
    own.give_back(own.claim([job]))
    assert own.standing().lost == {}
    assert own.claim([job]).job == job


def test_a_finished_job_is_never_taken_again(address):
    own = joined(address)
    job = due(grid(), {})[0]
    own.finish(own.claim([job]), curve(job))
    assert joined(address).claim([job]) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 3}, "epochs 2 there and 3 here"),
        ({"batch_sizes": (10, 60)}, r"batch_sizes \[10, 30\] there and \[10, 60\] here"),
        ({"base": replace(grid().base, lr=0.5)}, "lr 0.02 there and 0.5 here"),
        ({"target": "paper"}, "target best there and paper here"),
    ],
)
def test_a_study_of_other_settings_is_refused_with_the_difference(address, changes, words):
    joined(address)
    with pytest.raises(ArgumentError, match=f"`storage` must hold a study of the same settings, .*{words}; give the"):
        joined(address, grid(**changes))


def test_a_study_of_another_version_is_refused(address):
    """One whose trials have other keys would be trained again, and its counts would be wrong."""
    optuna = board._optuna_here()
    study = optuna.create_study(study_name="study", storage=board._storage(optuna, address))
    settings = {"grid": grid().to_json(), "facts": FACTS}
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.PRUNED, user_attrs={"settings": settings}))
    words = "`storage` must hold a study that this version began, got one of another version in .*study.*; go on with"
    with pytest.raises(ArgumentError, match=words):
        joined(address)
    assert joined(address, name="other").standing().done == {}


def test_a_study_of_other_data_is_refused(address):
    joined(address)
    with pytest.raises(ArgumentError, match=r"a study of the same data, and .* holds one with 1234, got 99; give the"):
        joined(address, facts={"data": "99"})


def test_of_workers_with_different_settings_at_the_same_moment_one_is_refused(address, monkeypatch):
    """Both find no settings, and both post theirs: the first trial counts for both."""
    settings, second = Board._settings, []

    def slow(self):
        found = settings(self)
        if not second:
            second.append(None)
            second.append(joined(address, grid(epochs=3)))
        return found

    monkeypatch.setattr(Board, "_settings", slow)
    with pytest.raises(ArgumentError, match="epochs 3 there and 2 here"):
        joined(address, grid())


def test_seeds_may_be_added_and_machines_may_differ(address):
    joined(address)
    joined(address, grid(seeds=(0, 1, 2), base=replace(grid().base, threads=None, data="elsewhere", workers=2)))
    assert joined(address, grid(seeds=(5,))).identity == joined(address).identity
    assert joined(address, name="other", study=grid(epochs=3)).identity != joined(address).identity


SECRET = "se:cr@e/t?1"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://user:{SECRET}@host/db",
        "postgresql+psycopg://user:se%3Acr%40e@host/db",
        "mysql://:secret@host",
        "postgresql://host/db?user=a&password=secret&sslmode=require",
        "cannot open postgresql://user:secret word@host:5/db, no",
    ],
)
def test_passwords_are_hidden(text):
    assert "se" not in hidden(text).replace("user", "").replace("sslmode", "")
    assert "***" in hidden(text)
    assert "host" in hidden(text)


@pytest.mark.parametrize("text", ["sqlite:////tmp/a:b.db", "/x/y.journal", "postgresql://user@host:5432/db"])
def test_addresses_without_passwords_are_shown_as_they_are(text):
    assert hidden(text) == text


def closed_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


UNREACHED = {
    "a directory": ("sqlite:///{}", "unable to open database file"),
    "no folder": ("sqlite:///{}/none/study.db", "unable to open database file"),
    "no folder for a journal": ("{}/none/study.journal", "No such file or directory"),
    "a corrupt file": ("sqlite:///{}/corrupt", "file is not a database"),
    "a corrupt journal": ("{}/corrupt.journal", r"\(no journal, or a damaged one\); see that .*delete a damaged file"),
    "no server": ("postgresql+psycopg://me:secret@127.0.0.1:{port}/db", "Connection refused"),
    "no host": ("postgresql+psycopg://me:secret@no.such.host.invalid/db", "resolve|not known|translate"),
    "no driver": (
        "oracle://me:secret@host/db",
        r"No module named .*; install its driver, or give sqlite:///FILE, post",
    ),
    "no dialect": (
        "foo://me:secret@host/db",
        r"foo\); install its driver, or give sqlite:///FILE, postgresql\+psycopg:",
    ),
}


@pytest.mark.parametrize("name", UNREACHED)
def test_a_storage_that_cannot_be_reached(name, tmp_path, monkeypatch):
    board.quiet()
    monkeypatch.setattr(board, "OPEN_SECONDS", 0.2)
    for file in ("corrupt", "corrupt.journal"):
        (tmp_path / file).write_text("nothing of the kind\n" * 100)
    address, reason = UNREACHED[name]
    with pytest.raises(ArgumentError, match=reason) as caught:
        joined(address.format(tmp_path, port=closed_port()))
    assert str(caught.value).startswith("`storage` must lead to a storage of Optuna's that can be reached, got ")
    assert "secret" not in str(caught.value)
    assert "what is finished" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("study.db", "`storage` must be the address of a database, .*, got 'study.db'; write sqlite:///study.db"),
        ("", "got ''; write, for example, sqlite:///study.db"),
        (
            "journal:///tmp/x.journal",
            "must be a path if it ends in .journal, got journal:///tmp/x.journal; write the path alone",
        ),
        ("sqlite://", "must outlive this process, got sqlite://; name a file"),
        ("sqlite:///:memory:", "must outlive this process"),
        ("postgresql://me:se@cret@host/db", r"must hold one @, .*, got postgresql://me:\*\*\*@host/db; write @ as %40"),
    ],
)
def test_addresses_that_no_storage_has(address, words):
    with pytest.raises(ArgumentError, match=words):
        joined(address)


AWAY = {
    "a beat": lambda own, claim: own.beat(claim, moved=True),
    "a result": lambda own, claim: own.finish(claim, curve(claim.job)),
    "a job given back": lambda own, claim: own.give_back(claim),
}


@pytest.mark.parametrize("name", AWAY)
def test_a_storage_that_goes_away_says_so(name, address, tmp_path):
    own = joined(address)
    claim = own.claim(due(grid(), {}))
    shutil.rmtree(tmp_path)
    tmp_path.write_text("")
    with pytest.raises(ArgumentError, match="`storage` must lead to a storage of Optuna's that can be reached"):
        AWAY[name](own, claim)


def test_a_journal_that_is_damaged_later_says_so(tmp_path):
    board.quiet()
    own = joined(f"{tmp_path}/study.journal")
    with (tmp_path / "study.journal").open("a") as file:
        file.write("nothing of the kind\n" * 2)
    with pytest.raises(
        ArgumentError, match=r"that can be reached, got .*study.journal \(no journal, or a .*; what is finished is kept"
    ):
        own.standing()


def test_a_study_that_was_deleted_says_so(address):
    own, optuna = joined(address), board._optuna_here()
    optuna.delete_study(study_name="study", storage=board._storage(optuna, address))
    with pytest.raises(ArgumentError, match=r"that can be reached, got .*Record does not exist"):
        own.standing()


OURS = {
    "to compare settings": (Grid, "differences", lambda own, claim, address: joined(address)),
    "to read a curve": (Curve, "of_json", lambda own, claim, address: own.standing()),
    "to post a job": (Job, "to_json", lambda own, claim, address: own.claim(due(grid(), {}))),
    "to beat": (board, "_myself", lambda own, claim, address: own.beat(claim, moved=True)),
    "to note a curve": (Curve, "to_json", lambda own, claim, address: own.finish(claim, curve(claim.job))),
}


@pytest.mark.parametrize("kind", [KeyError, OSError, TypeError, ValueError])
@pytest.mark.parametrize("name", OURS)
def test_a_fault_of_ours_is_none_of_the_storage(name, kind, tmp_path, monkeypatch):
    address = f"{tmp_path}/study.journal"
    board.quiet()
    own = joined(address)
    own.finish(own.claim(due(grid(), {})), curve(due(grid(), {})[0]))
    claim = own.claim(due(grid(), {}))
    owner, function, call = OURS[name]

    def broken(*_, **__):
        raise kind("a fault")

    monkeypatch.setattr(owner, function, broken)
    with pytest.raises(kind, match="a fault") as caught:
        call(own, claim, address)
    assert type(caught.value) is kind


def test_a_value_that_no_storage_takes_is_a_fault_of_ours(address, monkeypatch):
    own = joined(address)
    claim = own.claim(due(grid(), {}))
    monkeypatch.setattr(board, "_myself", lambda **_: {"a set"})
    with pytest.raises(TypeError, match="not JSON serializable"):
        own.beat(claim, moved=True)


def test_a_fault_of_ours_in_opening_is_none_of_the_storage(tmp_path, monkeypatch):
    monkeypatch.setattr(board, "OPEN_SECONDS", 0.0)
    monkeypatch.setattr(board, "_storage", lambda optuna: None)
    with pytest.raises(TypeError, match="takes 1 positional argument"):
        joined(f"{tmp_path}/study.journal")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "study.db").touch(mode=0o444)
    with pytest.raises(ArgumentError, match="readonly database"):
        joined(f"sqlite:///{tmp_path}/study.db")


def test_processes_are_told_from_later_ones_of_the_same_number():
    me = board._myself()
    own = Board.__new__(Board)
    own._seen = {}
    assert not own._is_gone(0, me)
    assert own._is_gone(0, {**me, "started": "1"})
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert board._started(child.pid) is None, "a zombie is gone"
    child.wait()
    assert board._started(child.pid) is None


def test_a_claim_beats_at_intervals(address):
    own = joined(address)
    claim = own.claim(due(grid(), {}))
    beat = claim.beat
    own.beat(claim)
    assert claim.beat == beat, "it is not yet time"
    own.beat(claim, moved=True)
    assert claim.beat > beat
    later = claim.beat
    own.beat(claim, moved=True)
    assert claim.beat == later
    assert isinstance(claim, Claim)
