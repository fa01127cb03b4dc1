"""Short messages through shared memory are neither lost nor reordered."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from encamp.cluster.cluster import SPAWNER, Cluster
from encamp.cluster.events import TaskExit, TaskResult
from encamp.loop import polling
from encamp.loop.event_loop import PASSED
from encamp.loop.pump import Pump
from encamp.loop.signal_safe_lock import NonReentrantLock
from encamp.slot import ledger, shared_memory
from encamp.slot.current_task import current_task
from encamp.slot.shared_memory import ROOM, Cells, ProgramShortcut, SlotShortcut
from encamp.slot.small_messages import PreparedSends
from encamp.wire.pickling import dump
from encamp.wire.protocol import CheckMemory, Message, Received, decode, encode

pytestmark = pytest.mark.skipif(not shared_memory.USABLE, reason="not on this kind of processor")
SOON = 30.0
LARGE = 100_000


def echo() -> str:
    """Send everything back, and a number after it if it is not "alone", until it is None."""
    me = current_task()
    answers = count()
    while (got := me.receive()) is not None and got.message is not None:
        me.send(SPAWNER, got.message)
        if got.message != "alone":
            me.send(SPAWNER, next(answers))
    return "done"


def answer_beside_others() -> None:
    """Answer every second message; after the others, send something to a service."""
    me = current_task()
    while (got := me.receive()) is not None and got.message is not None:
        other = Message(SPAWNER, me.id, port=1)
        me._slot.connection.send([encode(other), *dump("for a service")])
        got = me.receive()
        me.send(SPAWNER, got and got.message)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster("local", slots=1)
    yield cluster
    cluster.close(cancel=True)


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many messages went each way by the shortcut, however busy this machine is."""
    monkeypatch.setattr(polling, "POLL_FOR", 1.0)
    monkeypatch.setattr(shared_memory, "TURN_WITHIN", SOON)
    went = {"sent": 0, "received": 0}
    send, receive = ProgramShortcut.send, ProgramShortcut.receive

    def counted_send(self: ProgramShortcut, *args: Any) -> bool:
        sent = send(self, *args)
        went["sent"] += sent
        return sent

    def counted_receive(self: ProgramShortcut, *args: Any) -> Any:
        received = receive(self, *args)
        went["received"] += received is not None
        return received

    monkeypatch.setattr(ProgramShortcut, "send", counted_send)
    monkeypatch.setattr(ProgramShortcut, "receive", counted_receive)
    return went


def test_messages_and_events_are_ordered(cluster: Cluster, passed: dict[str, int]) -> None:
    task, number, answers = cluster.spawn(echo), 0, count()
    until = time.monotonic() + SOON
    while time.monotonic() < until and (number < 60 or not min(passed.values())):
        message = (number, b"x" * (LARGE if number % 7 == 0 else 10))
        cluster.send(task, message)
        if number % 5 == 0:
            cluster.send(task, "second")
        for one in (message, "second") if number % 5 == 0 else (message,):
            assert cluster.receive(SOON) == Received(task.id, one)
            assert cluster.receive(SOON, source=task) == Received(task.id, next(answers))
        cluster.send(task, "alone")
        assert cluster.receive(SOON) == Received(task.id, "alone")
        number += 1
    assert min(passed.values()) > 0
    cluster.send(task, None)
    events = [cluster.receive(SOON), cluster.receive(SOON)]
    result, ended = (event.message for event in events if event is not None)
    assert isinstance(result, TaskResult)
    assert (result.value, isinstance(ended, TaskExit)) == ("done", True)


def test_messages_of_other_sources_stay(cluster: Cluster, passed: dict[str, int]) -> None:
    task = cluster.spawn(echo)
    for word in ("a", "b", "c"):  # by now there is a line
        cluster.send(task, word)
        assert cluster.receive(SOON) == Received(task.id, word)
        assert cluster.receive(SOON) is not None
    cluster.send(task, "kept")
    assert cluster.receive(0.05, source=task.id + 1) is None
    assert cluster.receive(SOON) == Received(task.id, "kept")
    assert cluster.receive(SOON) == Received(task.id, 3)
    cluster.send(task, None)


