"""When Ctrl-C and SIGTERM interrupt, and when they are deferred."""

# ruff: noqa: PT012 - what is around the signals is the thing tested

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from encamp.errors import EngineFailed
from encamp.jobs.run_interrupts import RunInterrupts, ended_in_order


def test_first_signal_is_deferred_and_second_is_immediate() -> None:
    woken = []
    with pytest.raises(KeyboardInterrupt), RunInterrupts() as interrupts:
        interrupts.wake = lambda: woken.append(True)
        interrupts.check()
        os.kill(os.getpid(), signal.SIGINT)
        assert woken == [True]
        os.kill(os.getpid(), signal.SIGINT)
        woken.append(False)  # not reached
    assert woken == [True]


def test_recorded_signal_is_raised_by_check_or_at_end() -> None:
    with pytest.raises(SystemExit) as raised, RunInterrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
    assert raised.value.code == 128 + signal.SIGTERM
    with pytest.raises(KeyboardInterrupt), RunInterrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        interrupts.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_recorded_signal_replaces_resulting_error() -> None:
    with pytest.raises(KeyboardInterrupt), RunInterrupts():
        os.kill(os.getpid(), signal.SIGINT)
        raise EngineFailed("mpi", "a host does not answer")
    with pytest.raises(ZeroDivisionError), RunInterrupts():
        os.kill(os.getpid(), signal.SIGINT)
        raise ZeroDivisionError
    with pytest.raises(EngineFailed), RunInterrupts():
        raise EngineFailed("mpi", "a host does not answer")


def _ended_worker(function: Callable[[], None]) -> int:
    """How a worker ends that is forked during a run, and goes on after whatever a call raises."""
    with RunInterrupts():
        child = os.fork()
        if child == 0:
            try:
                function()
            finally:
                os._exit(99)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_worker_that_clears_up_is_not_interrupted_by_more_signals(tmp_path: Path) -> None:
    def attempt() -> None:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            (tmp_path / "cleared").touch()

    assert _ended_worker(lambda: ended_in_order(attempt)) == -signal.SIGHUP
    assert (tmp_path / "cleared").exists()


def test_a_worker_with_nothing_to_clear_up_ends_at_once(tmp_path: Path) -> None:
    def other_call() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            (tmp_path / "went on").touch()

    assert _ended_worker(other_call) == -signal.SIGTERM
    assert not (tmp_path / "went on").exists()
