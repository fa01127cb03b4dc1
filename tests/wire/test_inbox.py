"""Frames are opened and unbundled in order, and what is forged or unknown reaches no handler."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from encamp.errors import BadFrame
from encamp.wire.frames import Parts
from encamp.wire.inbox import Arrived, Inbox
from encamp.wire.outbox import Outbox
from encamp.wire.protocol import Bundle, End, Ping, Pong, encode

KEY = bytes(range(32))
ME, OTHER = 0, 1


class Network:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Parts] = []

    def send(self, to: int, parts: Parts) -> None:
        self.sent.append(parts)


class Received:
    """An inbox whose only sender is `OTHER`, and what its handlers got."""

    def __init__(self) -> None:
        self.network = Network()
        self.outbox = Outbox(self.network)
        self.heard: list[str] = []
        self.tickets: list[int] = []
        self.senders = {OTHER: "other"}
        self.inbox = Inbox[str](
            self.outbox, self.senders.get, heard=self.heard.append, in_order=_in_order
        )
        self.inbox.handlers = {Ping: self.ping}

    def ping(self, sender: str, envelope: Ping, parts: Parts) -> None:
        assert sender == "other"
        assert parts[1:] == [b"payload"]
        if envelope.ticket < 0:
            raise BadFrame("a ticket below zero")
        self.tickets.append(envelope.ticket)


def _in_order(handle: Callable[[Arrived], None], messages: Iterable[Arrived]) -> None:
    for message in messages:
        handle(message)


def ping(ticket: int) -> Parts:
    return [encode(Ping(ticket)), b"payload"]


def bundle(*messages: Parts) -> Parts:
    counts = [len(message) for message in messages]
    return [encode(Bundle(counts)), *(part for message in messages for part in message)]


def test_messages_of_a_frame_reach_their_handlers_in_order() -> None:
    it = Received()
    it.inbox.receive(OTHER, ping(1))
    it.inbox.receive(OTHER, bundle(ping(2), ping(3), ping(4)))
    assert it.tickets == [1, 2, 3, 4]
    assert it.heard == ["other"] * 2


def test_unknown_senders_and_kinds_are_ignored() -> None:
    it = Received()
    it.inbox.receive(7, ping(1))
    it.inbox.receive(OTHER, [encode(Pong(2))])
    it.inbox.receive(OTHER, bundle([encode(End())], ping(3)))
    assert it.tickets == [3]
    assert it.heard == ["other"] * 2


def test_a_message_of_a_sender_that_has_left_since_the_frame_arrived_is_ignored() -> None:
    it = Received()

    def leave(sender: str, envelope: Any, parts: Parts) -> None:
        it.senders.clear()

    it.inbox.handlers = {End: leave, Ping: it.ping}
    it.inbox.receive(OTHER, bundle(ping(1), [encode(End())], ping(2)))
    assert it.tickets == [1]


def test_a_forged_message_is_ignored_and_later_ones_of_its_frame_are_handled() -> None:
    it = Received()
    it.inbox.receive(OTHER, bundle(ping(-1), ping(2)))
    it.inbox.receive(OTHER, [b"noise"])
    assert it.tickets == [2]


def test_one_key_seals_both_directions() -> None:
    here, there = Received(), Received()
    here.inbox.use_key(KEY, OTHER)
    there.inbox.use_key(KEY, ME)
    here.outbox.send(ME, ping(1))
    here.outbox.send(ME, bundle(ping(2), ping(3)))
    frames = here.network.sent
    there.inbox.receive(OTHER, [*frames[0][:-1], bytes(16)])
    there.inbox.receive(OTHER, ping(9))
    assert (there.tickets, there.heard) == ([], [])
    for frame in frames:
        there.inbox.receive(OTHER, frame)
    assert there.tickets == [1, 2, 3]
    there.inbox.receive(OTHER, frames[0])  # a repeated frame
    assert there.tickets == [1, 2, 3]