def test_messages_that_are_not_for_the_program_itself_are_not_taken_for_it(
    cluster: Cluster, passed: dict[str, int]
) -> None:
    task = cluster.spawn(answer_beside_others)
    for number in range(30):
        cluster.send(task, "first")
        assert cluster.receive(0.01) is None
        cluster.send(task, number)
        assert cluster.receive(SOON) == Received(task.id, number)
    cluster.send(task, None)
    assert passed["received"] > 0


def test_death_is_reported_after_shortcut_messages(
    cluster: Cluster,
) -> None:
    def die_at_none() -> None:
        me = current_task()
        while (got := me.receive()) is not None and got.message is not None:
            me.send(SPAWNER, got.message)
        os._exit(3)

    task = cluster.spawn(die_at_none)
    for number in range(10):
        cluster.send(task, number)
        assert cluster.receive(SOON) == Received(task.id, number)
    cluster.send(task, None)
    event = cluster.receive(SOON)
    assert event is not None
    assert isinstance(event.message, TaskResult)
    assert "exit status 3" in str(event.message.value)
    cluster.send(task, "nobody")
    assert cluster.spawn(abs, -1).result() == 1


def test_nonblocking_receive_sees_message_in_shared_memory(
    cluster: Cluster, passed: dict[str, int]
) -> None:
    task = cluster.spawn(echo)
    until = time.monotonic() + 3 * SOON
    number = 0
    while number < 200 or not passed["received"]:  # not all do if the cores are busy
        number += 1
        cluster.send(task, "alone")
        while (got := cluster.receive(0 if number % 3 else None)) is None:
            assert time.monotonic() < until
        assert got == Received(task.id, "alone")
        assert time.monotonic() < until
    cluster.send(task, None)


def test_messages_of_many_slots_arrive_once_in_order(passed: dict[str, int]) -> None:
    with Cluster("local", slots=3) as cluster:
        tasks = [cluster.spawn(echo, notify=False) for _ in range(3)]
        come: dict[int, list[object]] = {task.id: [] for task in tasks}
        for number in range(300):
            for task in tasks:
                cluster.send(task, (number, "x" * (LARGE if number % 50 == 49 else 1)))
            while len(come[tasks[number % 3].id]) < 2 * number:
                got = cluster.receive(SOON)
                assert got is not None
                come[got.source].append(got.message)
        for task in tasks:
            cluster.send(task, None)
        while any(len(each) < 600 for each in come.values()):
            got = cluster.receive(SOON)
            assert got is not None
            come[got.source].append(got.message)
    for each in come.values():
        assert [one[0] for one in each if isinstance(one, tuple)] == list(range(300))
        assert [one for one in each if isinstance(one, int)] == list(range(300))


# The cells alone


class Sent:
    """A writer that counts what it was given."""

    def __init__(self) -> None:
        self.count = 0
        self.parts: list[Any] = []

    def send(self, parts: Any, message: object = None) -> None:
        self.count += 1
        self.parts.append(parts)


class Taken:
    """A slot that notes what it is given."""

    def __init__(self) -> None:
        self.inbox: deque[Any] = deque()

    def take(self, envelope: Message, parts: Any) -> None:
        self.inbox.append((envelope.to, parts[1]))


class Sockets:
    """The sockets of a slot, of which nothing comes."""

    def __init__(self) -> None:
        self.slot, self.writer, self.read = Taken(), Sent(), 0
        self.polling, self.reading = NonReentrantLock(), threading.Lock()
        self.send = self.writer.send

    def has_data(self) -> bool:
        return False

    def leave(self) -> None:
        self.polling.release()


@pytest.fixture
def memory() -> memoryview:
    return memoryview(bytearray(ledger.ALL))


@pytest.fixture
def ends(memory: memoryview, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Sent, Sockets, Any]:
    """What sends to a slot, by a cell and by its socket; the slot's sockets, and its end."""
    monkeypatch.setattr(polling, "POLL_FOR", 0.0)
    sent, sockets = Sent(), Sockets()
    there: Any = sockets
    writer: Any = sent
    return (
        Cells(memory).to_slot.prepare(7, writer, sent.send),
        sent,
        sockets,
        SlotShortcut(there, memory),
    )


