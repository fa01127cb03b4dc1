"""The waiting thread drives the pump: errors of engines, handlers and signal handlers."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from encamp.cluster.cluster import Cluster
from encamp.engines.engine_interface import Arrival, Endpoint
from encamp.errors import EngineFailed, TaskLost
from encamp.loop.pump import Pump
from encamp.testing import work
from encamp.testing.fake import FakeEngine

SOON = 10.0


class Odd(Endpoint):
    """An end that always has something to do, and does it badly."""

    def __init__(self, deed: type[Exception] | signal.Signals) -> None:
        self.deed = deed

    def send(self, to: int, parts: Sequence[object]) -> None: ...

    def receive(self) -> Sequence[Arrival]:
        if isinstance(self.deed, signal.Signals):
            os.kill(os.getpid(), self.deed)
            return []
        raise self.deed("of the engine")

    def descriptors(self) -> Sequence[int]:
        return ()

    def patience(self) -> float | None:
        return 0

    def close(self) -> None: ...


@pytest.fixture
def pump() -> Iterator[Pump]:
    pump = Pump()
    yield pump
    pump.close()


@pytest.fixture
def broken(pump: Pump) -> list[Exception]:
    """What the pump tells its owner."""
    found: list[Exception] = []
    pump.broken = found.append
    return found


def odd() -> None:
    raise TypeError("of a handler")


def test_engine_error_is_reported_once_not_raised_in_waiter(
    pump: Pump, broken: list[Exception]
) -> None:
    pump.attach(Odd(TypeError), lambda _: None)
    assert not pump.until(lambda: False, 0.05)
    assert [str(error) for error in broken] == ["of the engine"]


def test_failed_engine_descriptors_wake_no_thread(pump: Pump, broken: list[Exception]) -> None:
    """As a connection that has ended, which stays readable."""
    end = Odd(TypeError)
    left, right = socket.socketpair()
    with left, right:
        right.close()
        with patch.object(end, "descriptors", lambda: (left.fileno(),)):
            pump.attach(end, lambda _: None)
            assert pump.descriptors_ready()
            pump.until(lambda: broken, SOON)
            assert not pump.descriptors_ready()


def test_handler_error_is_reported_and_others_run(pump: Pump, broken: list[Exception]) -> None:
    called: list[int] = []
    pump.call_soon(odd)
    pump.call_soon(lambda: called.append(1))
    assert pump.until(lambda: called, SOON)
    assert [str(error) for error in broken] == ["of a handler"]


def test_without_anybody_to_tell_an_error_is_raised_where_somebody_waits(pump: Pump) -> None:
    pump.call_soon(odd)
    with pytest.raises(TypeError, match="of a handler"):
        pump.until(lambda: False, SOON)


def test_signal_handler_error_is_raised_in_waiting_thread(
    pump: Pump, broken: list[Exception]
) -> None:
    def too_late(*_: object) -> None:
        raise TimeoutError("of the program")

    before = signal.signal(signal.SIGUSR1, too_late)
    end = Odd(signal.SIGUSR1)
    pump.attach(end, lambda _: None)
    try:
        for _ in range(2):  # so the end is still asked
            with pytest.raises(TimeoutError, match="of the program"):
                pump.until(lambda: False, SOON)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert broken == []


def test_an_internal_error_in_the_waiting_thread_ends_the_cluster(
    local_storage_base: Path, no_slots_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine(1)
    with Cluster(engine) as cluster:
        task = cluster.spawn(work.wait_for_ever, notify=False)
        assert cluster.receive(SOON, source=task)
        usual, here = engine.receive, threading.get_ident()

        def receive() -> Sequence[Arrival]:
            if threading.get_ident() == here:
                raise TypeError("no number")
            return usual()

        monkeypatch.setattr(engine, "receive", receive)
        error = task.exception(SOON)
        assert isinstance(error, TaskLost)
        assert "TypeError: no number" in str(error)
        with pytest.raises(EngineFailed, match="the engine 'fake' failed: TypeError: no number"):
            cluster.spawn(abs, -1)


class Sending(Endpoint):
    """An end that goes on sending each time that it is asked what has come, which is nothing."""

    number = 1
    left = 5

    def send(self, to: int, parts: Sequence[object]) -> None: ...

    def receive(self) -> Sequence[Arrival]:
        self.left -= 1
        return ()

    def descriptors(self) -> Sequence[int]:
        return ()

    def patience(self) -> float | None:
        return 0 if self.sending else None

    @property
    def sending(self) -> bool:
        return self.left > 0

    def close(self) -> None: ...


class Sleepless:
    """In the place of a pump's poll: notes each sleep, and does not."""

    def __init__(self) -> None:
        self.sleeps = 0

    def poll(self, limit: float, most: int) -> list[tuple[int, int]]:
        self.sleeps += limit > 0
        return []

    def close(self) -> None: ...


def test_waiting_for_sends_ends_when_all_is_sent(pump: Pump) -> None:
    end = Sending()
    pump.attach(end, lambda _: None)
    real, pump._poll = pump._poll, Sleepless()  # type: ignore[assignment]
    real.close()
    assert pump.until(lambda: not end.sending)
    assert pump._poll.sleeps == 0  # type: ignore[attr-defined]
