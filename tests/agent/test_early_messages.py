"""Messages that arrive before their calls, and calls that are given back."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from encamp.agent.inline_slot import InlineSlot
from encamp.slot.current_task import current_task
from encamp.slot.slot import Slot
from encamp.slot.sockets import SlotSockets
from encamp.testing.waiting import until
from encamp.wire.frames import Parts, Writer
from encamp.wire.pickling import dump, load
from encamp.wire.protocol import (
    GivenBack,
    Link,
    Location,
    Message,
    Recall,
    Results,
    Run,
    decode,
    encode,
    encode_calls,
)


class Channel:
    """Keeps what a slot sends."""

    shortcut = None

    def __init__(self) -> None:
        self.sent: list[Parts] = []

    def send(self, parts: Parts, message: Message | None = None) -> None:
        """See `Connection.send`."""
        self.sent.append(parts)

    def send_to(self, slot: int, parts: Parts) -> bool:
        """See `Connection.send_to`."""
        return False

    def until(self, found: Callable[[], Any], timeout: float | None) -> Any:
        """See `Connection.until`."""
        time.sleep(timeout or 0.0)
        return found()

    @property
    def messages(self) -> list[tuple[int, int, Any]]:
        """By receiver and sender, the messages that were sent."""
        read = [(decode(parts[0]), parts[1:]) for parts in self.sent]
        return [(one.to, one.sender, load(rest)) for one, rest in read if isinstance(one, Message)]

    @property
    def results(self) -> list[int]:
        """Tasks that have ended."""
        envelopes = [decode(parts[0]) for parts in self.sent]
        return [one.results[0][0] for one in envelopes if isinstance(one, Results)]


HEARD: list[Any] = []


def hear() -> None:
    """Note all messages that are there."""
    while (got := current_task().receive(0)) is not None:
        HEARD.append((got.source, got.message))


def hear_letters() -> None:
    """Note all messages, and those for services."""
    hear()
    HEARD.extend(current_task()._slot.letters)


def ignore() -> None:
    """Leave all messages where they are."""


def slot() -> tuple[Slot, Channel]:
    HEARD.clear()
    channel = Channel()
    return Slot(0, "here", channel), channel


def give(slot: Slot, number: int, *tasks: int, function: Callable[[], None] = hear) -> None:
    calls = encode_calls([(task, 1, bytes(dump(((), {}))[0]), 0, b"") for task in tasks])
    run = Run(0, len(tasks), [1], number=number)
    slot.take(run, [b"", calls, dump(function)[0]])


def write(slot: Slot, to: int, what: str, run: int) -> None:
    slot.take(Message(to, 9, 0, 0, run), [b"", *dump(what)])


def test_a_message_waits_for_the_call_that_it_overtook() -> None:
    one, _ = slot()
    write(one, 5, "first", run=1)
    write(one, 5, "second", run=1)
    give(one, 1, 5)
    write(one, 5, "third", run=1)
    assert one.run_next()
    assert HEARD == [(9, "first"), (9, "second"), (9, "third")]


def test_a_message_for_a_call_that_has_ended_is_dropped() -> None:
    one, channel = slot()
    give(one, 1, 5)
    assert one.run_next()
    write(one, 5, "late", run=1)
    assert channel.results == [5]
    assert one._early == {}


def test_a_message_that_came_when_its_call_had_just_ended_is_not_for_the_next() -> None:
    one, channel = slot()
    give(one, 1, 5, 6, function=hear_letters)
    assert one.run_next()
    one.inbox.append((9, dump("late")))  # by a thread that had just seen the call run
    one.letters.append((9, dump("late")))
    assert one.run_next()
    assert HEARD == []
    assert channel.results == [5, 6]


def test_messages_for_a_call_that_could_not_begin_go_back_and_no_others_do() -> None:
    one, channel = slot()
    write(one, 5, "first", run=1)
    write(one, 5, "second", run=1)
    give(one, 1, 5)
    one.stopping = True
    assert one.run_next()
    assert channel.messages == [(5, 9, "first"), (5, 9, "second")]
    one.stopping = False
    write(one, 6, "unread", run=2)
    give(one, 2, 6, function=ignore)
    assert one.run_next()
    assert len(channel.messages) == 2


def test_where_others_were_is_forgotten_with_the_call_that_has_asked() -> None:
    one, _ = slot()
    give(one, 1, 5)
    one.take(Location(0, 8, 1, 1, 1), [b""])
    assert one.run_next()
    assert one._routes == {}


def test_message_for_missing_call_is_dropped_at_next_call() -> None:
    one, _ = slot()
    write(one, 5, "lost", run=2)
    give(one, 1, 6)
    assert 5 in one._early
    give(one, 2, 7)
    assert one._early == {}
    assert one._expected == {}


def test_finished_call_drops_its_early_messages() -> None:
    one, _ = slot()
    write(one, 5, "early", run=3)  # others came behind it meanwhile
    give(one, 1, 5)
    assert one.run_next()
    assert HEARD == [(9, "early")]
    give(one, 2, 6)
    give(one, 3, 7)
    assert one._early == one._expected == {}


def test_the_first_call_stays_where_none_is_running_for_it_may_be_written_to() -> None:
    one, channel = slot()
    give(one, 1, 5, 6, 7)
    write(one, 7, "for the last", run=1)
    assert one.give_back() == ([6], -1)
    write(one, 5, "for the first", run=0)
    while one.run_next():
        pass
    assert channel.results == [5, 7]
    assert HEARD == [(9, "for the first"), (9, "for the last")]
    give(one, 2, 8)
    one.drop()
    assert not one.run_next()


def test_an_agent_that_is_its_own_slot_begins_nothing_more_at_the_end(here: Path) -> None:
    inline = InlineSlot(
        SimpleNamespace(host="here", number=1, shortcut=None, cluster=""), 0, str(here)
    )  # type: ignore[arg-type]
    give(inline._slot, 1, 5, 6)
    inline.end(0)
    assert not inline._slot.run_next()


@pytest.fixture
def supervised() -> Iterator[tuple[SlotSockets, Writer, list[Any]]]:
    """A slot's sockets, what writes to them, and what the slot takes from them."""
    data, control = socket.socketpair(), socket.socketpair()
    before = signal.set_wakeup_fd(-1)
    sockets = SlotSockets(data[0].detach(), control[0].detach())
    taken: list[Any] = []
    takes: Any = SimpleNamespace(running=5, take=lambda envelope, _: taken.append(envelope))
    sockets.slot = takes
    with data[1], control[1]:
        yield sockets, Writer(data[1]), taken
    os.close(signal.set_wakeup_fd(before))
    links = [link.socket for link in sockets._links.values()]
    own = sockets._control, sockets._reader._socket, sockets._signals
    for one in (*links, *own, sockets._wake, sockets._watcher):
        one.close()  # type: ignore[attr-defined]