def test_cell_stays_empty_without_receiver(ends: tuple[Any, Sent, Sockets, SlotShortcut]) -> None:
    put, _, _, slot = ends
    assert not put(b"early")
    assert slot.catch(7, None) is None
    assert put(b"looked for")
    assert not put(b"there is room for one")
    assert slot.catch(7, None) == (SPAWNER, b"looked for")
    assert not put(b"x" * (ROOM + 1))
    assert put(b"x" * ROOM)
    assert slot.catch(7, SPAWNER) == (SPAWNER, b"x" * ROOM)


def test_earlier_socket_messages_are_received_first(
    ends: tuple[Any, Sent, Sockets, SlotShortcut],
) -> None:
    put, sent, sockets, slot = ends
    slot.catch(7, None)
    sent.send([b"by the socket"])
    assert put(b"behind that")
    assert slot.catch(7, None) is None
    assert not slot.deliver()
    sockets.read += 1
    sockets.slot.inbox.append((7, b"by the socket"))
    assert slot.catch(7, None) is None, "what was read is to be received first"
    sockets.slot.inbox.clear()
    assert slot.catch(7, None) == (SPAWNER, b"behind that")


def test_sleeping_receiver_checks_cell_and_is_woken(
    ends: tuple[Any, Sent, Sockets, SlotShortcut], memory: memoryview
) -> None:
    put, sent, sockets, slot = ends
    slot.catch(7, None)
    assert put(b"before the sleep")
    assert slot.rest(), "so it does not sleep"
    assert sockets.slot.inbox == deque([(7, b"before the sleep")])
    assert not slot.rest()
    assert not put(b"it sleeps")
    assert sent.parts == []


def test_late_sender_wakes_receiver(
    ends: tuple[Any, Sent, Sockets, SlotShortcut], memory: memoryview
) -> None:
    _, sent, _, slot = ends
    slot.catch(7, None)

    class Late:
        """In the place of the sender's lock: the receiver goes to sleep just before it."""

        def __enter__(self) -> None:
            assert slot.rest()

        def __exit__(self, *_: object) -> None: ...

    cell: Any = Cells(memory).to_slot
    cell._lock = Late()
    writer: Any = sent
    assert cell.prepare(7, writer, sent.send)(b"in between")
    assert [decode(parts[0]) for parts in sent.parts] == [CheckMemory()]


def test_messages_for_ended_task_are_left_to_slot(
    ends: tuple[Any, Sent, Sockets, SlotShortcut],
) -> None:
    put, _, sockets, slot = ends
    slot.catch(8, None)
    assert put(b"for 7")
    assert slot.catch(8, None) is None
    assert sockets.slot.inbox == deque([(7, b"for 7")])


def test_others_have_their_turn_in_an_exchange_without_a_pause(
    ends: tuple[Any, Sent, Sockets, SlotShortcut],
) -> None:
    put, _, _, slot = ends
    slot.catch(7, None)
    caught = 0
    while put(b"again") and slot.catch(7, None) is not None:
        caught += 1
        assert caught <= PASSED


def test_a_signal_handler_that_raises_leaves_no_lock_behind() -> None:
    pump = Pump()
    shortcut = ProgramShortcut(pump, (), PreparedSends({7: bool}), lambda _: None, lambda *_: None)
    raised: list[str] = []

    def raise_while_locked(frame: Any, event: str, _: Any) -> None:
        """As a handler may, before the first step of any function of Python."""
        if pump.lock.locked():
            raised.append(frame.f_code.co_name)
            raise TimeoutError

    before = sys.gettrace()
    sys.settrace(raise_while_locked)
    try:
        sent = shortcut.send(7, "payload")
    except TimeoutError:
        sent = False
    finally:
        sys.settrace(before)
    assert not pump.lock.locked(), raised
    assert sent
    pump.close()


def out_of_time(number: int, frame: object) -> None:
    raise TimeoutError


def test_a_time_limit_that_ends_while_a_task_looks_for_a_message_leaves_no_lock_behind(
    ends: tuple[Any, Sent, Sockets, SlotShortcut],
) -> None:
    _, _, sockets, slot = ends
    leave = sockets.leave

    def late() -> None:
        os.kill(os.getpid(), signal.SIGALRM)
        leave()

    sockets.leave = late  # type: ignore[method-assign]
    before = signal.signal(signal.SIGALRM, out_of_time)
    try:
        with pytest.raises(TimeoutError):
            slot.catch(7, None)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert sockets.polling.acquire(wait=False)
    sockets.polling.release()
