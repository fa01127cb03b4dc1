"""Which signals end a sandbox and a run cleanly, and which are left alone."""

from __future__ import annotations

import faulthandler
import os
import signal
from pathlib import Path

import pytest

from encamp.jobs import run_interrupts as interrupts_module
from encamp.jobs.run_interrupts import RunInterrupts
from encamp.process_endings import signal_name
from encamp.storage.exit_on_signal import ENDING, Terminated, signals_exit, untaken

# ruff: noqa: PT012 - what is around the signals is the thing tested


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_each_termination_signal_has_own_exit_status(number: signal.Signals) -> None:
    with pytest.raises(Terminated) as raised, signals_exit():
        send(number)
    assert raised.value.code == 128 + number
    assert signal.getsignal(number) is signal.SIG_DFL
    with pytest.raises(Terminated) as raised, RunInterrupts() as interrupts:
        send(number)
        interrupts.check()
    assert raised.value.code == 128 + number
    assert signal.getsignal(number) is signal.SIG_DFL


def test_all_signals_that_end_a_program_are_known() -> None:
    """What signal(7) calls Term or Core, less crashes, SIGKILL and what Python ignores."""
    crashes = {"ILL", "ABRT", "FPE", "SEGV", "BUS", "SYS", "TRAP", "IOT", "STKFLT"}
    goes_on = {"CHLD", "CLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "WINCH"}
    besides = {"KILL", "INT", "PIPE", "XFSZ", "RTMIN", "RTMAX"}
    known = {number.name for number in ENDING}
    others = {f"SIG{name}" for name in crashes | goes_on | besides}
    assert {number.name for number in signal.Signals} - others - known == set()


@pytest.mark.parametrize("number", [signal.SIGRTMIN, signal.SIGRTMIN + 3, signal.SIGRTMAX])
def test_a_real_time_signal_ends_a_run_in_good_order(number: int) -> None:
    with pytest.raises(Terminated) as raised, RunInterrupts() as interrupts:
        send(number)
        interrupts.check()
    assert raised.value.code == 128 + number
    assert signal.getsignal(number) is signal.SIG_DFL


def test_signals_are_reported_by_name() -> None:
    names = {9: "SIGKILL", signal.SIGRTMIN: "SIGRTMIN", signal.SIGRTMIN + 3: "SIGRTMIN+3"}
    assert {number: signal_name(number) for number in names} == names
    assert signal_name(32) == "signal 32"  # the C library's own


def test_an_ignored_signal_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with RunInterrupts(), signals_exit():
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_that_a_library_has_taken_is_its_own(tmp_path: Path) -> None:
    with (tmp_path / "traces").open("w+") as traces:
        faulthandler.register(signal.SIGUSR1, traces)
        try:
            assert signal.SIGUSR1 not in untaken()
            with signals_exit(), RunInterrupts():
                send(signal.SIGUSR1)
            assert "test_a_signal_that" in (tmp_path / "traces").read_text()
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    assert signal.SIGUSR1 in untaken()


def test_automatically_repeated_signal_is_no_second_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A closed terminal sends SIGHUP twice, `timeout` SIGTERM; service managers send several."""
    with pytest.raises(Terminated) as raised, RunInterrupts():
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGHUP):
            send(number)
    assert raised.value.code == 128 + signal.SIGTERM
    monkeypatch.setattr(interrupts_module, "_ONE_REQUEST", -1.0)
    passed = []
    with pytest.raises(Terminated), RunInterrupts():
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGXCPU, signal.SIGTERM):
            send(number)
            passed.append(number)
    assert passed == [signal.SIGHUP, signal.SIGHUP, signal.SIGXCPU]


def test_a_handler_that_a_block_has_set_stays() -> None:
    def own(*_: object) -> None:
        pass

    try:
        with signals_exit():
            signal.signal(signal.SIGUSR2, own)
        assert signal.getsignal(signal.SIGUSR2) is own
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
