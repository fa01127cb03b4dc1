"""When a server counts as not answering; without processes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from encamp.loop.pump import Pump
from encamp.services.registry.probes import Probes
from encamp.services.registry.server_record import ServerRecord

LIMIT = 4.0


class Task:
    """As much of a task as is looked at."""

    id = 7


class Clock:
    """A pump's timers, and the time, which stands still in between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self._next: tuple[float, Callable[[], None]] | None = None
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self._next = self.now + seconds, call

    def go_on(self, seconds: float) -> None:
        """Let time go by, and call what is due then."""
        end = self.now + seconds
        while self._next is not None and self._next[0] <= end:
            (due, call), self._next = self._next, None
            self.now = max(self.now, due)
            call()
        self.now = end

    def stand_still(self, seconds: float) -> None:
        """Let time go by in which this process is stopped."""
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Watched:
    """A server that answers or does not."""

    def __init__(self, clock: Clock) -> None:
        self.servers: list[ServerRecord] | None = [ServerRecord(1, Task(), ready=True)]  # type: ignore[arg-type]
        self.answers = True
        self.asked = 0
        self.overdue: list[int] = []
        pump: Pump = clock  # type: ignore[assignment]
        self.probes = Probes(pump, LIMIT, lambda: self.servers, self._ask, self._end)

    def _ask(self, server: ServerRecord) -> None:
        self.asked += 1
        if self.answers:
            self.probes.answered(server.address)

    def _end(self, server: ServerRecord) -> None:
        self.overdue.append(server.number)


def test_only_a_server_that_answers_nothing_for_its_limit_is_ended(clock: Clock) -> None:
    one = Watched(clock)
    clock.go_on(10 * LIMIT)
    assert one.overdue == []
    one.answers = False
    clock.go_on(LIMIT / 2)
    one.probes.answered(7)  # a call of half the limit has ended, and another one begins
    clock.go_on(LIMIT * 0.9)
    assert one.overdue == []
    clock.go_on(LIMIT * 0.5)
    assert set(one.overdue) == {1}


def test_time_in_which_everything_was_stopped_does_not_count(clock: Clock) -> None:
    one = Watched(clock)
    one.answers = False
    clock.go_on(LIMIT / 2)
    clock.stand_still(100 * LIMIT)
    clock.go_on(LIMIT / 8)  # it was stopped as well, and has had no time to answer
    assert one.overdue == []
    one.probes.answered(7)
    one.answers = True
    clock.go_on(2 * LIMIT)
    assert one.overdue == []


def test_checks_stop_after_last_server(clock: Clock) -> None:
    one = Watched(clock)
    clock.go_on(LIMIT)
    asked, one.servers = one.asked, None
    clock.go_on(LIMIT)
    one.servers = [ServerRecord(2, Task(), ready=True)]  # type: ignore[arg-type]
    clock.go_on(LIMIT)
    assert one.asked == asked > 0
