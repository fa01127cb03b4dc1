"""Turns with nothing but messages for this process are cut short, but not for long."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence

import pytest

from encamp.engines.engine_interface import Arrival, Frame
from encamp.engines.kit.in_process_agent import InProcessEndpoint
from encamp.loop import event_loop as module
from encamp.loop.event_loop import PASSED
from encamp.loop.pump import Pump

SOON = 10.0


class Messages:
    """A pipe by which messages come; ``rests`` counts the turns that were whole."""

    def __init__(self, pump: Pump) -> None:
        self.pump = pump
        self.rests = self.come = 0
        self.alone = True
        """Whether messages need nothing more in their turn."""
        self.there, self._here = os.pipe()
        pump.watch(self.there, self._ready)
        pump.at_turn_end.append(self._turned)

    def _ready(self, _: int) -> bool:
        self.come += len(os.read(self.there, 100))
        return self.alone

    def _turned(self) -> None:
        self.rests += 1

    def turn(self) -> bool:
        """Whether a turn with a message was whole."""
        rests, come = self.rests, self.come
        os.write(self._here, b"m")
        self.pump.turn(SOON)
        assert self.come == come + 1
        return self.rests > rests

    def close(self) -> None:
        os.close(self.there)
        os.close(self._here)


class Queue(InProcessEndpoint):
    """An end without descriptors, which says itself when something has come."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.queue: list[Arrival] = []

    def receive(self) -> Sequence[Arrival]:
        come, self.queue = self.queue, []
        return come

    def patience(self) -> float | None:
        return 0 if self.queue else None


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Messages]:
    monkeypatch.setattr(module, "TURN_WITHIN", SOON)  # whatever else this machine has to do
    pump = Pump()
    messages = Messages(pump)
    pump.turn(0)  # a whole one, as there was none
    yield messages
    pump.close()
    messages.close()


def test_a_message_for_somebody_here_needs_no_whole_turn(messages: Messages) -> None:
    assert [messages.turn() for _ in range(3)] == [False] * 3
    messages.alone = False
    assert messages.turn()


def test_orders_run_in_turn_of_message(messages: Messages) -> None:
    pump, done = messages.pump, []

    def ready(events: int) -> bool:
        pump.call_soon(lambda: done.append("order"))
        return messages._ready(events)

    pump.watch(messages.there, ready)
    assert messages.turn()
    assert done == ["order"]


def test_due_messages_are_sent(messages: Messages) -> None:
    due = False
    messages.pump.due.append(lambda: due)
    assert not messages.turn()
    due = True
    assert messages.turn()


def test_arrivals_without_descriptors_are_handled(messages: Messages) -> None:
    end = Queue(0)
    come: list[object] = []
    messages.pump.attach(end, come.append)

    def ready(events: int) -> bool:
        end.queue.append(Frame(1, [b"frame"]))
        return messages._ready(events)

    messages.pump.watch(messages.there, ready)
    assert messages.turn()
    assert len(come) == 1


def test_messages_without_a_pause_leave_a_turn_for_others(
    messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [messages.turn() for _ in range(2 * PASSED + 2)]
    assert [at + 1 for at, one in enumerate(whole) if one] == [PASSED + 1, 2 * PASSED + 2]
    monkeypatch.setattr(module, "TURN_WITHIN", 0.001)
    time.sleep(0.002)
    assert messages.turn()
