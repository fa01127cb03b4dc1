"""Questions of a slot to the controller, and their answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from encamp.agent.inline_slot import InlineSlot
from encamp.agent.thread_slot import ThreadSlot
from encamp.loop.deferred_signals import DeferredSignals
from encamp.loop.signal_safe_lock import NonReentrantLock
from encamp.slot.slot import Slot
from encamp.wire.frames import Parts
from encamp.wire.pickling import dump
from encamp.wire.protocol import Answer, Ask, Message, decode

SOON = 10.0


class Answering:
    """A connection by which every question is answered, after ``before`` has come."""

    slot: Slot

    shortcut = None

    def __init__(self) -> None:
        self.tickets: list[int] = []
        self.before: list[tuple[int, str]] = []

    def send(self, parts: Parts, message: Message | None = None) -> None:
        envelope = decode(parts[0])
        assert isinstance(envelope, Ask)
        self.tickets.append(envelope.ticket)

    def send_to(self, slot: int, parts: Parts) -> bool:
        return False

    def until(self, found: Callable[[], Any], timeout: float | None) -> Any:
        for ticket, text in [*self.before, (self.tickets[-1], "mine")]:
            self.slot.take(Answer(0, ticket, True), [b"", *dump(text)])
        return found()


@pytest.fixture
def connection() -> Answering:
    connection = Answering()
    connection.slot = Slot(0, "here", connection)
    return connection


def test_an_answer_for_the_process_before_is_not_taken(connection: Answering) -> None:
    other = Answering()
    other.slot = Slot(0, "here", other)
    for _ in range(3):
        assert other.slot.ask("theirs") == "mine"
    connection.before = [(ticket, "theirs") for ticket in other.tickets]
    for _ in range(3):
        assert connection.slot.ask("ours") == "mine"
    assert not set(connection.tickets) & set(other.tickets)


def test_unawaited_answers_are_dropped(connection: Answering) -> None:
    connection.before = [(ticket, "theirs") for ticket in range(100)]
    assert connection.slot.ask("ours") == "mine"
    connection.slot.take(Answer(0, connection.tickets[-1], True), [b"", *dump("once more")])
    assert connection.slot._answers == {}


def wait_twice(slot: Any) -> list[bool]:
    """Whether a call that waits, at the end of its slot, is told so each time."""
    received = []

    def waits() -> None:
        slot._thread = threading.get_ident()  # of an inline slot: nobody else may wait
        for _ in range(2):
            try:
                slot.until(lambda: None, None)
            except SystemExit:
                received.append(True)

    thread = threading.Thread(target=waits, daemon=True)
    thread.start()
    thread.join(SOON)
    return received


def test_a_thread_that_waits_again_at_the_end_does_not_block() -> None:
    slot = ThreadSlot(SimpleNamespace(host="here", number=1, in_program=False, cluster=""), 0, "/")  # type: ignore[arg-type]
    slot.begin_end()
    slot.end(SOON)
    assert wait_twice(slot) == [True, True]


def test_an_agent_that_waits_again_at_the_end_does_not_block() -> None:
    def turn(timeout: float | None) -> None:
        raise AssertionError("it would block")

    slot = InlineSlot.__new__(InlineSlot)
    pump = SimpleNamespace(spun=lambda: False, turn=turn, signals_deferred=DeferredSignals())
    slot.agent = SimpleNamespace(over=True, pump=pump)  # type: ignore[assignment]
    slot._alone = NonReentrantLock()
    assert wait_twice(slot) == [True, True]
