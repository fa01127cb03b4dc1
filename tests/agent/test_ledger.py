"""Results that a slot holds back in its ledger, and its agent reads."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from encamp.slot import ledger
from encamp.slot.ledger import HOLD, SIZE, Ledger


@pytest.fixture
def fd() -> Iterator[int]:
    """Memory as an agent has it."""
    made = ledger.create()
    yield made
    os.close(made)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the slot's clock says when it has written something down."""
    times = [5.0]
    monkeypatch.setattr(ledger, "perf_counter", lambda: times[0])
    return times


@pytest.fixture
def slot(fd: int, clock: list[float]) -> Ledger:
    """The slot's side, which has just sent something."""
    made = Ledger(os.dup(fd))
    made.sent(1, now=5.0)
    return made


def test_held_results_are_readable_until_sent(slot: Ledger, fd: int) -> None:
    assert slot.hold(b"one", now=5.0)
    assert slot.hold(b"", now=5.0)
    assert slot.hold(b"three" * 100, now=5.0)
    assert list(map(bytes, slot.held)) == [b"one", b"", b"three" * 100]
    assert ledger.read(fd) == (1, [b"one", b"", b"three" * 100])
    slot.sent(4, now=5.1)  # with one that was not held
    assert ledger.read(fd) == (5, [])
    assert slot.hold(b"again", now=5.1)
    assert ledger.read(fd) == (5, [b"again"])


def test_nothing_is_held_for_long_or_beyond_its_room(slot: Ledger, fd: int) -> None:
    assert not slot.hold(b"late", now=5.0 + 2 * HOLD)
    assert not slot.hold(b"x" * SIZE, now=5.0)
    held = 0
    while slot.hold(b"x" * 1000, now=5.0):
        held += 1
    assert held == (SIZE - 8) // 1004
    assert ledger.read(fd) == (1, [b"x" * 1000] * held)


@pytest.mark.parametrize("before", [0, 1, 3])
def test_its_room_is_used_to_the_last_byte_and_no_further(
    slot: Ledger, fd: int, before: int
) -> None:
    """Each result takes four bytes more than its length, and all together eight."""
    held = [b"x" * 100] * before
    for result in held:
        assert slot.hold(result, now=5.0)
    left = SIZE - 8 - 104 * before
    assert not slot.hold(b"y" * (left - 4 + 1), now=5.0)
    assert ledger.read(fd) == (min(1, before), held)
    assert slot.hold(b"y" * (left - 4), now=5.0)
    assert ledger.read(fd) == (1, [*held, b"y" * (left - 4)])
    assert not slot.hold(b"", now=5.0)


def test_late_results_are_sent_not_held(slot: Ledger, fd: int, clock: list[float]) -> None:
    assert slot.hold(b"one", now=5.0)
    clock[0] += 3 * HOLD  # others had its core
    assert not slot.hold(b"two", now=5.0)
    assert ledger.read(fd) == (1, [b"one", b"two"])  # as long as it is not sent
    slot.sent(2, now=clock[0])
    assert ledger.read(fd) == (3, [])
    assert slot.held == []


def test_without_memory_nothing_is_held() -> None:
    slot = Ledger()
    slot.sent(1, now=5.0)
    assert not slot.hold(b"one", now=5.0)
    slot.sent(2, now=5.0)
    assert slot.first == 3


def test_ledger_changed_during_read_is_ignored(
    slot: Ledger, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert slot.hold(b"one", now=5.0)
    pread = os.pread

    def meanwhile(fd: int, count: int, offset: int) -> bytes:
        data = pread(fd, count, offset)
        slot.sent(1, now=5.0)
        return data

    monkeypatch.setattr(os, "pread", meanwhile)
    assert ledger.read(fd) is None


def test_the_last_note_is_found_whole_or_not_at_all(
    slot: Ledger, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ledger.noted(fd) == b""
    assert slot.note(b"first")
    assert slot.note(b"second")
    assert ledger.noted(fd) == b"second"
    assert slot.hold(b"result", now=5.0)
    assert (ledger.noted(fd), ledger.read(fd)) == (b"second", (1, [b"result"]))
    real = os.pread

    def pread(fd: int, size: int, at: int) -> bytes:
        if size == len(b"second"):
            slot.note(b"third!")
        return real(fd, size, at)

    monkeypatch.setattr(os, "pread", pread)
    assert ledger.noted(fd) == b""
    monkeypatch.setattr(os, "pread", real)
    assert ledger.noted(fd) == b"third!"
    assert slot.note(b"x" * ledger.LONGEST_NOTE)
    assert not slot.note(b"x" * (ledger.LONGEST_NOTE + 1))
    assert ledger.noted(fd) == b""


class Watched:
    """The words of a ledger, of which the agent looks at the mark after each change."""

    def __init__(self, words: memoryview, fd: int) -> None:
        self._words, self._fd = words, fd
        self.seen: list[tuple[int, int]] = []

    def __getitem__(self, at: int) -> int:
        word: int = self._words[at]
        return word

    def __setitem__(self, at: int, word: int) -> None:
        self._words[at] = word
        self.seen.append(ledger.marked(self._fd))


def test_a_mark_is_never_a_mixture_of_two_nor_that_of_an_earlier_call(
    slot: Ledger, fd: int
) -> None:
    watched = Watched(slot._words, fd)
    slot._words = watched  # type: ignore[assignment]
    for about, number in ((7, 3), (7, 4), (8, 1), (8, 2)):
        slot.mark(about, number)
        assert ledger.marked(fd) == slot.now == (about, number)
    assert set(watched.seen) <= {(0, 0), (7, 0), (7, 3), (7, 4), (8, 0), (8, 1), (8, 2)}
    slot.begin_call()
    assert ledger.marked(fd)[1] == 0  # it has not marked anything yet