def test_a_late_wake_up_does_not_keep_the_watching_thread_from_its_looks(
    supervised: tuple[SlotSockets, Writer, list[Any]],
) -> None:
    """A thread that reads wakes it a moment after it has woken up by itself."""
    sockets, _, _ = supervised
    looks: list[int] = []
    sockets.slot.lock, sockets.slot.calls = threading.Lock(), deque()
    sockets.look = lambda: looks.append(1)
    watching = threading.Thread(target=sockets.watch)
    sockets._watcher.wake()
    watching.start()
    try:
        until(lambda: len(looks) == 3)
    finally:
        sockets.look = None
        sockets._control.shutdown(socket.SHUT_RDWR)
        watching.join()


def test_messages_of_a_slots_last_process_come_before_those_of_its_next(
    supervised: tuple[SlotSockets, Writer, list[Any]],
) -> None:
    sockets, writer, taken = supervised
    sent = [Message(5, number) for number in range(1, 5)]
    for messages in (sent[:2], sent[2:]):
        ours, theirs = socket.socketpair()
        writer.send([encode(Link(3))], [theirs.detach()])
        with ours:
            for message in messages:
                Writer(ours).send([encode(message)])
    assert sockets.until(lambda: len(taken) == 4 or None, 30.0)
    assert taken == sent


def test_a_task_that_has_opened_all_files_is_told_that_messages_may_be_missing(
    supervised: tuple[SlotSockets, Writer, list[Any]],
) -> None:
    sockets, writer, _ = supervised
    writer.send([encode(Link(3))])  # as if the kernel had found no room for the descriptor
    with pytest.raises(OSError, match="opened so many files"):
        sockets.until(lambda: None, 30.0)
    sockets.slot.running = 6
    assert sockets.until(lambda: None, 0.0) is None


def test_calls_that_are_on_their_way_are_given_back_too(
    supervised: tuple[SlotSockets, Writer, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets, writer, taken = supervised
    run = Run(0, 1, [], number=1)
    monkeypatch.setattr("encamp.slot.sockets.readable", lambda *_: writer.send([encode(run)]))
    slot: Any = sockets.slot
    slot.number, slot.give_back = 0, lambda: ([len(taken)], -1)
    received = list[Parts]()
    monkeypatch.setattr(sockets.control_writer, "send", received.append)
    sockets._recall(Recall(0, 7, 1))
    assert [decode(parts[0]) for parts in received] == [GivenBack(0, 7, [1], -1)]
    sockets._recall(Recall(0, 8, 1))
    assert len(taken) == 1
