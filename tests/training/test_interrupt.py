from __future__ import annotations

import os
import signal
import threading

import pytest

from adabatch.training.interrupt import Interrupts


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interrupts.seen
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert not interrupts.seen
        os.kill(os.getpid(), number)
        assert interrupts.seen
    assert signal.getsignal(number) is before


def test_a_second_one_acts_at_once():
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.seen
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
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


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
