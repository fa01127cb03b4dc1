"""The short way of small messages: what is for others stays, and nobody is kept waiting by it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

import pytest

from encamp.agent.protocol import Message, Results, encode, is_for
from encamp.agent.pump import Pump
from encamp.engines.base import Arrival, Endpoint, Frame
from encamp.wire import Parts

SOON = 20.0
TASK, SENDER = 7, 3


class Short(Endpoint):
    """An end with a short way; what has come is put there by the test."""

    short = 4096

    def __init__(self) -> None:
        self.come: deque[Parts] = deque()

    def send(self, to: int, parts: Sequence[object]) -> None: ...

    def look(self) -> Parts | None:
        return self.come[0] if self.come else None

    def taken(self) -> None:
        self.come.popleft()

    def receive(self) -> Sequence[Arrival]:
        frames = [Frame(1, parts) for parts in self.come]
        self.come.clear()
        return frames

    def descriptors(self) -> Sequence[int]:
        return ()

    def patience(self) -> float | None:
        return 0.001

    def close(self) -> None: ...


def message(payload: bytes, to: int = TASK, sender: int = SENDER) -> Parts:
    return [encode(Message(to, sender)), payload]


@pytest.fixture
def end() -> Short:
    return Short()


@pytest.fixture
def handled() -> list[Parts]:
    """What came the usual way."""
    return []


@pytest.fixture
def pump(end: Short, handled: list[Parts]) -> Iterator[Pump]:
    def handle(arrival: Arrival) -> None:
        assert isinstance(arrival, Frame)
        handled.append(arrival.parts)

    pump = Pump()
    pump.attach(end, handle)
    pump.turn(0)
    yield pump
    pump.close()


def caught(pump: Pump, source: int | None = None) -> object:
    return pump.if_alone(pump.catch, is_for, TASK, source)


def test_a_message_is_caught_once(pump: Pump, end: Short, handled: list[Parts]) -> None:
    end.come += [message(b"one"), message(b"two")]
    assert caught(pump) == (SENDER, b"one")
    assert caught(pump) == (SENDER, b"two")
    assert caught(pump) is None
    assert handled == []


@pytest.mark.parametrize(
    "parts",
    [
        message(b"x", to=TASK + 1),
        message(b"x", sender=SENDER + 1),
        [*message(b"x"), b"a buffer"],
        [encode(Results(0, [])), b"x"],
        [encode(Message(TASK, SENDER))[:3], b"x"],
        [memoryview(bytearray(encode(Message(TASK, SENDER)))), b"x"],
        [],
    ],
    ids=["task", "sender", "buffers", "no message", "cut off", "no bytes", "long"],
)
def test_what_is_something_else_stays_for_the_usual_way(
    pump: Pump, end: Short, handled: list[Parts], parts: Parts
) -> None:
    end.come.append(parts)
    assert caught(pump, SENDER) is None
    assert list(end.come) == [parts]
    assert pump.until(lambda: handled, SOON)
    assert handled == [parts]


def test_it_gives_way_to_what_others_asked_for(pump: Pump, end: Short) -> None:
    called: list[int] = []
    end.come.append(message(b"x"))
    pump.soon(lambda: called.append(1))
    assert caught(pump) is None
    assert pump.until(lambda: called, SOON)


def test_it_gives_way_to_a_turn_now_and_then(pump: Pump, end: Short, handled: list[Parts]) -> None:
    rung: list[int] = []
    pump.later(0.01, lambda: rung.append(1))
    end_of_time = time.monotonic() + SOON
    while not rung:
        assert time.monotonic() < end_of_time
        end.come.append(message(b"x"))
        if caught(pump) is None:
            handled.clear()
            assert pump.until(lambda: handled, SOON)


def test_who_drives_is_not_disturbed(pump: Pump, end: Short) -> None:
    found: list[object] = []

    def drive() -> None:
        other = threading.Thread(target=lambda: found.append(caught(pump)))
        other.start()
        other.join(SOON)

    end.come.append(message(b"x"))
    pump.now(drive)
    assert found == [None]
    assert len(end.come) == 1
