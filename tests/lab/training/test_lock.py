from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time

import pytest

from adabatch.lab.training import lock

MESSAGE = r"`out` must be a folder in which no other process trains, got .*, in which one does; wait for it, end it or"


def hold(folder):
    """A process that holds the folder until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from adabatch.lab.training import lock\n"
        "with lock.held(Path(sys.argv[1])): print(flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_another_process_is_refused_until_it_ends(tmp_path):
    process = hold(tmp_path)
    try:
        with pytest.raises(BlockingIOError, match=MESSAGE), lock.held(tmp_path):
            raise AssertionError
        assert os.listdir(tmp_path) == [lock.NAME]
    finally:
        process.kill()
        process.communicate()
    with lock.held(tmp_path):  # the file that it left is no hindrance
        assert os.listdir(tmp_path) == [lock.NAME]
    assert not os.listdir(tmp_path)


def test_the_same_process_is_refused_too(tmp_path):
    for _ in range(2):
        with lock.held(tmp_path), pytest.raises(BlockingIOError, match=MESSAGE), lock.held(tmp_path):
            raise AssertionError


def test_a_forked_child_holds_nothing(tmp_path):
    """A worker that outlives its killed parent by a moment keeps nobody out."""
    with lock.held(tmp_path):
        handle = next(iter(lock._held))
        child = os.fork()
        if child == 0:
            try:
                os.fstat(handle)
            except OSError:
                os._exit(0 if not lock._held else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(BlockingIOError), lock.held(tmp_path):
            raise AssertionError


def test_never_two_at_once(tmp_path):
    """Also where one removes the file while another has it open already."""
    inside, most, entered = [], [], []

    def work():
        while len(entered) < 200:
            try:
                with lock.held(tmp_path):
                    inside.append(1)
                    time.sleep(1e-4)
                    most.append(len(inside))
                    entered.append(1)
                    inside.pop()
            except BlockingIOError:
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}


def test_a_file_removed_meanwhile_is_no_lock(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def removed(handle, how):
        flock(handle, how)
        calls.append(how)
        if len(calls) == 1:
            (tmp_path / lock.NAME).unlink()

    monkeypatch.setattr(fcntl, "flock", removed)
    with lock.held(tmp_path):
        assert os.listdir(tmp_path) == [lock.NAME]
    assert len(calls) == 2


def test_without_such_locks_it_goes_on(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", refuse)
        with lock.held(tmp_path), lock.held(tmp_path):
            pass
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with lock.held(tmp_path), lock.held(tmp_path):
            pass
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with lock.held(tmp_path), lock.held(tmp_path):
        pass


def test_who_is_patient_gets_it_after_the_other_and_who_is_not_long_enough_is_refused(tmp_path):
    process = hold(tmp_path)
    try:
        begin = time.monotonic()
        with pytest.raises(BlockingIOError, match=MESSAGE), lock.held(tmp_path, patience=3 * lock.LOOK_SECONDS):
            raise AssertionError
        assert time.monotonic() - begin >= 3 * lock.LOOK_SECONDS
        threading.Timer(3 * lock.LOOK_SECONDS, process.kill).start()
        with lock.held(tmp_path, patience=60):
            assert process.wait(60) != 0
    finally:
        process.kill()
        process.communicate()
