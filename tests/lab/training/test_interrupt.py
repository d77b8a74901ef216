from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from adabatch.lab import training
from adabatch.lab.training import interrupt
from adabatch.lab.training.interrupt import SIGNALS, Interrupted, Interrupts


@pytest.fixture
def impatient(monkeypatch):
    """No second signal counts as the first."""
    monkeypatch.setattr(interrupt, "GRACE_SECONDS", 0.0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_ignored(number):
    """As SIGHUP is in what `nohup` starts, and SIGINT in a shell's background job."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), number)
            assert not interrupts.seen
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    with Interrupts() as interrupts:
        assert (interrupts.seen, interrupts.number) == (False, None)
        os.kill(os.getpid(), number)
        assert (interrupts.seen, interrupts.number) == (True, number)
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_those_that_follow_at_once_are_the_same_wish():
    with Interrupts() as interrupts:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert interrupts.number == signal.SIGTERM, "the first one"


@pytest.mark.usefixtures("impatient")
def test_a_later_one_acts_at_once():
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.seen
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("impatient")
def test_nothing_acts_while_something_is_held():
    with Interrupts() as outer, Interrupts() as inner:
        with inner.held():
            for _ in range(5):
                os.kill(os.getpid(), signal.SIGINT)
        assert (outer.number, inner.number) == (signal.SIGINT, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_one_around_sees_what_comes_to_the_inner():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as outer:
        with Interrupts() as inner:
            os.kill(os.getpid(), signal.SIGINT)
            assert inner.seen
        assert outer.seen
        with Interrupts() as later:
            assert later.seen
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_one_that_waits_leaves_signals_alone_until_another_is_entered_and_then_keeps_them():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts(waiting=True) as waiting:
        assert signal.getsignal(signal.SIGINT) is before
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        alone = waiting.seen
        with Interrupts():
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # after the inner one was left
        assert (alone, waiting.seen) == (False, True)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_that_another_sets_meanwhile_stays():
    before = signal.getsignal(signal.SIGINT)
    try:
        with Interrupts():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_came_before_it_was_entered_is_not_seen():
    with Interrupts():
        os.kill(os.getpid(), signal.SIGINT)
    with Interrupts() as interrupts:
        assert not interrupts.seen


def test_outside_the_main_thread_nothing_is_touched():
    before, found = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with Interrupts():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_what_is_said(tmp_path):
    assert str(Interrupted(tmp_path)) == f"interrupted; the run is saved in {tmp_path}"
    assert str(Interrupted(None, signal.SIGTERM)) == "interrupted; nothing is saved"
    assert str(Interrupted(None, kept="all is kept")) == "interrupted; all is kept"
    assert [Interrupted(None).number, Interrupted(None, signal.SIGHUP).number] == [signal.SIGINT, signal.SIGHUP]


def test_to_import_it_loads_no_torch():
    """The command notes signals before it knows its task."""
    code = "import sys, adabatch.lab.training.interrupt; print([n for n in ('torch', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'; it offers Evaluation, Interrupted, Progress"):
        training.nothing  # noqa: B018
