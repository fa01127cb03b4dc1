"""Polling before a sleep: only after a short wait, and for a bounded time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from encamp.loop import polling
from encamp.loop.polling import POLL_FOR, SOON, Poller


class Clock:
    """A clock that goes on by what each look and sleep takes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looks = self.sleeps = 0
        self.found_at = float("inf")

    def look(self) -> list[int]:
        self.looks += 1
        self.now += POLL_FOR / 10
        return [1] if self.now >= self.found_at else []

    def sleep(self) -> list[int]:
        self.sleeps += 1
        self.now = max(self.now, self.found_at)
        return [1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(polling.time, "perf_counter", lambda: clock.now)
    return clock


def test_the_first_wait_and_one_after_a_long_one_only_sleep(clock: Clock) -> None:
    waits = Poller()
    for _ in range(3):
        clock.found_at = clock.now + 2 * SOON
        assert waits.wait(clock.look, clock.sleep) == [1]
    assert (clock.looks, clock.sleeps) == (0, 3)


def test_quick_arrival_is_found_by_polling(clock: Clock) -> None:
    waits = Poller()
    clock.found_at = clock.now + SOON / 2
    waits.wait(clock.look, clock.sleep)
    clock.found_at = clock.now + POLL_FOR / 2
    assert waits.wait(clock.look, clock.sleep) == [1]
    assert clock.sleeps == 1
    assert clock.looks > 0


def test_polling_ends_in_sleep_without_arrivals(clock: Clock) -> None:
    waits = Poller()
    clock.found_at = clock.now
    waits.wait(clock.look, clock.sleep)
    clock.found_at = clock.now + 100 * SOON
    assert waits.wait(clock.look, clock.sleep) == [1]
    assert 0 < clock.looks < 20
    assert clock.sleeps == 2
    before = clock.looks
    clock.found_at = clock.now
    waits.wait(clock.look, clock.sleep)
    assert clock.looks == before


def test_each_look_in_vain_is_followed_by_a_longer_time_without_any(clock: Clock) -> None:
    waits, pauses = Poller(), []
    for _ in range(5):
        clock.found_at, begun = float("inf"), clock.now
        assert waits.look(clock.look) is None
        ended, before = clock.now, clock.looks
        clock.found_at = clock.now
        while not waits.look(clock.look):
            assert clock.looks == before
            clock.now += POLL_FOR / 10
        pauses.append(round((clock.now - ended) / (ended - begun)))
        waits._pause *= 2  # as if that had been in vain, too
    assert pauses == [1, 4, 16, 64, 64]


def test_looks_that_find_something_make_up_for_one_in_vain(clock: Clock) -> None:
    waits = Poller()
    for _ in range(10):
        clock.found_at = float("inf")
        assert waits.look(clock.look) is None
        clock.now += 1.1 * POLL_FOR
        for _ in range(3):
            clock.found_at = clock.now
            assert waits.look(clock.look) == [1]


def test_polling_is_shortened_after_losing_the_core(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slice_of_others = 10 * POLL_FOR

    def yield_the_core() -> None:
        clock.now += slice_of_others

    monkeypatch.setattr(polling.os, "sched_yield", yield_the_core)
    waits = Poller()
    assert waits.look(clock.look) is None
    clock.found_at = clock.now
    clock.now += 0.9 * slice_of_others
    assert waits.look(clock.look) is None
    assert clock.looks == 1
    clock.now += 0.2 * slice_of_others
    assert waits.look(clock.look) == [1]
