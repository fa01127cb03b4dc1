"""When Ctrl-C and SIGTERM interrupt, and when they are taken note of."""

# ruff: noqa: PT012 - what is around the signals is the thing tested

from __future__ import annotations

import os
import signal

import pytest

from encamp.errors import EngineFailed
from encamp.jobs.interrupts import Interrupts


def test_the_first_signal_waits_for_a_good_moment_and_the_second_does_not() -> None:
    woken = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        interrupts.wake = lambda: woken.append(True)
        interrupts.check()
        os.kill(os.getpid(), signal.SIGINT)
        assert woken == [True]
        os.kill(os.getpid(), signal.SIGINT)
        woken.append(False)  # not reached
    assert woken == [True]


def test_what_was_noted_is_raised_by_the_check_or_at_the_end() -> None:
    with pytest.raises(SystemExit) as raised, Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
    assert raised.value.code == 128 + signal.SIGTERM
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        interrupts.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_was_noted_is_raised_in_place_of_what_came_of_it() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        raise EngineFailed("mpi", "a host does not answer")
    with pytest.raises(ZeroDivisionError), Interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        raise ZeroDivisionError
    with pytest.raises(EngineFailed), Interrupts():
        raise EngineFailed("mpi", "a host does not answer")
