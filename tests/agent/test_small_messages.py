"""The shortcut for small messages leaves other messages in place and blocks no other thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import repeat
from pickle import UnpicklingError

import pytest

from encamp.engines.engine_interface import Arrival, Endpoint, Frame, PreparedSend, ShortMessages
from encamp.errors import BadFrame
from encamp.loop.pump import Pump
from encamp.slot.small_messages import EngineShortcut, PreparedSends
from encamp.wire.frames import Parts
from encamp.wire.outbox import Outbox
from encamp.wire.pickling import dump, dump_small
from encamp.wire.protocol import LABEL, SPAWNER, Message, Received, encode, label, unbundled

SOON = 20.0
TASK, SENDER = 7, 3
OWN = b"engine's"
"""What an engine has in front."""


class ShortEndpoint(Endpoint, ShortMessages):
    """An end with a shortcut; what has come is put there by the test."""

    start = len(OWN) + 8
    usable = True
    error = ConnectionError

    def __init__(self) -> None:
        self.inbox = bytearray(1024)
        self.size = memoryview(self.inbox)[len(OWN) : self.start].cast("q")
        self.come: deque[bytes] = deque()
        """Short messages; what does not begin with the mark is something else."""
        self.sent: list[tuple[int, bytes]] = []
        self.breaks = False
        self.looks = map(self._look, repeat(None))
        self.taken = self._taken
        self.short = self

    def send(self, to: int, parts: Sequence[object]) -> None: ...

    def prepare(self, to: int, head: bytes) -> PreparedSend:
        def send(data: bytes) -> bool:
            self.sent.append((to, head + data))
            return True

        return send

    def _look(self, _: None) -> bool:
        if self.come:
            self.inbox[self.start : self.start + len(self.come[0])] = self.come[0]
            self.size[0] = len(self.come[0])
        return bool(self.come)

    def _taken(self) -> None:
        self.come.popleft()
        if self.breaks:
            raise self.error

    def failed(self) -> None:
        self.breaks = False

    def receive(self) -> Sequence[Arrival]:
        frames = [Frame(1, [parts]) for parts in self.come]
        self.come.clear()
        return frames

    def descriptors(self) -> Sequence[int]:
        return ()

    def patience(self) -> float | None:
        return 0.001

    def close(self) -> None: ...


def message(value: object, to: int = SPAWNER, sender: int = SENDER) -> bytes:
    data = dump_small(value)
    assert data is not None
    return label(Message(to, sender)) + data


@pytest.fixture
def end() -> ShortEndpoint:
    return ShortEndpoint()


@pytest.fixture
def handled() -> list[Parts]:
    """What came the usual shortcut."""
    return []


@pytest.fixture
def pump(end: ShortEndpoint, handled: list[Parts]) -> Iterator[Pump]:
    def handle(arrival: Arrival) -> None:
        assert isinstance(arrival, Frame)
        handled.append(arrival.parts)

    pump = Pump()
    pump.attach(end, handle)
    pump.turn(0)
    yield pump
    pump.close()


@pytest.fixture
def outbox(end: ShortEndpoint) -> Outbox:
    return Outbox(end)


@pytest.fixture
def queue() -> list[object]:
    """What came before, and was not taken."""
    return []


@pytest.fixture
def prepared(end: ShortEndpoint) -> PreparedSends:
    """A send to `TASK`."""
    return PreparedSends({TASK: end.prepare(2, label(Message(TASK, SENDER, slot=0)))})


@pytest.fixture
def shortcut(
    pump: Pump, end: ShortEndpoint, outbox: Outbox, queue: list[object], prepared: PreparedSends
) -> EngineShortcut:
    return EngineShortcut(pump, end, end, outbox, queue, prepared)


def received(shortcut: EngineShortcut, source: int | None = None) -> Received | None:
    return shortcut.receive(source, None)


def test_a_message_is_received_once(
    shortcut: EngineShortcut, end: ShortEndpoint, handled: list[Parts]
) -> None:
    end.come += [message("one"), message(("two", 2), sender=SENDER + 1)]
    assert received(shortcut) == Received(SENDER, "one")
    assert received(shortcut) == Received(SENDER + 1, ("two", 2))
    assert received(shortcut) is None
    assert handled == []


def test_shortcut_keeps_order(
    shortcut: EngineShortcut, end: ShortEndpoint, queue: list[object]
) -> None:
    end.come.append(message("second"))
    queue.append("first")
    assert received(shortcut) is None
    queue.clear()
    assert received(shortcut) == Received(SENDER, "second")


def test_a_message_counts_though_no_other_can_come(
    shortcut: EngineShortcut, end: ShortEndpoint
) -> None:
    end.come.append(message("last"))
    end.breaks = True
    assert received(shortcut) == Received(SENDER, "last")
    assert not end.breaks  # told


@pytest.mark.parametrize(
    "data",
    [
        message("x", to=TASK),
        message("x", sender=SENDER + 1),
        encode(Message(SPAWNER, SENDER)) + b"x",
    ],
    ids=["task", "sender", "no message"],
)
def test_what_is_something_else_stays_for_the_usual_way(
    shortcut: EngineShortcut, pump: Pump, end: ShortEndpoint, handled: list[Parts], data: bytes
) -> None:
    end.come.append(data)
    assert received(shortcut, SENDER) is None
    assert list(end.come) == [data]
    assert pump.until(lambda: handled, SOON)
    assert handled == [[data]]


def test_unpickling_error_is_raised_once(shortcut: EngineShortcut, end: ShortEndpoint) -> None:
    end.come += [label(Message(SPAWNER, SENDER)) + b"no pickle", message("next")]
    with pytest.raises(UnpicklingError):
        received(shortcut)
    assert received(shortcut) == Received(SENDER, "next")


def test_what_was_not_looked_for_is_a_message_like_any_other() -> None:
    to = Message(TASK, SENDER, agent=2, slot=0, run=5)
    ((envelope, parts),) = unbundled([label(to) + dump("x")[0] + b"old bytes"])
    assert (envelope.to, envelope.sender, envelope.slot, envelope.run) == (TASK, SENDER, 0, 5)
    assert bytes(parts[1]).startswith(dump("x")[0])
    with pytest.raises(BadFrame, match="too short"):
        unbundled([label(to)[: LABEL.size - 1]])


def test_prepared_send_is_for_its_receiver(pump: Pump, end: ShortEndpoint, outbox: Outbox) -> None:
    prepared = PreparedSends()
    shortcut = EngineShortcut(pump, end, end, outbox, (), prepared)
    to = Message(TASK, SENDER, agent=2, slot=0)
    for _ in range(2):  # the first message says only that there may be more
        assert not shortcut.send(TASK, "payload")
        prepared.sent(to, shortcut.prepare)
    assert not shortcut.send(TASK + 1, "payload")
    assert shortcut.send(TASK, "payload")
    assert end.sent == [(2, message("payload", to=TASK))]


def test_a_line_lets_what_was_posted_before_go_first(
    shortcut: EngineShortcut, end: ShortEndpoint, outbox: Outbox
) -> None:
    outbox.post(2, [b"before"])
    assert not shortcut.send(TASK, "behind")
    outbox.flush()
    assert shortcut.send(TASK, "behind")


def test_shortcut_yields_to_pending_callbacks(
    shortcut: EngineShortcut, pump: Pump, end: ShortEndpoint
) -> None:
    called: list[int] = []
    end.come.append(message("x"))
    pump.call_soon(lambda: called.append(1))
    assert received(shortcut) is None
    assert not shortcut.send(TASK, "x")
    assert pump.until(lambda: called, SOON)


def test_shortcut_yields_to_event_loop_periodically(
    shortcut: EngineShortcut, pump: Pump, end: ShortEndpoint, handled: list[Parts]
) -> None:
    rung: list[int] = []
    pump.call_later(0.01, lambda: rung.append(1))
    end_of_time = time.monotonic() + SOON
    while not rung:
        assert time.monotonic() < end_of_time
        end.come.append(message("x"))
        if received(shortcut) is None:
            handled.clear()
            assert pump.until(lambda: handled, SOON)


def test_who_drives_is_not_disturbed(
    shortcut: EngineShortcut, pump: Pump, end: ShortEndpoint
) -> None:
    found: list[object] = []

    def other() -> None:
        found.append(received(shortcut))
        found.append(shortcut.send(TASK, "x"))

    def drive() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(SOON)

    end.come.append(message("x"))
    pump.call_now_or_soon(drive)
    assert found == [None, False]
    assert len(end.come) == 1


def test_it_is_closed_for_good(shortcut: EngineShortcut, end: ShortEndpoint) -> None:
    end.come.append(message("x"))
    shortcut.close()
    assert received(shortcut) is None


def test_small_values_are_pickled_as_they_are_and_others_left_to_the_usual_way() -> None:
    numpy = pytest.importorskip("numpy")
    assert dump_small({"a": [1, 2.0]}) == dump({"a": [1, 2.0]})[0]
    assert dump_small(numpy.zeros(4)) is not None
    assert dump_small(numpy.zeros(10_000)) is None
    assert dump_small(lambda: 1) is None
    assert dump_small("about __main__") is None
