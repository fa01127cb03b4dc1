"""Signal handlers that raise, such as those of time limits, are deferred and break nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from encamp.cluster.cluster import Cluster
from encamp.executor import Executor
from encamp.loop.deferred_signals import DeferredSignals
from encamp.loop.signal_safe_lock import NonReentrantLock
from encamp.testing.waiting import until

SOON = 30.0


class Late(Exception):
    pass


class Raises:
    """A handler without code of its own to be known by."""

    def __call__(self, number: int, frame: object) -> None:
        raise Late(number)


@pytest.fixture(autouse=True)
def alarms() -> Iterator[None]:
    numbers = signal.SIGALRM, signal.SIGUSR1
    before = [signal.signal(number, Raises()) for number in numbers]
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_deferred_signals_are_raised_at_end_and_handlers_restored() -> None:
    done = []
    before = signal.getsignal(signal.SIGALRM)
    held = DeferredSignals()
    with pytest.raises(Late), held, held:  # noqa: PT012
        signal.raise_signal(signal.SIGALRM)
        signal.raise_signal(signal.SIGALRM)
        done.append(1)
    assert done == [1]
    assert signal.getsignal(signal.SIGALRM) is before
    with held:
        pass


def test_a_handler_that_is_replaced_meanwhile_stays_replaced() -> None:
    held = DeferredSignals()
    newer = Raises()
    with held:
        signal.signal(signal.SIGALRM, newer)
    assert signal.getsignal(signal.SIGALRM) is newer


def test_a_lock_that_its_own_thread_asks_for_again_is_free_when_it_is_given_back() -> None:
    lock = NonReentrantLock()
    with lock, pytest.raises(RuntimeError, match="a signal handler"), lock:
        pass
    with ThreadPoolExecutor(1) as others:
        assert others.submit(lock.acquire, wait=False).result(SOON)


def test_check_raises_unless_something_is_in_the_middle() -> None:
    held = DeferredSignals()
    with held:
        signal.raise_signal(signal.SIGALRM)
        with held:
            held.check()
        with pytest.raises(Late):
            held.check()
        held.check()


def test_each_signal_reaches_its_handler_though_another_raises() -> None:
    came = []
    signal.signal(signal.SIGUSR1, lambda *_: came.append("usr1"))
    with pytest.raises(Late), DeferredSignals():  # noqa: PT012
        signal.raise_signal(signal.SIGALRM)
        signal.raise_signal(signal.SIGUSR1)
    assert came == ["usr1"]


def test_waiting_handler_runs_pending_handlers_and_may_change_them() -> None:
    held, came = DeferredSignals(), []

    def first(*_: object) -> None:
        came.append("alrm")
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        with held:
            pass
        came.append("end")

    signal.signal(signal.SIGALRM, first)
    signal.signal(signal.SIGUSR1, lambda *_: came.append("usr1"))
    with held:
        signal.raise_signal(signal.SIGALRM)
        signal.raise_signal(signal.SIGUSR1)
    assert came == ["alrm", "usr1", "end"]


def test_a_signal_whose_handler_another_one_has_called_is_no_error() -> None:
    """As when an alarm comes between the look for what waits and the call of its handler."""
    came: list[str] = []

    class Racing(DeferredSignals):
        def _hand_over(self, *numbers: int) -> None:
            super()._hand_over(*numbers)
            super()._hand_over(*numbers)

    signal.signal(signal.SIGALRM, lambda *_: came.append("alrm"))
    with Racing():
        signal.raise_signal(signal.SIGALRM)
    assert came == ["alrm"]


def test_a_second_ctrl_c_is_raised_at_once() -> None:
    held, done = DeferredSignals(), []
    with pytest.raises(KeyboardInterrupt), held:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done.append(1)
        signal.raise_signal(signal.SIGINT)
        done.append(2)
    assert done == [1]
    with held:
        pass


def test_a_handler_that_is_changed_meanwhile_stays() -> None:
    mine = Raises()
    with DeferredSignals():
        signal.signal(signal.SIGALRM, mine)
    assert signal.getsignal(signal.SIGALRM) is mine


class Slow:
    """Rings the alarm while it is pickled."""

    def __reduce__(self) -> Any:
        signal.raise_signal(signal.SIGALRM)
        return str, ("slow",)


def sleep_until(path: Path) -> int:
    until(path.exists)
    return 1


def test_a_handler_is_no_error_of_what_is_pickled(local_storage_base: Path) -> None:
    slow = Slow()
    with Cluster("local", slots=1) as cluster:
        with pytest.raises(Late):
            cluster.spawn(lambda: slow)
        task = cluster.spawn(str, "a")
        with pytest.raises(Late):
            cluster.send(task, Slow())
        argument = cluster.spawn(str, Slow())
        with pytest.raises(Late):  # noqa: PT012
            argument.result(SOON)
            signal.pause()  # the background's thread may have pickled it
        assert argument.result(SOON) == "slow"
        assert task.result(SOON) == "a"


def test_shutdown_and_close_can_be_interrupted_and_called_again(
    local_storage_base: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    executor = Executor(slots=1)
    calls = [executor.submit(sleep_until, gate) for _ in range(2)]
    for _ in range(2):
        with pytest.raises(Late):  # noqa: PT012
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            executor.shutdown()
    for wait in (calls[0].result, executor.cluster.close):
        with pytest.raises(Late):  # noqa: PT012
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            wait()
    gate.touch()
    executor.shutdown()
    assert [call.result(0) for call in calls] == [1, 1]


def test_alarms_at_any_moment_lose_nothing(local_storage_base: Path) -> None:
    with Cluster("local", slots=1) as cluster:
        for number in range(30):
            tasks = []
            with pytest.raises(Late):  # noqa: PT012
                signal.setitimer(signal.ITIMER_REAL, 0.0004 * (number + 1))
                tasks = [cluster.spawn(abs, -n) for n in range(20)]
                for task in tasks:
                    task.result(SOON)
                while True:
                    time.sleep(0)
            assert [task.result(SOON) for task in tasks] == list(range(len(tasks)))
        assert cluster.spawn(os.getpid).result(SOON)
